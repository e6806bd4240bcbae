"""World models of other projects, read into ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pwm.checkpoints import world_model_file
from pwm.checkpoints.single_task import single_task
from pwm.checkpoints.world_model_file import StoredWorldModel
from pwm.errors import CheckpointError, ConfigError
from pwm.interop.contents import below, find_world_model, flatten
from pwm.interop.files import read_file
from pwm.interop.layouts import ACTION_MASKS, SOURCES, reason, unfold
from pwm.interop.networks import KnownSizes, is_metadata, translate
from pwm.interop.statistics import (
    OBSERVATIONS,
    REWARDS,
    find_statistics,
    is_statistic,
    normalise_observations,
    reward_statistics,
)
from pwm.interop.tasks import rescale_rows, shorten_rows
from pwm.models.flow_world_model import FlowWorldModel
from pwm.models.world_model import WorldModel

OWN = "flow-pwm"


@dataclass(frozen=True)
class Imported:
    """A world model of another project as ours, and what became of the rest of its file.

    Attributes:
        stored: the world model.
        carried: what was taken over, a phrase for each.
        left_out: what was not, by name, and why.
    """

    stored: StoredWorldModel
    carried: list[str]
    left_out: dict[str, str]

    def report(self) -> str:
        """Lines of text for the user: what was carried over, what was left out, and how to train with it."""
        lines = [f"carried over: {what}" for what in self.carried]
        grouped: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            grouped.setdefault(why, []).append(name)
        lines += [f"left out: {', '.join(names)} ({why})" for why, names in grouped.items()]
        sizes = self.stored.sizes
        if sizes.n_tasks:
            lines.append(
                "`pwm extract` takes it whole; any other "
                f"run trains one task: convert it with --task 0 ... {sizes.n_tasks - 1} to start from it"
            )
        else:
            lines.append(f"a run that starts from it needs {world_model_file.overrides(sizes.settings())}")
        return "\n".join(lines)


def load_world_model(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    source: str = "pwm",
    simnorm_dim: int = 8,
    vmin: float | None = -10.0,
    vmax: float | None = 10.0,
    *,
    task: int | None = None,
    key: str | None = None,
) -> WorldModel | FlowWorldModel:
    """Return a world model in evaluation mode that holds foreign weights.

    Args:
        path_or_state_dict: a state dict or the content of a checkpoint with one in it, or a file of
            ``torch.save`` or safetensors. Nothing in a file is run. For ``flow-pwm`` a file of ``convert``.
        source: ``pwm``, ``flow-mbpo``, ``tdmpc2``, ``newt`` or ``flow-pwm``.
        simnorm_dim: group size of SimNorm, which no shape shows.
        vmin, vmax: range of the reward bins in symlog space; not read by models without bins.
            ``flow-pwm`` files record all three, so that they are not read here.
        task: task of a multi-task model that the result is for, as a single-task model.
        key: name of the world model in a file with several.

    A missing task table cannot be told from a single-task model with wider inputs, unless TD-MPC2's
    action masks are there.

    Raises:
        CheckpointError: the file is missing or unreadable or of another kind, or keys are missing, unexpected
            or of a wrong shape; the message lists all of them.
        ConfigError: unknown source, or ``simnorm_dim``, ``vmin``, ``vmax`` do not fit the model.
    """
    if source == OWN:
        if isinstance(path_or_state_dict, Mapping):
            return world_model_file.parse(path_or_state_dict).build()
        return world_model_file.load(Path(path_or_state_dict)).build()
    given = KnownSizes(simnorm_dim, vmin, vmax)
    return import_world_model(path_or_state_dict, source, given, task, key).stored.build()


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    source: str,
    simnorm_dim: int = 8,
    vmin: float | None = -10.0,
    vmax: float | None = 10.0,
    *,
    task: int | None = None,
    key: str | None = None,
) -> Imported:
    """Write the foreign world model ``src`` to ``dst`` in our own format; arguments as ``load_world_model``.

    ``dst`` appears complete or not at all. Returns what was written and what was left out.

    Raises:
        CheckpointError: ``dst`` exists already or cannot be written, or ``src`` cannot be loaded.
    """
    target = Path(dst)
    if target.exists():
        raise CheckpointError(f"{target} exists already")
    imported = import_world_model(src, source, KnownSizes(simnorm_dim, vmin, vmax), task, key)
    try:
        world_model_file.save(target, imported.stored)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from error
    return imported


def import_world_model(
    origin: str | os.PathLike[str] | Mapping[str, Any],
    source: str,
    given: KnownSizes,
    task: int | None = None,
    key: str | None = None,
) -> Imported:
    """Read a world model of another project; arguments and errors as ``load_world_model``."""
    if source not in SOURCES:
        raise ConfigError(f"unknown source {source!r}; choose one of: {', '.join((*SOURCES, OWN))}")
    content = origin if isinstance(origin, Mapping) else read_file(Path(origin))
    place = "" if isinstance(origin, Mapping) else f"{Path(origin)}: "
    try:
        leaves = flatten(content)
        prefix = find_world_model(leaves, source, key, content)
        return _imported(leaves, prefix, source, given, task)
    except CheckpointError as error:
        raise CheckpointError(f"{place}{error}") from error


def _imported(
    leaves: Mapping[str, Any], prefix: str, source: str, given: KnownSizes, task: int | None
) -> Imported:
    names = below(leaves, prefix)
    parent = prefix.rstrip(".").rpartition(".")[0]
    outside = f"{parent}." if parent else ""
    statistics = {k: v for k, v in {**below(leaves, outside), **names}.items() if is_statistic(k)}
    names = {k: v for k, v in names.items() if not is_statistic(k)}
    if source == "tdmpc2":
        names = unfold(names)
    sizes, state = translate(names, source, given)
    if sizes.n_tasks:
        (shorten_rows if SOURCES[source].short_rows else rescale_rows)(state)
    if task is not None:
        sizes, state = single_task(sizes, state, task, names.get(ACTION_MASKS))
    stored = StoredWorldModel(sizes, state)
    carried = [_weights_of(stored, prefix, task)]
    left_out = _left_out(leaves, prefix, source)
    if (found := find_statistics(statistics, OBSERVATIONS)) is not None:
        stored = normalise_observations(stored, found)
        carried.append(f"{OBSERVATIONS} ({len(found['mean'])} entries, count {float(found['count']):g})")
    if (found := find_statistics(statistics, REWARDS)) is not None:
        reward = reward_statistics(found)
        stored = StoredWorldModel(stored.sizes, stored.state, reward)
        if reward is None:
            left_out[REWARDS] = f"it has {len(found['mean'])} different entries, a reward is one number"
        else:
            carried.append(
                f"{REWARDS} (mean {float(reward.mean):g}, standard deviation {float(reward.std):g})"
            )
    return Imported(stored, carried, left_out)


def _weights_of(stored: StoredWorldModel, prefix: str, task: int | None) -> str:
    sizes = stored.sizes
    count = sum(value.numel() for value in stored.state.values())
    tasks = f", {sizes.n_tasks} tasks" if sizes.n_tasks else "" if task is None else f", fixed to task {task}"
    return (
        f"{prefix.rstrip('.') or 'world model'} ({count} weights, observations {sizes.obs_dim}, "
        f"actions {sizes.act_dim}, latent {sizes.world_model.latent_dim}{tasks})"
    )


def _left_out(leaves: Mapping[str, Any], prefix: str, source: str) -> dict[str, str]:
    """Entries of a file that are not imported, each under the name of the part it belongs to, and why."""
    unused = SOURCES[source].unused
    left_out: dict[str, str] = {}
    for name, value in leaves.items():
        if name.startswith(prefix):
            inner = name[len(prefix) :]
            other = is_statistic(inner) or is_metadata(inner, value)
            if not (other or (unused is not None and unused.fullmatch(inner))):
                continue
            part = inner.split(".")[0]
            shown = prefix + part
        else:
            # The first part of the name in which it differs from the world model's.
            parts, own = name.split("."), prefix.split(".")
            depth = next((i for i, (a, b) in enumerate(zip(parts, own)) if a != b), 0)
            part, shown = parts[depth], ".".join(parts[: depth + 1])
        if value is not None and part not in (OBSERVATIONS, REWARDS):
            left_out[shown] = reason(part)
    return left_out
