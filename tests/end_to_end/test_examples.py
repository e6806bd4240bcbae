"""The examples run, with fewer epochs than they have."""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tests.end_to_end.tiny import only_run

from pwm.analysis.plots.visualization import TrainingVisualizer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = ["alg.warmup_env_steps=400", "alg.warmup_updates=20", "general.eval_runs=2", "general.progress=false"]
NOTEBOOK = EXAMPLES / "compare_two_runs.ipynb"


def run(name: str, *arguments: str) -> None:
    """Run an example as its own description says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        patch.syspath_prepend(str(EXAMPLES))
        patch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_training_from_python_and_imagining(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train_from_python.py", "--epochs", "2", "--logdir", str(tmp_path), *QUICK)
    assert re.search(
        r"^final policy, 16 held-out episodes: -\d+ \+- \d+$", capsys.readouterr().out, re.MULTILINE
    )
    run("imagine.py", str(only_run(tmp_path)), "--steps", "3")
    steps = re.findall(r"^ +(\d) +(-\d+\.\d{3}) +(-\d+\.\d{3})$", capsys.readouterr().out, re.MULTILINE)
    assert [step for step, _, _ in steps] == ["1", "2", "3"]
    # Both are in the reward of the task: after one step of a model of 2 epochs they are of one size.
    expected, real = map(float, steps[0][1:])
    assert 0.2 < expected / real < 5


def test_a_task_of_your_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("own_task.py", "--epochs", "2", "--logdir", str(tmp_path), *QUICK)
    assert "doing nothing" in capsys.readouterr().out
    assert only_run(tmp_path).parents[1].name == "gym_own_task-Docking-v0"


def test_the_notebook_runs_and_is_stored_with_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in stored)
    assert not [output for output in stored if output["output_type"] == "error"]
    (sizes,) = (cell for cell in notebook.cells if "OVERRIDES = " in cell.source)
    sizes.source = sizes.source.replace("epochs=60", "epochs=5")
    sizes.source += f"\nOVERRIDES += {QUICK}\nLOGS = {str(tmp_path)!r}"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    assert len(list(tmp_path.rglob("final_policy.pt"))) == 2
