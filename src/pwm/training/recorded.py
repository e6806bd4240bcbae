"""Recorded data for trainers: which windows they draw, and the statistics that models take from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pwm.algorithm.model_learning import ModelLearner
from pwm.data.offline.dataset import OfflineData
from pwm.envs.base import EnvSpec
from pwm.envs.task_table import table_name
from pwm.errors import ConfigError, DataError

# Transitions from which observations and rewards take their mean and spread.
STATISTICS = 20_000


def open_data(
    folder: str | Path,
    horizon: int,
    tasks: Sequence[str] | None = None,
    balanced: bool = False,
    held_out: float = 0.0,
    part: str = "training",
) -> OfflineData:
    """Open a data set; of a single task it is in that task's own widths, see ``OfflineData``.

    Raises:
        ConfigError: no data set is named, or as ``OfflineData``.
    """
    _require(folder)
    data = OfflineData(folder, horizon, tasks, balanced, True, held_out, part)
    if len(data.tasks) > 1:
        return data
    name = data.layout.tasks[data.tasks[0]].name
    return OfflineData(folder, horizon, [name], balanced, False, held_out, part)


def open_task(folder: str | Path, horizon: int, spec: EnvSpec) -> OfflineData:
    """Open what a data set holds of the task ``spec``, in its own widths.

    Raises:
        ConfigError: no data set is named, or it does not have this task.
        DataError: its widths are others, or as ``OfflineData``.
    """
    _require(folder)
    data = OfflineData(folder, horizon, [table_name(spec.name)], padded=False)
    if (found := (data.obs_dim, data.act_dim)) != (wanted := (spec.obs_dim, spec.act_dim)):
        raise DataError(
            f"{folder}: observations and actions of {spec.name} are {found} wide there and {wanted} here"
        )
    return data


def _require(folder: str | Path) -> None:
    if not str(folder):
        raise ConfigError("alg.data is missing; name the folder of a data set (docs/data.md)")


def observe_data(learner: ModelLearner, data: OfflineData, generator: torch.Generator) -> None:
    """Let ``learner`` take the statistics of observations and rewards from a sample of ``data``."""
    batch = data.sample(STATISTICS, generator).to(generator.device)
    learner.observe(batch.obs[0], batch.reward[0], batch.task)
