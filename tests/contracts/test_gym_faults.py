"""Whatever an environment raises, draws at random or is called: one sentence, one stream, one name."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import psutil
import pytest
import torch
from tests.contracts.odd_envs import LENGTH, Drawing, Reseeding
from tests.contracts.odd_rollouts import N, make, rollout, same

from pwm.envs import gym
from pwm.envs.gym.processes import PATIENCE
from pwm.envs.gym.random_streams import CopyStream, borrowed_globals
from pwm.errors import EnvError

# --- faults of the environment --------------------------------------------------------------------

SENTENCES = {
    "text": r"ValueError: size must be at least 2 \(odd_envs\.py, line \d+\)",
    "none": r"AssertionError \(odd_envs\.py, line \d+\)",
    "type": r"TypeError: unsupported operand \(odd_envs",
    "key": r"KeyError: 'speed'",
    "exit": r"SystemExit: 0",
    "import": r"ImportError: cannot import name 'wheel' \(odd_envs\.py, line \d+\)$",
    "gymnasium": r"Error: no wheels \(odd_envs\.py, line \d+\)$",
    "missing module": r"No module named 'wheels_kit'",
    "unpicklable": r"Unpicklable: two words",
}


@pytest.mark.parametrize("where", ["constructor", "reset", "step"])
@pytest.mark.parametrize("error", SENTENCES)
def test_whatever_is_raised_becomes_one_sentence(
    error: str, where: str, mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    subject = "needs|cannot be made" if where == "constructor" else f"{where} of environment 0 raised"
    with pytest.raises(EnvError, match=rf"^OddFaulty-v0:? ({subject}).*{SENTENCES[error]}") as caught:
        rollout(make("Faulty", mode, where=where, error=error), 4)
    assert "\n" not in str(caught.value)
    # Processes are silent, too.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "package"), [("missing module", "wheels-kit"), ("missing part", r"swig 'gymnasium\[box2d\]'")]
)
def test_missing_packages_come_with_the_command_that_installs_them(
    error: str, package: str, mode: str
) -> None:
    with pytest.raises(EnvError, match=rf"^OddFaulty-v0 needs a missing package.*pip install {package}$"):
        make("Faulty", mode, where="constructor", error=error)


def test_a_fault_while_closing_is_a_warning() -> None:
    env = make("Faulty", where="close", error="text")
    rollout(env, 2)
    with pytest.warns(
        RuntimeWarning, match="^OddFaulty-v0: close raised ValueError: size must be at least 2"
    ):
        env.close()


def test_copies_share_no_arguments(mode: str) -> None:
    env = make("Changing", mode, goals=[1.0])
    assert env.reset()[:, 0].tolist() == [2.0] * N
    env.close()


def wait_for_the_end_of(processes: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(number) for number in processes):
        assert time.monotonic() < deadline, f"one of {processes} still runs"
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["program", "fork"])
def test_processes_of_an_environment_end_when_it_closes_them(kind: str, mode: str) -> None:
    env = make("Simulator", mode, kind=kind)
    running = [int(number) for number in env.reset()[:, 0]]
    assert all(psutil.pid_exists(number) for number in running)
    rollout(env, 2)
    begun = time.monotonic()
    env.close()
    assert time.monotonic() - begun < PATIENCE / 2
    wait_for_the_end_of(running, 0.0)


def test_environments_are_closed_when_the_process_they_serve_is_killed() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def serve() -> None:
        env = make("Simulator", "async", num_envs=2, kind="program", pause=1.0)
        theirs.send([int(number) for number in env.reset()[:, 0]])
        # In the middle of a step.
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        rollout(env, 2)

    process = context.Process(target=serve)
    process.start()
    running = ours.recv()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    wait_for_the_end_of(running, 20.0)


def test_spaces_that_cannot_be_sent_are_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    rollout(make("Hidden"), 1)
    with pytest.raises(
        EnvError, match=r"^OddHidden-v0: sending its spaces .*env\.vectorization=async.* raised .*Hidden"
    ):
        make("Hidden", "async")
    assert capfd.readouterr() == ("", "")


def test_arguments_that_the_constructor_refuses_are_named(mode: str) -> None:
    with pytest.raises(
        EnvError, match=r"^OddOdd-v0 does not accept env.kwargs=\{'sise': 2\}: TypeError: .*'sise'$"
    ):
        make("Odd", mode, sise=2)


def test_a_process_that_dies_is_named() -> None:
    env = make("Dying", "async")
    with pytest.raises(
        EnvError, match=r"^OddDying-v0: the process of environments 0 to 1 died with exit code 3"
    ):
        rollout(env, 2)
    env.close()


def test_closed_environments_leave_no_process() -> None:
    env = make("Odd", "async")
    running = list(env._env._processes)
    assert [process.is_alive() for process in running] == [True, True]
    env.close()
    assert [process.exitcode for process in running] == [0, 0]
    env.close()


# --- random streams -------------------------------------------------------------------------------


@pytest.fixture
def other_draws() -> None:
    """Another state of every global generator than other tests find."""
    random.seed()
    np.random.seed()  # noqa: NPY002
    torch.seed()


@pytest.mark.parametrize("draw", Drawing.DRAWS)
def test_the_same_seed_gives_the_same_numbers_from_any_generator(draw: str, other_draws: None) -> None:
    runs = []
    for mode in ("sync", "async", "sync"):
        env = make("Drawing", mode, seed=5, draw=draw)
        first = rollout(env)
        env.reset(9)
        runs.append([*first, *rollout(env)])
        random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
        env.close()
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    other = make("Drawing", seed=6, draw=draw)
    assert not same(runs[0][: 2 * LENGTH], rollout(other))
    # Copies differ from each other, and from themselves in later episodes.
    assert len({float(value) for step in runs[0] for value in step.obs[:, 1]}) > LENGTH


@pytest.mark.parametrize("kind", Reseeding.SEEDS)
def test_the_same_seed_gives_the_same_numbers_where_no_seed_is_handed_on(kind: str) -> None:
    runs = []
    for mode in ("sync", "async", "sync"):
        env = make("Reseeding", mode, seed=5, kind=kind)
        runs.append(rollout(env, 3 * LENGTH))
        env.close()
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    assert not same(runs[0], rollout(make("Reseeding", seed=6, kind=kind), 3 * LENGTH))
    goals = torch.stack([step.obs[:, 1] for step in runs[0]])
    # Three episodes of three copies: everyone has a goal of its own.
    assert len(goals.unique()) >= 9


def seeders() -> list[object]:
    return [random.seed, random.Random.seed, np.random.seed, np.random.default_rng, np.random.RandomState]


def test_functions_that_take_seeds_are_as_before() -> None:
    before = seeders()
    env = make("Reseeding", kind="numpy")
    rollout(env)
    assert seeders() == before
    with pytest.raises(EnvError, match="size must be"):
        rollout(make("Faulty", where="step", error="text"))
    assert seeders() == before
    # They ask the operating system again, whatever was drawn from before.
    fresh = set()
    for _ in range(2):
        random.seed(0)
        fresh |= {np.random.default_rng().random(), random.Random().random()}
    assert len(fresh) == 4


def test_seeds_that_are_given_are_kept() -> None:
    expected = [random.Random("a").random(), random.Random(3).random(), np.random.default_rng(3).random()]
    random.seed(5, 1)
    expected.append(random.random())
    with borrowed_globals():
        found = [random.Random("a").random(), random.Random(3).random(), np.random.default_rng(3).random()]
        random.seed(5, 1)
        assert [*found, random.random()] == expected


@pytest.mark.parametrize("draw", ["python", "numpy", "torch"])
def test_copies_do_not_depend_on_how_many_there_are(draw: str) -> None:
    few, many = make("Drawing", draw=draw, num_envs=1), make("Drawing", draw=draw, num_envs=5)
    unit = torch.zeros(5, 2)
    for _ in range(LENGTH):
        assert torch.equal(few.step(unit[:1]).obs, many.step(unit).obs[:1])


@pytest.mark.parametrize("draw", Drawing.DRAWS)
def test_the_process_keeps_its_own_streams(draw: str) -> None:
    def drawn() -> list[float]:
        # Normal numbers come in pairs, of which generators keep one for the next call.
        normal = [random.gauss(0, 1), np.random.randn(), float(torch.randn(()))]  # noqa: NPY002
        return [*normal, random.random(), np.random.random(), float(torch.rand(()))]  # noqa: NPY002

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    seed()
    expected = [drawn(), drawn(), drawn()]
    seed()
    found = [drawn()]
    env = make("Drawing", draw=draw)
    found.append(drawn())
    rollout(env)
    assert [*found, drawn()] == expected


def test_the_stream_of_a_copy_is_part_of_its_state() -> None:
    env, other = (gym.build(gym.Options("Pendulum-v1"), 2, "cpu", seed) for seed in (1, 2))
    other.load_state_dict(env.state_dict())
    for mine, its in zip(env._env.streams, other._env.streams, strict=True):
        assert mine.state() == its.state()
        assert mine.state() != CopyStream(0).state()


def test_environments_of_gymnasium_are_not_asked_for_global_draws() -> None:
    env = gym.build(gym.Options("Pendulum-v1"), 1, "cpu", 0)
    assert not env._env._draws
    assert make("Odd")._env._draws


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HalfCheetah-v3", r"use env\.id=HalfCheetah-v5$"),
        ("Hopper-v2", r"use env\.id=Hopper-v5$"),
        ("Pusher-v4", r"use env\.id=Pusher-v5$"),
        ("Humanoid-v1", r"use env\.id=Humanoid-v5$"),
        ("Pendulum-v0", r"use env\.id=Pendulum-v1$"),
        ("MountainCarContinuous-v9", r"Close matches: MountainCarContinuous-v0"),
        ("FetchReach-v4", r"gymnasium_robotics:FetchReach-v4"),
        ("dm_control/cartpole-swingup-v0", r"shimmy:dm_control/cartpole-swingup-v0"),
        (
            "no_such_module:Thing-v0",
            r"no module 'no_such_module'.*working directory.*pip install no-such-module$",
        ),
        ("no_such.part:Thing-v0", r"no module 'no_such'"),
        ("json:Thing-v0", r"Environment `Thing` doesn't exist"),
        ("a:b:C-v0", r"write module:Id"),
        (":C-v0", r"write module:Id"),
        ("not an id", r"not an id"),
    ],
)
def test_ids_that_cannot_be_made_say_which_to_use(name: str, words: str, mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EnvError, match=words) as caught:
            gym.build(gym.Options(name, vectorization=mode), 1, "cpu", 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("Pendulum-v1", "gym_Pendulum-v1"),
        ("lab/Point-v0", "gym_lab_Point-v0"),
        ("my_env:Point-v0", "gym_my_env-Point-v0"),
        ("other_env:Point-v0", "gym_other_env-Point-v0"),
        ("my.package.envs:lab/Point-v0", "gym_my.package.envs-lab_Point-v0"),
        ("shimmy:dm_control/walker-walk-v0", "gym_shimmy-dm_control_walker-walk-v0"),
    ],
)
def test_task_names_are_fit_for_folders(name: str, task: str) -> None:
    assert gym.Options(name).task_name == task


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for modules, of which nothing is left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = dict(gymnasium.registry)
    yield tmp_path
    gymnasium.registry.clear()
    gymnasium.registry.update(known)
    for module in tmp_path.glob("*.py"):
        sys.modules.pop(module.stem, None)


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_every_module_has_its_own_environment_of_an_id(working_directory: Path, mode: str) -> None:
    for number, module in enumerate(("first", "second")):
        (working_directory / f"{module}_points.py").write_text(
            "import gymnasium\nfrom tests.contracts.odd_envs import Constant\n"
            "def point(render_mode=None):\n"
            f"    return Constant([{number}.0, 0.0, 0.0])\n"
            "gymnasium.register('OddPoint-v0', point, max_episode_steps=9)\n"
        )
    for number, module in ((0, "first"), (1, "second"), (0, "first"), (1, "second")):
        env = gym.build(gym.Options(f"{module}_points:OddPoint-v0", vectorization=mode), 2, "cpu", 0)
        assert env.spec.name == f"gym_{module}_points-OddPoint-v0"
        assert env.reset()[:, 0].tolist() == [number, number]
        env.close()


@pytest.mark.parametrize(
    "drawn",
    ["random.random()", "np.random.random()", "np.random.default_rng().random()", "Random().random()"],
)
def test_what_a_module_draws_is_seeded(drawn: str, working_directory: Path) -> None:
    (working_directory / "drawing_points.py").write_text(
        "import random\nfrom random import Random\nimport gymnasium\nimport numpy as np\n"
        "from tests.contracts.odd_envs import Constant\n"
        f"DRAWN = {drawn}\n"
        "def point(render_mode=None):\n"
        "    return Constant([DRAWN, np.random.random(), 0.0])\n"
        "gymnasium.register('OddPoint-v0', point, max_episode_steps=9)\n"
    )
    found = {}
    for mode, seed in (("sync", 1), ("async", 1), ("sync", 2)):
        sys.modules.pop("drawing_points", None)
        gymnasium.registry.pop("OddPoint-v0", None)
        env = gym.build(gym.Options("drawing_points:OddPoint-v0", vectorization=mode), 2, "cpu", seed)
        found[mode, seed] = env.reset()
        env.close()
    assert torch.equal(found["sync", 1], found["async", 1])
    assert not torch.equal(found["sync", 1][:, 0], found["sync", 2][:, 0])
