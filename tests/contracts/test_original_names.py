"""What the original's documentation names can be imported from where it says, and called."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest
import torch
from tests.end_to_end.tiny import ANALYTIC, metrics, trained

import pwm
from pwm.logging.monitoring import TrainingMonitor
from pwm.utils.visualization import TrainingVisualizer

NAMES = {
    "integrators": ["euler_step", "heun_step", "rk4_step"],
    "esnr": ["compute_esnr", "compute_esnr_db", "ESNRTracker"],
    "monitoring": ["TrainingMonitor", "WandBLogger", "compute_gradient_stats"],
    "visualization": ["TrainingVisualizer", "plot_comparison"],
    "reproducibility": ["set_seed", "DatasetVerifier", "ExperimentConfig"],
}


@pytest.mark.parametrize("module", NAMES)
def test_names_are_those_of_the_package(module: str) -> None:
    found = importlib.import_module(f"pwm.utils.{module}")
    assert sorted(found.__all__) == sorted(NAMES[module])
    for name in NAMES[module]:
        home = pwm if name in pwm.__all__ else importlib.import_module(getattr(found, name).__module__)
        assert getattr(found, name) is getattr(home, name)


def test_an_integrator_imported_from_there_integrates() -> None:
    from pwm.utils.integrators import heun_step

    z = torch.ones(2, 3)
    found = heun_step(lambda z, a, tau, task: z, z, torch.zeros(2, 1), substeps=2)
    torch.testing.assert_close(found, z * (1 + 0.5 + 0.125) ** 2)


def test_a_monitor_can_be_started_later(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = TrainingMonitor(10, title="run", interval=0.0)
    before = monitor._updated
    monitor.start()
    assert monitor._updated > before
    monitor.update(5, {"eval/episode_return": 3.0})
    monitor.close()
    assert "run  epoch 5/10  50 %  eval 3" in capsys.readouterr().err


def test_a_visualizer_draws_records_that_are_added(tmp_path: Path) -> None:
    run = trained(tmp_path / "logs", *ANALYTIC, "general.epochs=1")
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / "metrics.jsonl", bare)
    visualizer = TrainingVisualizer(bare)
    plain = visualizer.plot_learning_curves().read_bytes()
    visualizer.add_data({**metrics(run)[-1], "epoch": 2.0, "env_steps": 500.0, "eval/episode_return": -1.0})
    assert visualizer.plot_learning_curves().read_bytes() != plain
