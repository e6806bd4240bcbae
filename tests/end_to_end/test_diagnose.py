"""``pwm diagnose`` from the outside, on tiny real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.end_to_end.tiny import ANALYTIC, FLOW, HOPPER, contents, trained

from pwm.checkpoints.policies import load_policy
from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED, record_episodes
from pwm.launch.cli import main

FILES = {"diagnosis.json", "diagnosis.txt", "diagnosis_model.png", "diagnosis_smoothness.png"}
RUNS = {
    "mlp": [*HOPPER, "dynamics=mlp", "alg.gamma=0.9"],
    "flow": [*HOPPER, *FLOW, "alg.gamma=0.9"],
    "observations": [*HOPPER, *FLOW, "alg.gamma=0.9", "alg.latents=observations"],
    # Most episodes are one step long: hardly anything to look at.
    "short": [*ANALYTIC, "env.task=counting", "env.episode_length=5", "env.episode_lengths=[1,3,1,5]"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders by name."""
    return {
        name: trained(tmp_path_factory.mktemp(name), *changes, "general.epochs=1")
        for name, changes in RUNS.items()
    }


@pytest.fixture
def flow_run(runs: dict[str, Path]) -> Path:
    return runs["flow"]


def no_such_number(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def diagnosis(folder: Path) -> dict[str, Any]:
    """Contents of ``diagnosis.json``, strictly read."""
    return json.loads((folder / "diagnosis.json").read_text(), parse_constant=no_such_number)


@pytest.mark.parametrize("name", RUNS)
def test_summary_figures_and_pictures(
    name: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs[name]
    before = set(contents(run))
    assert main(["diagnose", str(run), "--episodes", "5"]) == 0
    printed = capsys.readouterr().out
    assert set(contents(run)) - before == FILES
    assert (run / "diagnosis.txt").read_text() == printed
    for path in run.glob("diagnosis_*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 800
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50

    found = diagnosis(run)
    kind = found["dynamics"]
    assert (found["integration"] is not None) == (kind == "flow")
    assert ("not applicable" in printed) == (kind != "flow")
    assert len(found["episodes"]["returns"]) == 5
    assert found["evaluation_seed"] == HELD_OUT_SEED
    assert found["policy"] == str(run / "best_policy.pt")
    gradient = found["actor_gradient"]
    assert (
        gradient["start_states"]
        == load_policy(run / "best_policy.pt", torch.device("cpu"))[1].alg.actor_batch_size
    )
    assert gradient["variance"] > 0
    assert gradient["direction"] == pytest.approx(1.0, abs=0.05)
    gains = found["smoothness"]["open_loop"]["gain"]["median"]
    assert all(gain >= 0 for gain in gains)
    if name == "short":
        assert found["open_loop"] is found["return_gap"] is None
        # Half of every episode, rounded up.
        assert found["value_calibration"]["states"] == 1 + 2 + 1 + 3 + 1
        assert printed.count("too short") == 2
        assert len(gains) == 1
        return
    assert len(gains) == found["horizon"] == 4
    steps = found["open_loop"]["steps"]
    assert 4 < steps <= 64
    starts, share = found["open_loop"]["windows"], found["open_loop"]["share"]
    assert f"  from {starts} starts, among the {share:.0%} of states that are followed by {steps} " in printed
    assert ("one step scores otherwise than under open-loop error" in printed) == (kind == "flow")
    assert len(found["open_loop"]["latent_error"]) == len(found["return_gap"]["rewards"]["realised"]) == steps
    assert found["value_calibration"]["states"] > 10
    if kind == "flow":
        orders = {name: method["order"] for name, method in found["integration"]["methods"].items()}
        assert orders == pytest.approx({"euler": 1, "heun": 2, "rk4": 4}, abs=0.5)
    sums = found["open_loop"]["groups"]
    if name == "observations":
        assert sums is None
        return
    assert (sums["min"][0], sums["max"][0]) == pytest.approx((1.0, 1.0), abs=1e-5)
    # Only what has no SimNorm on its output leaves the simplex.
    assert (sums["max"][-1] - sums["min"][-1] > 1e-4) == (kind == "flow")


def test_seed_checkpoint_and_output_can_be_chosen(flow_run: Path, tmp_path: Path) -> None:
    before = contents(flow_run)
    command = ["diagnose", str(flow_run), "--checkpoint", "final", "--episodes", "2"]
    folders = [tmp_path / "new" / name for name in "ab"]
    for folder in folders:
        assert main([*command, "--seed", "5", "--output", str(folder)]) == 0
    assert contents(flow_run) == before
    first, again = (contents(folder) for folder in folders)
    assert set(first) == FILES
    assert first == again
    found, path = diagnosis(folders[0]), flow_run / "final_policy.pt"
    assert found["policy"] == str(path)
    assert found["evaluation_seed"] == 5
    agent, config, _, _ = load_policy(path, torch.device("cpu"))
    assert record_episodes(agent, config, 2, 5)[1].returns == found["episodes"]["returns"]
    assert record_episodes(agent, config, 2, 6)[1].returns != found["episodes"]["returns"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--episodes", "0"], ["episodes=0", "at least 1"]),
        (["--seed", "-1"], ["seed=-1", "at least 0"]),
        (["--seed", str(2**32)], [f"seed={2**32}", "2**32"]),
        (["--device", "gpu"], ["'gpu'"]),
        (["--output", "{run}/config.yaml"], ["config.yaml", "must be a folder"]),
        (["--output", "{run}/config.yaml/below"], ["config.yaml/below", "cannot be written to"]),
    ],
    ids=str,
)
def test_impossible_requests(
    arguments: list[str], words: list[str], flow_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(flow_run)
    assert main(["diagnose", str(flow_run), *(a.format(run=flow_run) for a in arguments)]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert contents(flow_run) == before


def test_a_run_without_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new"
    for run in (tmp_path, tmp_path / "nowhere"):
        assert main(["diagnose", str(run), "--checkpoint", "final", "--output", str(output)]) == 2
        assert "final_policy.pt" in capsys.readouterr().err
    assert not output.exists()


def test_a_damaged_checkpoint_is_refused(
    flow_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "policy.pt"
    damaged.write_bytes((flow_run / "best_policy.pt").read_bytes()[:-200])
    assert main(["diagnose", str(damaged)]) == 2
    assert str(damaged) in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"policy.pt"}
