"""``pwm data collect`` and ``from-run``: from environments, policies and runs to data sets and back."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.end_to_end.tiny import ANALYTIC, trained

from pwm.checkpoints.policies import load_policy
from pwm.data.offline.dataset import OfflineData
from pwm.data.offline.verification import verify_store
from pwm.datasets import collection
from pwm.envs.task_table import task_names
from pwm.launch.cli import main
from pwm.runs.state_store import StateStore

METAWORLD = importlib.util.find_spec("metaworld") is not None


def collected(folder: Path, *settings: str, options: tuple[str, ...] = ()) -> int:
    return main(["data", "collect", *settings, f"to={folder}", *options])


def test_both_layouts_hold_identical_transitions(tmp_path: Path) -> None:
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    settings = ["tasks=pendulum-spin", "mix=0.5*random+0.5*ou", "episodes=4", "seed=5"]
    assert collected(tmp_path / "store", *settings, "envs=2") == 0
    assert collected(tmp_path / "files", *settings, "envs=2", options=("--layout", "published")) == 0
    assert main(["data", "convert", str(tmp_path / "files"), "--to", str(tmp_path / "back")]) == 0
    counts = {"pendulum-spin": {"segments": 4, "whole": 4, "transitions": 2000}}
    for name in ("store", "back"):
        assert verify_store(tmp_path / name).content["counts"] == counts
    first, second = (OfflineData(tmp_path / name, 3) for name in ("store", "back"))
    ranks = torch.arange(len(first))
    for a, b in zip(first.gather(ranks), second.gather(ranks), strict=True):
        assert torch.equal(a, b)
    # Correlated noise is smooth, uniform noise is not; they have two episodes each.
    action = OfflineData(tmp_path / "store", 500).gather(torch.arange(0, 2000, 500)).action
    change = action[..., 0].diff(dim=0).abs().mean(0)
    assert change[2:].max() < change[:2].min()


def test_a_killed_collection_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    settings = ["tasks=pendulum-spin", "mix=1*random+1*ou", "episodes=2"]
    assert collected(tmp_path / "whole", *settings) == 0
    with monkeypatch.context() as patch:
        real, calls = collection.whole_episodes, []

        def killed(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*arguments)

        patch.setattr(collection, "whole_episodes", killed)
        assert collected(tmp_path / "parts", *settings) == 130
    assert collected(tmp_path / "parts", *settings) == 0
    assert verify_store(tmp_path / "parts").digest == verify_store(tmp_path / "whole").digest
    assert collected(tmp_path / "parts", *settings, "seed=1") == 2


def test_policies_of_runs_collect_and_their_replay_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    run = trained(tmp_path / "logs", "env=dmc", "env.task=pendulum-spin", "env.num_threads=1")
    source = f"mix=1*random+3*{tmp_path / 'logs'}"
    assert collected(tmp_path / "d", "tasks=pendulum-spin", source, "episodes=4", "noise=0") == 0
    parts = verify_store(tmp_path / "d").content["plan"]
    assert [(part["policy"], part["episodes"]) for part in parts] == [("random", 1), ("best", 3)]
    # Without noise the actions are those of the policy in the observations that were stored.
    batch = OfflineData(tmp_path / "d", 500, padded=False).gather(torch.tensor([500]))
    agent, *_ = load_policy(run / "best_policy.pt", torch.device("cpu"))
    expected = agent.act(batch.obs[:-1, 0], deterministic=True)
    torch.testing.assert_close(batch.action[:, 0], expected, atol=1e-5, rtol=1e-5)
    assert collected(tmp_path / "e", "tasks=cup-spin", source) == 2
    assert "has no policy of dmc_cup-spin, but of dmc_pendulum-spin" in capsys.readouterr().err

    # The replay memory of the same run goes into the table's widths.
    assert main(["data", "from-run", str(run), "--to", str(tmp_path / "r")]) == 0
    files = verify_store(tmp_path / "r")
    assert files.layout.task_set == "mt30"
    replay = StateStore(run).load_replay()
    assert files.content["counts"]["pendulum-spin"]["transitions"] == len(replay)
    own = OfflineData(tmp_path / "r", 4, padded=False)
    ranks = torch.arange(len(replay))
    stored, there = own.gather(ranks), replay.gather(ranks)
    for a, b in zip(stored[:5], there[:5], strict=True):
        assert torch.equal(a, b)


def test_the_replay_of_any_run_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A buffer that overwrites, so that an episode without its beginning is in it.
    run = trained(tmp_path / "logs", *ANALYTIC, "alg.buffer_size=180", "env.episode_length=13")
    replay = StateStore(run).load_replay()
    assert replay.total_added > len(replay)
    assert main(["data", "from-run", str(run), "--to", str(tmp_path / "d")]) == 0
    files = verify_store(tmp_path / "d")
    ((name, counts),) = files.content["counts"].items()
    assert files.layout.task_set == ""
    assert (name, counts["transitions"]) == (files.layout.names[0], len(replay))
    assert 0 < counts["whole"] < counts["segments"]
    data = OfflineData(tmp_path / "d", 4)
    ranks = torch.arange(len(replay))
    for a, b in zip(data.gather(ranks)[:5], replay.gather(ranks)[:5], strict=True):
        assert torch.equal(a, b)
    assert data.sample(4, torch.Generator()).task is None
    segments = np.load(tmp_path / "d" / "000000" / "segments.npy")
    assert (segments["transitions"][segments["whole"] == 1] == 13).all()
    assert main(["data", "from-run", str(tmp_path / "nothing"), "--to", str(tmp_path / "e")]) == 2
    assert "nothing" in capsys.readouterr().err


@pytest.mark.skipif(METAWORLD, reason="metaworld is installed")
@pytest.mark.parametrize("tasks", ["mt80", "mw-reach"])
def test_without_its_package_no_task_of_metaworld_is_collected(
    tasks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if tasks == "mt80":
        pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    assert collected(tmp_path / "d", f"tasks={tasks}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "environment 'metaworld' needs metaworld" in line
    assert line.endswith('pip install "flow-pwm[metaworld]"')
    # Said before the other thirty tasks are collected.
    assert not (tmp_path / "d").exists()


@pytest.mark.skipif(not METAWORLD, reason="needs the extra 'metaworld'")
def test_tasks_of_both_suites_are_collected_in_both_layouts(tmp_path: Path) -> None:
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    settings = ["tasks=pendulum-spin,mw-reach", "policy=random", "episodes=2", "envs=2", "seed=3"]
    assert collected(tmp_path / "store", *settings) == 0
    files = verify_store(tmp_path / "store")
    assert files.layout.task_set == "mt80"
    assert files.content["counts"] == {
        "pendulum-spin": {"segments": 2, "whole": 2, "transitions": 1000},
        "mw-reach": {"segments": 2, "whole": 2, "transitions": 200},
    }
    assert collected(tmp_path / "files", *settings, options=("--layout", "published")) == 0
    shapes = [torch.load(tmp_path / "files" / f"chunk_{n}.pt")["obs"].shape for n in range(2)]
    # Episodes of dm_control are cut; an episode of Meta-World is a row.
    assert shapes == [(10, 101, 39), (2, 101, 39)]
    assert main(["data", "convert", str(tmp_path / "files"), "--to", str(tmp_path / "back")]) == 0
    assert verify_store(tmp_path / "back").content["counts"] == {
        "pendulum-spin": {"segments": 10, "whole": 0, "transitions": 1000},
        "mw-reach": {"segments": 2, "whole": 2, "transitions": 200},
    }
    first, second = (OfflineData(tmp_path / name, 1) for name in ("store", "back"))
    ranks = torch.arange(len(first))
    for a, b in zip(first.gather(ranks), second.gather(ranks), strict=True):
        assert torch.equal(a, b)
    # Object and goal are drawn anew in every episode; actions are of the width of the task.
    reach = OfflineData(tmp_path / "store", 100, ["mw-reach"], padded=False).gather(torch.tensor([0, 100]))
    assert reach.obs.shape == (101, 2, 39)
    assert reach.action.shape == (100, 2, 4)
    goal = reach.obs[..., -3:]
    assert (goal == goal[:1]).all()
    assert not torch.equal(goal[0, 0], goal[0, 1])
    # The frame of the simulator step before is in every observation.
    assert not torch.equal(reach.obs[1, :, :18], reach.obs[1, :, 18:36])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tasks=mt30"], "to= is missing"),
        (["to=x"], "tasks= is missing"),
        (["tasks=walker-wlk", "to=x"], "did you mean 'walker-walk'"),
        (["tasks=mt30", "to=x", "episodes=0"], "episodes=0"),
        (["tasks=mt30", "to=x", "episodes=many"], "episodes=many: int expected"),
        (["tasks=mt30", "to=x", "envs=0"], "envs=0"),
        (["tasks=mt30", "to=x", "seed=-1"], "seed=-1"),
        (["tasks=mt30", "to=x", "noise=-1"], "noise=-1"),
        (["tasks=mt30", "to=x", "speed=1"], "'speed=1' is not KEY=VALUE"),
        (["tasks=mt30", "to=x", "to=y"], "to= is given twice"),
        (["tasks=mt30", "to=x", "policy=best"], "policy=best; choose one of"),
        (["tasks=mt30", "to=x", "policy=checkpoint"], "belong together"),
        (["tasks=mt30", "to=x", "policy=ou", "mix=1*ou"], "leave out policy="),
        (["tasks=mt30", "to=x", "mix=0.5random"], "'0.5random' is not WEIGHT"),
        (["tasks=mt30", "to=x", "mix=0*random+1*ou"], "'0*random' is not WEIGHT"),
        (["tasks=mt30", "to=x", "mix=1*nowhere"], "'nowhere': no such folder"),
    ],
)
def test_wrong_settings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "collect", *settings]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_every_task_of_mt30_is_collected(tmp_path: Path) -> None:
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    assert collected(tmp_path / "d", "tasks=mt30", "episodes=1") == 0
    counts = verify_store(tmp_path / "d").content["counts"]
    assert set(counts) == set(task_names("dm_control"))
    assert all(count["whole"] == 1 for count in counts.values())
