"""Policy learning with large world models, with MLP or flow-matching dynamics.

The names below are loaded on first use, so that importing the package costs nothing and pulls in
neither torch nor a simulator.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it.
_HOME = {
    "WorldModel": "pwm.models.world_model",
    "FlowWorldModel": "pwm.models.flow_world_model",
    "euler_step": "pwm.models.integrators.euler",
    "heun_step": "pwm.models.integrators.heun",
    "rk4_step": "pwm.models.integrators.rk4",
    "compute_flow_matching_loss": "pwm.models.dynamics.flow",
    "load_world_model": "pwm.interop.importers",
    "set_seed": "pwm.training.seeding",
    "ExperimentConfig": "pwm.configuration.config",
    "DatasetVerifier": "pwm.data.dataset_verifier",
    "TrainingMonitor": "pwm.logging.monitoring",
    "WandBLogger": "pwm.logging.wandb_logger",
    "compute_gradient_stats": "pwm.logging.gradients",
    "TrainingVisualizer": "pwm.analysis.plots.visualization",
    "compute_esnr": "pwm.analysis.model_quality.esnr",
    "compute_esnr_db": "pwm.analysis.model_quality.esnr",
    "ESNRTracker": "pwm.analysis.model_quality.esnr",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Load a public name from its module and keep it, so that this runs once per name."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the loaded and the lazily loaded names."""
    return sorted({*globals(), *_HOME})
