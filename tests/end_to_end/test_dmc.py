"""``pwm train env=dmc``: a dm_control task trains, continues and is evaluated like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.end_to_end.tiny import (
    SIZES,
    assert_same_run,
    interrupt_after,
    metrics,
    only_run,
    status,
    train,
    trained,
)

from pwm.launch.cli import main

pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
TASK = ["env=dmc", "env.task=cartpole-swingup", "env.num_threads=1"]


def test_an_interrupted_run_ends_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*TASK, "general.save_interval=0"]
    uninterrupted = trained(tmp_path / "whole", *options)
    assert uninterrupted.parent.parent.name == "dmc_cartpole-swingup"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert train(tmp_path / "parts", *options) != 0
    assert train(tmp_path / "parts", *options) == 0
    assert_same_run(only_run(tmp_path / "parts"), uninterrupted)
    assert main(["evaluate", str(uninterrupted), "--episodes", "2"]) == 0
    evaluation = json.loads((uninterrupted / "evaluation_best_policy.json").read_text())
    assert evaluation["lengths"] == [40, 40]
    assert 0 <= min(evaluation["returns"]) <= max(evaluation["returns"]) <= 80


def test_the_suite_itself_trains(tmp_path: Path) -> None:
    run = trained(tmp_path, *TASK, "env.engine=dm_control", "general.epochs=1")
    assert status(run)["state"] == "finished"
    assert metrics(run)[-1]["eval/episode_return"] >= 0


def test_episodes_last_500_steps(tmp_path: Path) -> None:
    assert "env.episode_length=40" in SIZES
    run = trained(tmp_path, *TASK, "env.episode_length=null", "general.epochs=1")
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    assert json.loads((run / "evaluation_best_policy.json").read_text())["lengths"] == [500]
