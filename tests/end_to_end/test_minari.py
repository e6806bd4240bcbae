"""``pwm data convert`` of Minari data sets that the package itself wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tests.end_to_end.test_cli_errors import the_message

from pwm.data.offline.arrays import read_segments
from pwm.data.offline.dataset import OfflineData
from pwm.data.offline.verification import verify_store
from pwm.launch.cli import main

minari = pytest.importorskip("minari", reason="needs the extra 'minari'")
pytest.importorskip("h5py", reason="needs the extra 'minari'")

# Bounds that are no unit box, and differ.
LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)


class Walk(gymnasium.Env):
    """Terminates when the sum of its actions passes 50; what it observes is noise of two rows."""

    observation_space = spaces.Box(-np.inf, np.inf, (2, 2), np.float64)
    action_space = spaces.Box(LOW, HIGH, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.total = 0.0
        return self.np_random.normal(size=(2, 2)), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        self.total += float(action.sum())
        return self.np_random.normal(size=(2, 2)), float(action[0]), self.total > 50, False, {}


# By name, because a data set keeps it.
gymnasium.register("MinariWalk-v0", f"{__name__}:Walk", max_episode_steps=8)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where Minari keeps its data sets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def recorded(name: str = "walks/test-v0", episodes: int = 6) -> Any:
    """A data set of random actions in whole episodes."""
    env = gymnasium.make("MinariWalk-v0")
    env.action_space.seed(0)
    buffers = []
    for episode in range(episodes):
        observations, steps = [env.reset(seed=episode)[0]], []
        while not steps or not any(steps[-1][2:]):
            action = env.action_space.sample()
            observation, *rest, _ = env.step(action)
            observations.append(observation)
            steps.append((action, *rest))
        names = ("actions", "rewards", "terminations", "truncations")
        columns = dict(zip(names, map(list, zip(*steps)), strict=True))
        buffers.append(minari.data_collector.EpisodeBuffer(observations=observations, **columns))
    return minari.create_dataset_from_buffers(name, buffers, env=env)


def batched(space: spaces.Space, count: int) -> Any:
    """Samples of a space, as Minari keeps them."""
    if isinstance(space, spaces.Dict):
        return {key: batched(part, count) for key, part in space.spaces.items()}
    return [space.sample() for _ in range(count)]


def written(name: str, observation: spaces.Space, action: spaces.Space, **changes: Any) -> None:
    """A data set of one episode of four steps, made of arrays; ``changes`` replace some of them."""
    arrays = {
        "observations": batched(observation, 5),
        "actions": [action.sample() for _ in range(4)],
        "rewards": [0.0, 1.0, 2.0, 3.0],
        "terminations": [False] * 4,
        "truncations": [False, False, False, True],
    }
    buffer = minari.data_collector.EpisodeBuffer(**(arrays | changes))
    minari.create_dataset_from_buffers(name, [buffer], observation_space=observation, action_space=action)


def converted(target: Path, *arguments: str) -> int:
    return main(["data", "convert", *arguments, "--to", str(target)])


BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


@pytest.mark.parametrize("by", ["id", "folder", "inner folder"])
def test_transitions_are_those_of_the_package(by: str, tmp_path: Path, root: Path) -> None:
    source = recorded()
    name = {"id": "walks/test-v0", "folder": str(root / "walks" / "test-v0")}
    assert converted(tmp_path / "d", name.get(by, str(root / "walks" / "test-v0" / "data"))) == 0
    files = verify_store(tmp_path / "d")
    (task,) = files.layout.tasks
    assert (task.name, task.obs_dim, task.action_dim, task.episode_length) == ("gym_MinariWalk-v0", 4, 2, 8)
    episodes = list(source.iterate_episodes())
    data = OfflineData(tmp_path / "d", 8, padded=False)
    assert len(data) == sum(map(len, episodes))
    start, ends = 0, set()
    for episode, segment in zip(
        episodes, read_segments(tmp_path / "d" / "000000" / "segments.npy"), strict=True
    ):
        batch, steps = data.gather(torch.tensor([start])), len(episode)
        assert batch.valid[:, 0].tolist() == [True] * steps + [False] * (8 - steps)
        obs = episode.observations.reshape(steps + 1, 4).astype(np.float32)
        np.testing.assert_array_equal(batch.obs[: steps + 1, 0].numpy(), obs)
        np.testing.assert_array_equal(batch.reward[:steps, 0].numpy(), episode.rewards.astype(np.float32))
        np.testing.assert_array_equal(batch.terminated[:steps, 0].numpy(), episode.terminations)
        # As the adapter of Gymnasium's environments maps them back.
        share = (batch.action[:steps, 0].numpy().astype(np.float64) + 1) / 2
        np.testing.assert_allclose(LOW + share * (HIGH - LOW), episode.actions, atol=1e-5)
        assert segment["whole"] == 1
        ends.add((bool(episode.terminations[-1]), bool(episode.truncations[-1])))
        start += steps
    assert ends >= {(True, False), (False, True)}


def test_data_sets_of_one_task_go_together_and_an_interruption_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pwm.datasets import minari_conversion

    recorded("walks/a-v0", 4)
    recorded("walks/b-v0", 3)
    monkeypatch.setattr(minari_conversion, "SHARD_STEPS", 16)
    sources = ["walks/a-v0", "walks/b-v0", "--task", "walking"]
    assert converted(tmp_path / "whole", *sources) == 0
    with monkeypatch.context() as patch:
        block, calls = minari_conversion._block, []

        def killed(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return block(*arguments)

        patch.setattr(minari_conversion, "_block", killed)
        assert converted(tmp_path / "parts", *sources) == 130
    assert converted(tmp_path / "parts", *sources) == 0
    files = verify_store(tmp_path / "parts")
    assert files.digest == verify_store(tmp_path / "whole").digest
    assert files.content["counts"]["walking"]["segments"] == 7
    assert converted(tmp_path / "parts", "walks/a-v0") == 2


def test_an_episode_without_an_end_is_not_whole(tmp_path: Path) -> None:
    written("cut-v0", BOX, BOX, truncations=[False] * 4)
    written("both-v0", BOX, BOX, terminations=[False, False, False, True])
    assert converted(tmp_path / "d", "cut-v0", "both-v0", "--task", "odd") == 0
    assert verify_store(tmp_path / "d").content["counts"]["odd"]["whole"] == 1
    batch = OfflineData(tmp_path / "d", 4, padded=False).gather(torch.tensor([0, 4]))
    # Where both come at once, termination counts.
    assert batch.terminated.T.tolist() == [[False] * 4, [False] * 3 + [True]]


def test_a_task_of_the_table_gets_its_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reach = spaces.Box(-np.inf, np.inf, (39,), np.float64)
    written("reach-v0", reach, spaces.Box(-1.0, 1.0, (4,), np.float32))
    assert converted(tmp_path / "d", "reach-v0", "--task", "mw-reach") == 0
    files = verify_store(tmp_path / "d")
    assert files.layout.task_set == "mt80"
    assert files.content["counts"] == {"mw-reach": {"segments": 1, "whole": 1, "transitions": 4}}
    capsys.readouterr()
    assert converted(tmp_path / "e", "reach-v0", "--task", "walker-walk") == 2
    assert "walker-walk has observations and actions of width 24 and 6" in the_message(capsys)


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (spaces.Discrete(3), BOX, "observation space Discrete(3); only a Box"),
        (spaces.Dict(a=BOX), BOX, "observation space Dict('a': Box"),
        (BOX, spaces.Discrete(2), "action space Discrete(2); only continuous (Box)"),
        (BOX, spaces.Box(-np.inf, np.inf, (1,), np.float32), "unbounded actions"),
    ],
)
def test_other_spaces_are_refused(
    observation: Any, action: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written("odd-v0", observation, action)
    assert converted(tmp_path / "d", "odd-v0", "--task", "odd") == 2
    message = the_message(capsys)
    assert "odd-v0 has" in message
    assert words in message
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"terminations": [False, True, False, False]}, "episode 0 ends at step 1 and goes on until step 3"),
        ({"truncations": [True, False, False, True]}, "episode 0 ends at step 0"),
        (
            {"actions": [np.full(3, 1.5, np.float32)] * 4},
            "step 0: action [1.5 1.5 1.5] is outside the bounds",
        ),
        ({"rewards": [0.0, 1.0, float("nan"), 0.0]}, "segment 0 (odd), step 2: reward is not finite"),
    ],
)
def test_episodes_that_cannot_be_are_refused(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written("odd-v0", BOX, BOX, **changes)
    assert converted(tmp_path / "d", "odd-v0", "--task", "odd") == 2
    assert words in the_message(capsys)


def test_what_is_missing_is_said(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written("odd-v0", BOX, BOX)
    for arguments, words in (
        (["odd-v0"], "odd-v0 names no environment; say with --task"),
        (["other-v0"], f"other-v0: no such file or folder, nor a Minari data set in {root}"),
        (["odd-v0", "--task", "odd", "--mask-padding"], "--tasks and --mask-padding are for TD-MPC2's files"),
        (["odd-v0", str(tmp_path), "--task", "odd"], "convert them apart"),
        ([str(tmp_path), "--task", "odd"], "--task is for Minari data sets"),
    ):
        assert converted(tmp_path / "d", *arguments) == 2
        assert words in the_message(capsys)
    # Without the spaces, the package would run what the file names to learn them.
    metadata = root / "odd-v0" / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({k: v for k, v in content.items() if k != "action_space"}))
    assert converted(tmp_path / "d", "odd-v0", "--task", "odd") == 2
    assert "has no action_space" in the_message(capsys)
    metadata.write_text(json.dumps(content))
    file = metadata.with_name("main_data.hdf5")
    file.write_bytes(file.read_bytes()[:600])
    assert converted(tmp_path / "d", "odd-v0", "--task", "odd") == 2
    assert "is damaged" in the_message(capsys)
