"""``pwm evaluate --video`` from the outside: films that open, show the episode, and take real time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image
from tests.end_to_end.tiny import ANALYTIC, HOPPER, trained

from pwm.analysis.plots.video import DEFAULT_FPS, MAX_FPS, captioned, encoder, film_run, frame_rate
from pwm.envs import dflex, dmc, gym
from pwm.envs.base import Renderable, VectorEnv
from pwm.envs.engines.opengl import PACKAGES, choose_backend
from pwm.errors import EnvError
from pwm.launch.cli import main

PENDULUM = ["env=gym", "env.id=Pendulum-v1"]
EPISODES = 3
# One for every kind of target.
DMC = ["walker-walk", "reacher-easy", "finger-turn-easy", "fish-swim"]


@pytest.fixture
def opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip where nothing can be drawn; what is chosen lasts for one test."""
    monkeypatch.setenv("MUJOCO_GL", "")
    try:
        choose_backend()
    except EnvError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def hopper_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("hopper"), *HOPPER, "general.epochs=1")


@pytest.fixture(scope="module")
def pendulum_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("pendulum"), *PENDULUM, "general.epochs=1")


@pytest.fixture(scope="module")
def analytic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("analytic"), *ANALYTIC, "general.epochs=1")


def evaluate(run: Path, video: Path) -> int:
    return main(["evaluate", str(run), "--episodes", str(EPISODES), "--video", str(video)])


def check_film(run: Path, video: Path, stride: int, shown: str) -> np.ndarray:
    """The film shows the first evaluated episode, whole; returns its frames."""
    evaluation = json.loads((run / "evaluation_best_policy.json").read_text())
    length = evaluation["lengths"][0]
    frames = iio.imread(video)
    assert len(frames) == -(-length // stride)
    assert f"episode of {length} steps, return {evaluation['returns'][0]:.1f}" in shown
    assert not [path for path in video.parent.iterdir() if path.name.endswith(".tmp")]
    # Neither black nor one colour, and something moves outside of the caption.
    assert frames.mean() > 40
    assert frames[0].std() > 5
    scene = frames[:, frames.shape[1] // 4 :].astype(int)
    assert (np.abs(scene[-1] - scene[0]) > 60).sum() > 100
    return frames


def test_mp4_of_a_robot(
    hopper_run: Path, tmp_path: Path, opengl: None, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "new" / "hopper.mp4"
    assert evaluate(hopper_run, video) == 0
    frames = check_film(hopper_run, video, 2, capsys.readouterr().out)
    assert frames.shape[1:] == (480, 640, 3)
    assert iio.immeta(video)["fps"] == pytest.approx(30.0)


def test_gif_of_a_robot(
    hopper_run: Path, tmp_path: Path, opengl: None, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "hopper.GIF"
    assert evaluate(hopper_run, video) == 0
    frames = check_film(hopper_run, video, 2, capsys.readouterr().out)
    assert frames.shape[1:] == (300, 400, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_film_of_a_gymnasium_task(
    suffix: str, pendulum_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / f"pendulum{suffix}"
    assert evaluate(pendulum_run, video) == 0
    frames = check_film(pendulum_run, video, 1, capsys.readouterr().out)
    assert frames.shape[1:] == ((500, 500, 3) if suffix == ".mp4" else (400, 400, 3))


def test_film_of_a_gymnasium_robot(tmp_path: Path, opengl: None) -> None:
    run = trained(tmp_path / "logs", "env=gym", "env.id=HalfCheetah-v5", "general.epochs=1")
    film = film_run([run], "final", tmp_path / "cheetah.mp4", 1, None, "cpu", None)
    frames = iio.imread(film.path)
    assert len(frames) == film.frames == film.length == 40
    assert frames.mean() > 20
    assert (frames[0] != frames[-1]).any()


@pytest.mark.parametrize(
    ("name", "words"),
    [("film.avi", ["film.avi", ".mp4 or .gif"]), ("film", [".mp4 or .gif"]), ("made.mp4", ["a folder"])],
)
def test_impossible_files(
    name: str, words: list[str], analytic_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "made.mp4").mkdir()
    assert evaluate(analytic_run, tmp_path / name) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not list(analytic_run.glob("evaluation_*.json"))


def test_one_run_only(analytic_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = tmp_path / "film.mp4"
    policies = [str(analytic_run / f"{name}_policy.pt") for name in ("best", "final")]
    assert main(["evaluate", *policies, "--video", str(video)]) == 2
    assert "one run; 2 were given" in capsys.readouterr().err
    assert not list(analytic_run.glob("evaluation_*.json"))


def test_tasks_without_pictures(
    analytic_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(analytic_run, tmp_path / "film.mp4") == 2
    assert "analytic_lqr cannot be drawn" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert not list(analytic_run.glob("evaluation_*.json"))


def test_missing_encoder(
    pendulum_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert evaluate(pendulum_run, tmp_path / "film.mp4") == 2
    assert 'pip install "flow-pwm[video]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_opengl(
    hopper_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "none-such")
    assert evaluate(hopper_run, tmp_path / "film.mp4") == 2
    message = capsys.readouterr().err
    assert PACKAGES in message
    assert "libegl1" in PACKAGES
    assert "libosmesa6" in PACKAGES
    assert "MUJOCO_GL=none-such" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("control_dt", "stride", "fps"),
    [(1 / 60, 2, 30.0), (0.05, 1, 20.0), (0.02, 1, 50.0), (0.01, 2, 50.0), (0.008, 3, 1 / 0.024)],
)
def test_films_take_real_time(control_dt: float, stride: int, fps: float) -> None:
    assert frame_rate(control_dt) == (stride, pytest.approx(fps))
    assert fps <= MAX_FPS
    assert stride * control_dt * fps == pytest.approx(1.0)


def test_steps_without_duration_have_a_frame_rate() -> None:
    assert frame_rate(0.0) == (1, DEFAULT_FPS)


@pytest.mark.parametrize("count", [1, 45])
def test_gifs_take_real_time(count: int, tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    with path.open("wb") as file, encoder(file, ".gif", 30.0) as append:
        for number in range(count):
            picture = np.full((60, 80, 3), 255, dtype=np.uint8)
            picture[number : number + 10, 20:40] = (200, 30, 30)
            append(picture)
    durations = []
    with Image.open(path) as gif:
        for number in range(getattr(gif, "n_frames", 1)):
            gif.seek(number)
            durations.append(gif.info["duration"])
    assert len(durations) == count
    assert sum(durations) == pytest.approx(1000 * count / 30.0, abs=5)


def test_the_caption_stays_in_its_corner() -> None:
    picture = np.full((480, 640, 3), 200, dtype=np.uint8)
    marked = captioned(picture, ["step     1234", "reward  -10.25", "return  2463.1"])
    assert picture.min() == 200
    rows, columns = np.nonzero((marked != picture).any(-1))
    assert 20 < rows.max() < 480 // 6
    assert 60 < columns.max() < 640 // 3


def renderable(name: str, num_envs: int = 2) -> VectorEnv:
    """A task by name; small."""
    if name == "pendulum":
        return gym.build(gym.Options("Pendulum-v1", episode_length=20), num_envs, "cpu", 0)
    if name in DMC:
        return dmc.build(dmc.Options(name, num_threads=1, episode_length=20), num_envs, "cpu", 0)
    return dflex.build(dflex.Options(name, num_threads=1, episode_length=20), num_envs, "cpu", 0)


def draw(env: Any, index: int) -> np.ndarray:
    assert isinstance(env, Renderable)
    return env.render(index)


@pytest.mark.parametrize("name", [*dflex.TASKS, *DMC, "pendulum"])
def test_drawing_shows_the_copy_and_changes_nothing(name: str, request: pytest.FixtureRequest) -> None:
    if name in DMC:
        pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    if name != "pendulum":
        request.getfixturevalue("opengl")
    drawn, plain = renderable(name), renderable(name)
    assert isinstance(drawn, Renderable)
    with pytest.raises(EnvError, match="start_rendering"):
        drawn.render(0)
    drawn.start_rendering()
    assert torch.equal(drawn.reset(7), plain.reset(7))
    first = draw(drawn, 0)
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert first.shape[2] == 3
    assert np.array_equal(draw(drawn, 0), first)
    assert not np.array_equal(draw(drawn, 1), first)
    action = torch.full((2, drawn.spec.act_dim), 0.5)
    for _ in range(6):
        ours, theirs = drawn.step(action), plain.step(action)
        second = draw(drawn, 0)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not np.array_equal(second, first)
    drawn.close()
    plain.close()


class Invisible(gymnasium.Env):
    """A valid task that makes no pictures."""

    metadata = {"render_modes": []}
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        return np.zeros(2, dtype=np.float32), 0.0, False, False, {}


@pytest.mark.filterwarnings("ignore")
def test_gymnasium_tasks_without_pictures() -> None:
    gymnasium.register("Invisible-v0", Invisible, max_episode_steps=5)
    try:
        env = gym.build(gym.Options("Invisible-v0"), 1, "cpu", 0)
        assert isinstance(env, Renderable)
        with pytest.raises(EnvError, match="Invisible-v0 has no render mode rgb_array"):
            env.start_rendering()
        env.close()
    finally:
        gymnasium.registry.pop("Invisible-v0")


def test_other_processes_are_replaced_by_copies_that_can_be_drawn() -> None:
    env = gym.build(gym.Options("Pendulum-v1", vectorization="async"), 2, "cpu", 0)
    plain = gym.build(gym.Options("Pendulum-v1"), 2, "cpu", 0)
    assert isinstance(env, Renderable)
    env.start_rendering()
    assert torch.equal(env.reset(3), plain.reset(3))
    assert draw(env, 1).shape == (500, 500, 3)
    env.close()
    plain.close()


def test_targets_are_drawn_where_they_are(opengl: None) -> None:
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    env: Any = renderable("reacher-easy")
    env.start_rendering()
    env.load_state_dict({**env.state_dict(), "qpos": torch.zeros(2, 2, dtype=torch.float64)})
    moved = env.state_dict()
    first, second = draw(env, 0), draw(env, 1)
    assert not np.array_equal(first, second)
    moved["target"][1] = moved["target"][0]
    env.load_state_dict(moved)
    assert np.array_equal(draw(env, 1), first)
    env.close()


def test_training_loads_nothing_that_draws() -> None:
    code = """
import sys, torch
from pwm.configuration.config import compose_config
from pwm.configuration import building
for overrides in (["env=dflex_hopper", "env.num_threads=1"], ["env=gym", "env.id=Pendulum-v1"]):
    env = building.build_env(compose_config([*overrides, "alg=pwm_small_h16"]), 2, 0, torch.device("cpu"))
    env.step(torch.zeros(2, env.spec.act_dim))
    env.close()
drawing = {"PIL", "imageio", "OpenGL", "pygame", "pwm.envs.engines.mujoco_camera", "pwm.analysis.plots.video"}
print(*sorted(drawing & set(sys.modules)))
"""
    source = Path(dflex.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(source)!r})\n{code}"],
        env={name: value for name, value in os.environ.items() if name != "MUJOCO_GL"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
