"""The dm_control tasks as the suite itself runs them, through the adapter of Gymnasium environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from pwm.envs.base import VectorEnv
from pwm.envs.dmc import Options
from pwm.envs.dmc.package import import_suite
from pwm.envs.gym.adapter import GymEnv
from pwm.envs.gym.options import Options as GymOptions
from pwm.envs.task_table import task_row


class SuiteTask(gymnasium.Env):
    """One copy of a task of dm_control as a Gymnasium environment: two control steps per step.

    Args:
        task: name of the table.
    """

    def __init__(self, task: str) -> None:
        from pwm.envs.dmc.suite_tasks import load

        row = task_row(task)
        self.suite_env = load(task, seed=0)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (row.obs_dim,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (row.action_dim,), np.float32)
        self._repeat = row.action_repeat
        self.dt = row.action_repeat * self.suite_env.control_timestep()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; a ``seed`` restarts the task's random stream."""
        super().reset(seed=seed)
        if seed is not None:
            self.suite_env.task.random.seed(seed)
        return flat(self.suite_env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold ``action`` for two control steps and add up their rewards."""
        steps = [self.suite_env.step(action.astype(np.float64)) for _ in range(self._repeat)]
        return flat(steps[-1].observation), float(sum(step.reward for step in steps)), False, False, {}


def flat(observation: dict[str, Any]) -> np.ndarray:
    """Return the parts of an observation one after the other, in the order of the suite; float64."""
    return np.concatenate([np.ravel(part) for part in observation.values()])


class SuiteOptions(GymOptions):
    """Options of Gymnasium's adapter for a task of dm_control, whose id is ``dmc/<task>-v0``."""

    @property
    def task_name(self) -> str:
        """``EnvSpec.name``: that of the batched task."""
        return self.id.replace("/", "_").removesuffix("-v0")


def build_oracle(options: Options, num_envs: int, device: torch.device, seed: int) -> VectorEnv:
    """Return ``num_envs`` copies of the task, more than one in one process per core.

    Raises:
        EnvError: dm_control is missing or does not run with the installed MuJoCo.
    """
    import_suite()
    name = f"dmc/{options.task}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(
            name, entry_point=f"{SuiteTask.__module__}:SuiteTask", kwargs={"task": options.task}
        )
    length = options.episode_length or task_row(options.task).episode_length
    adapter = SuiteOptions(
        id=name,
        episode_length=length,
        vectorization="async" if num_envs > 1 else "sync",
    )
    return GymEnv(adapter, num_envs, device, seed)
