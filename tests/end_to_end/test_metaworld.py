"""``pwm train env=metaworld``: a Meta-World task trains, continues and is evaluated like any other."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from tests.end_to_end.test_cli_errors import the_message
from tests.end_to_end.tiny import (
    assert_same_run,
    interrupt_after,
    metrics,
    only_run,
    train,
    trained,
)

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.data.offline.verification import verify_store
from pwm.launch.cli import main

INSTALLED = importlib.util.find_spec("metaworld") is not None
TASK = ["env=metaworld", "env.task=mw-reach"]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out, which take longer than such a run."""
    monkeypatch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])


@pytest.mark.skipif(INSTALLED, reason="metaworld is installed")
def test_a_missing_package_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, *TASK) == 2
    message = the_message(capsys)
    assert "environment 'metaworld' needs metaworld" in message
    assert 'pip install "flow-pwm[metaworld]"' in message
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the extra 'metaworld'")
def test_an_interrupted_run_ends_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*TASK, "general.save_interval=0", "env.episode_length=null"]
    uninterrupted = trained(tmp_path / "whole", *options)
    assert uninterrupted.parent.parent.name == "metaworld_mw-reach"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert train(tmp_path / "parts", *options) != 0
    assert train(tmp_path / "parts", *options) == 0
    assert_same_run(only_run(tmp_path / "parts"), uninterrupted)
    assert all(record["eval/success"] in (0.0, 0.5, 1.0) for record in metrics(uninterrupted))
    assert main(["evaluate", str(uninterrupted), "--episodes", "2"]) == 0
    evaluation = json.loads((uninterrupted / "evaluation_best_policy.json").read_text())
    assert evaluation["lengths"] == [100, 100]
    assert 0 <= min(evaluation["returns"]) <= max(evaluation["returns"]) <= 2000
    assert evaluation["success"] == sum(evaluation["successes"]) / 2
    # Its replay goes into the widths of MT80.
    assert main(["data", "from-run", str(uninterrupted), "--to", str(tmp_path / "data")]) == 0
    files = verify_store(tmp_path / "data")
    assert files.layout.task_set == "mt80"
    assert files.content["counts"].keys() == {"mw-reach"}
