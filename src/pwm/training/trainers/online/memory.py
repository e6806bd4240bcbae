"""How much memory the observations of a run take, said and checked before it is taken."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from pwm.envs.base import VectorEnv
from pwm.errors import ConfigError
from pwm.training.trainers.online.options import Options

FLOAT = 4
# Bytes of one row of the replay buffer beside its numbers: a flag and an entry of its queue.
ROW = 9
# Runs that take less do not mention it.
WIDE, LARGE = 1000, 2e9
# Control groups of this process, and where the limits of all of them are.
OWN_GROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def check_memory(options: Options, env: VectorEnv, eval_env: VectorEnv) -> None:
    """Say what observations will take where that is much, before any of it is taken.

    Raises:
        ConfigError: they do not fit; the message says which ``alg.buffer_size`` does.
    """
    spec, device, horizon = env.spec, env.device, options.objective.horizon
    row = FLOAT * (spec.obs_dim + spec.act_dim + 2) + ROW
    replay = options.buffer_size * row
    # An evaluation keeps its first round, step by step and then once more as a whole.
    steps = eval_env.num_envs * (eval_env.spec.episode_length + 1)
    evaluation = 2 * FLOAT * steps * spec.obs_dim
    windows = options.model_learning.wm_batch_size * (horizon + 1)
    batches = FLOAT * spec.obs_dim * (windows + options.num_envs * horizon)
    needed, available = replay + evaluation + batches, available_memory(device)
    parts = (
        f"an observation of {spec.name} has {spec.obs_dim} numbers of {FLOAT} bytes, so the replay buffer "
        f"takes {_size(replay)}, an evaluation {_size(evaluation)} and batches {_size(batches)}, of "
        f"{_size(available)} available"
    )
    if needed > available:
        fitting = int((0.9 * available - evaluation - batches) / row)
        least = options.num_envs * (horizon + 2)
        # A round number, but never one that the buffer does not take.
        size = (
            f"alg.buffer_size={max(_rounded_down(fitting), least)}" if fitting >= least else "no size of it"
        )
        asked = f"alg.buffer_size={options.buffer_size}"
        raise ConfigError(f"{asked} does not fit into memory: {parts}; {size} fits")
    if spec.obs_dim >= WIDE or needed >= LARGE:
        warnings.warn(parts, RuntimeWarning, stacklevel=2)


def available_memory(device: torch.device) -> int:
    """Bytes that can still be taken on ``device``, for a CPU within the limits of its control groups."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([int(psutil.virtual_memory().available), *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """Yield the bytes that each control group of this process leaves, where containers set limits."""
    with contextlib.suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top = CGROUPS / "memory" if controllers else CGROUPS
            names = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes")
                if controllers
                else ("memory.max", "memory.current")
            )
            group = top / path.lstrip("/")
            for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
                # Absent at the top, and "max" where there is no limit.
                with contextlib.suppress(OSError, ValueError):
                    limit, used = (int((folder / name).read_text()) for name in names)
                    yield max(0, limit - used + _reclaimable(folder))


def _reclaimable(folder: Path) -> int:
    """Bytes of files that a control group only keeps as long as nobody needs the memory."""
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _rounded_down(count: int) -> int:
    """The two leading digits, then zeros."""
    unit: int = 10 ** max(len(str(count)) - 2, 0)
    return count // unit * unit
