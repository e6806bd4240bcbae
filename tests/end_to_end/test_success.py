"""A task that judges success is evaluated by it, too: while it trains, and by ``pwm evaluate``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.end_to_end.tiny import metrics, trained

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED
from pwm.envs import gym
from pwm.launch.cli import main
from pwm.training.evaluation import EVALUATION_SEED

ID = "tests.contracts.odd_envs:OddJudging-v0"


def judgements(copies: int, *seeds: int) -> list[bool]:
    """What the task says of the first episodes after these resets, which its first observation tells."""
    env = gym.build(gym.Options(ID), copies, "cpu", 0)
    return [succeeds > 0 for seed in seeds for succeeds in env.reset(seed)[:, 0].tolist()]


def test_success_is_recorded_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
    run = trained(tmp_path / "logs", "env=gym", f"env.id={ID}", "general.epochs=2", "general.eval_runs=5")
    expected = judgements(5, EVALUATION_SEED)
    assert 0 < sum(expected) < 5
    assert [record["eval/success"] for record in metrics(run)] == [sum(expected) / 5] * 3
    # Two rounds of 16 copies, of which the last 14 episodes are not asked for.
    output = tmp_path / "all.json"
    assert main(["evaluate", str(run), "--episodes", "18", "--output", str(output)]) == 0
    expected = judgements(16, HELD_OUT_SEED, HELD_OUT_SEED + 1)[:18]
    found = json.loads((run / "evaluation_best_policy.json").read_text())
    assert found["successes"] == expected
    assert found["success"] == sum(expected) / 18
    header, row = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert dict(zip(reversed(header), reversed(row)))["success"] == f"{sum(expected) / 18:.2f}"
    with output.with_suffix(".csv").open(newline="") as file:
        assert [float(line["success"]) for line in csv.DictReader(file)] == [found["success"]]
