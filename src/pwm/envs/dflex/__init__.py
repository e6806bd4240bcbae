"""Locomotion and control tasks of the dflex benchmark, re-implemented on MuJoCo.

Source of every number: the task specification (sections 0 to 2). Results are those of a MuJoCo
re-implementation; absolute returns differ from the published ones (another contact model).
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pwm import components
from pwm.envs.base import VectorEnv
from pwm.errors import ConfigError

if TYPE_CHECKING:
    from pwm.envs.dflex.common import Task

TASKS = ("cartpole", "double_pendulum", "hopper", "ant", "anymal", "humanoid")
ASSETS = Path(__file__).parent / "assets"


@dataclass
class Options:
    """Configuration of a dflex environment.

    Attributes:
        task: one of ``TASKS``.
        substeps: physics steps per control step of 1/60 s, 1 to 64.
        episode_length: control steps before truncation; None takes the task's own.
        num_threads: simulator threads of ``mujoco_cpu``; 0 means all cores.
        engine: what simulates, a module of ``pwm.envs.engines``: ``mujoco_cpu``, or ``mujoco_warp`` (extra
            ``warp``) on the device that learns.

    Raises:
        ConfigError: a value is not allowed.
    """

    task: str
    substeps: int = 4
    episode_length: int | None = None
    num_threads: int = 0
    engine: str = "mujoco_cpu"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            close = difflib.get_close_matches(str(self.task), TASKS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ConfigError(f"env.task={self.task!r} is unknown{hint}; choose one of: {', '.join(TASKS)}")
        if not _is_int(self.substeps) or not 1 <= self.substeps <= 64:
            raise ConfigError(f"env.substeps={self.substeps!r}: must be an integer from 1 to 64")
        if self.episode_length is not None and (not _is_int(self.episode_length) or self.episode_length < 1):
            raise ConfigError(
                f"env.episode_length={self.episode_length!r}: must be a positive integer, "
                "or null for the task's own"
            )
        if not _is_int(self.num_threads) or self.num_threads < 0:
            raise ConfigError(
                f"env.num_threads={self.num_threads!r}: must be an integer of at least 0 (0 = all cores)"
            )

    @property
    def task_name(self) -> str:
        """``EnvSpec.name`` of the environment."""
        return f"dflex_{self.task}"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def load_task(name: str) -> Task:
    """Return the task record of ``name`` (one of ``TASKS``)."""
    task: Task = importlib.import_module(f"pwm.envs.dflex.{name}").TASK
    return task


def build(options: Options, num_envs: int, device: torch.device | str, seed: int) -> VectorEnv:
    """Return ``num_envs`` copies of the task, reset with ``seed``; tensors live on ``device``.

    Raises:
        ConfigError: ``num_envs`` is not positive, or there is no such engine, or its package is missing.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs={num_envs}: must be at least 1")
    from pwm.envs.dflex.env import DflexEnv

    task = load_task(options.task)
    module = components.load("engine", options.engine)
    device = torch.device(device)
    model = ASSETS / task.model_file
    engine = module.build(model, num_envs, options.substeps, options.num_threads, device)
    return DflexEnv(task, engine, num_envs, device, seed, options.episode_length)
