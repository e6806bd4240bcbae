"""Running statistics of observations and rewards that other projects store beside their world models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pwm.checkpoints.world_model_file import RewardStatistics, StoredWorldModel, narrowed
from pwm.errors import CheckpointError

OBSERVATIONS, REWARDS, RETURNS = "obs_rms", "rew_rms", "ret_rms"
# Names of the same number in the classes of different projects.
NAMES = {"mean": ("mean", "running_mean"), "var": ("var", "running_var"), "count": ("count",)}


def is_statistic(name: str) -> bool:
    """True if the leaf called ``name`` belongs to running statistics of observations, rewards or returns."""
    return name.split(".")[0] in (OBSERVATIONS, REWARDS, RETURNS)


def find_statistics(beside: Mapping[str, Any], name: str) -> dict[str, Tensor] | None:
    """``mean`` and ``var`` [N], float32, and ``count`` [], float64, of the statistics ``name``; None without.

    Args:
        beside: leaves of the file that stand beside the world model.
        name: ``obs_rms`` or ``rew_rms``.

    Raises:
        CheckpointError: they are incomplete, or no statistics.
    """
    found = {
        key.removeprefix(f"{name}."): value for key, value in beside.items() if key.startswith(f"{name}.")
    }
    if not found and beside.get(name) is None:
        return None
    values: dict[str, Tensor] = {}
    for part, aliases in NAMES.items():
        given = next((found[alias] for alias in aliases if alias in found), None)
        try:
            values[part] = torch.as_tensor(given, dtype=torch.float64).flatten()
        except (TypeError, ValueError, RuntimeError) as error:
            shown = ", ".join(sorted(found)) or type(beside.get(name)).__name__
            raise CheckpointError(f"{name} has no usable {part}: it holds {shown}") from error
    mean, var, count = values.values()
    if mean.shape != var.shape or count.numel() != 1:
        shapes = [list(v.shape) for v in values.values()]
        raise CheckpointError(f"{name} has mean, var and count of the shapes {shapes}")
    if not torch.isfinite(torch.cat((mean, var, count))).all() or (var < 0).any() or count < 0:
        raise CheckpointError(f"{name} has values that no mean, variance or count can have")
    return {"mean": mean.float(), "var": var.float(), "count": count.reshape(())}


def normalise_observations(stored: StoredWorldModel, found: Mapping[str, Tensor]) -> StoredWorldModel:
    """``stored`` as a model that normalises its observations by the statistics ``found``.

    Statistics tell the width of observations before they were padded.

    Raises:
        CheckpointError: they are of another width than the observations.
    """
    width = len(found["mean"])
    padding = stored.sizes.obs_dim - width
    if stored.sizes.padded and padding >= 0:
        stored = narrowed(stored, width, stored.sizes.act_dim - padding)
    elif padding:
        raise CheckpointError(
            f"{OBSERVATIONS} has {width} entries, but observations have the width {stored.sizes.obs_dim}"
        )
    if tasks := stored.sizes.n_tasks:
        # A model of several tasks keeps statistics of each; the file has one for all.
        found = {part: value.expand(tasks, *value.shape).clone() for part, value in found.items()}
    sizes = replace(stored.sizes, world_model=replace(stored.sizes.world_model, obs_rms=True))
    state = {**stored.state, **{f"obs_rms.{part}": value for part, value in found.items()}}
    return StoredWorldModel(sizes, state, stored.reward)


def reward_statistics(found: Mapping[str, Tensor]) -> RewardStatistics | None:
    """Statistics of one reward, None if ``found`` has several entries that are not all the same."""
    one = {"mean": found["mean"].unique(), "var": found["var"].unique(), "count": found["count"]}
    return RewardStatistics(**one) if one["mean"].numel() == one["var"].numel() == 1 else None
