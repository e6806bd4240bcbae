"""How well pretrained world models predict what they did not learn from, as their run folders record it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pwm.analysis.tables.records import load_records
from pwm.configuration.config import ExperimentConfig
from pwm.errors import DataError
from pwm.runs.provenance import read_manifest

LATENT, REWARD = "heldout/latent_error_k", "heldout/reward_rmse"


@dataclass(frozen=True)
class Fit:
    """Errors on held-out windows; NaN where they were not finite.

    Attributes:
        latent: relative latent error H steps ahead, see ``open_loop_error``; 1 is predicting no change.
        reward: root mean squared error of the rewards on the way, in environment reward.
    """

    latent: float
    reward: float


@dataclass(frozen=True)
class ModelFit:
    """A pretrained world model at its last evaluation.

    Attributes:
        updates: gradient steps.
        minutes: wall clock over all sittings, evaluations included.
        parameters: of the world model; None where its run does not say.
        horizon: H.
        mean: over its tasks, every task the same.
        tasks: by name of the task.
    """

    updates: int
    minutes: float
    parameters: int | None
    horizon: int
    mean: Fit
    tasks: dict[str, Fit]


def read_fit(folder: Path) -> ModelFit:
    """Read the run folder of a pretraining.

    Raises:
        ConfigError: its configuration cannot be read.
        DataError: another file is missing or damaged, or it holds no evaluation on held-out windows.
    """
    config, made_with = ExperimentConfig.load(folder / "config.yaml"), read_manifest(folder)
    horizon = int(config.alg.objective.horizon)
    names = f"{LATENT}{horizon}", REWARD
    measured = [record for record in load_records(folder) if set(names) <= record.keys()]
    if not measured:
        raise DataError(f"{folder / 'metrics.jsonl'} holds no evaluation on held-out windows")
    last = measured[-1]
    tasks = [key.removeprefix(f"{REWARD}/") for key in last if key.startswith(f"{REWARD}/")]
    mean = _fit(last, *names)
    return ModelFit(
        updates=int(last["updates"]),
        minutes=last["wall_time"] / 60,
        parameters=made_with.get("parameters", {}).get("world_model"),
        horizon=horizon,
        mean=mean,
        # A model of a single task does not name it in its metrics.
        tasks={task: _fit(last, *(f"{name}/{task}" for name in names)) for task in tasks}
        or {str(made_with.get("task", "")): mean},
    )


def _fit(record: Mapping[str, float | None], latent: str, reward: str) -> Fit:
    latent_error, reward_error = (record.get(name) for name in (latent, reward))
    return Fit(
        math.nan if latent_error is None else latent_error, math.nan if reward_error is None else reward_error
    )
