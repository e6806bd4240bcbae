"""The vector environment of the batched dm_control tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pwm.envs.base import EnvSpec, StepResult, check_action
from pwm.envs.batched import BatchedEnv, Start, invalid_copies
from pwm.envs.dmc import Options
from pwm.envs.dmc.physics import REPEAT, Physics
from pwm.envs.dmc.tasks import load_task
from pwm.envs.task_table import task_row

if TYPE_CHECKING:
    from pwm.envs.engines.mujoco_camera import MujocoCamera


class DmcEnv(BatchedEnv):
    """N copies of one task.

    Each step starts from a zero solver warm start, so that the state is positions, velocities and target
    alone. Episodes are only truncated. A copy whose state holds a non-finite entry or one beyond 1e6 is cut
    with reward 0 for that step, and its ``final_obs`` is the observation before the step. ``spec.name`` is
    ``dmc_<task>``; the simulation is on the CPU.
    """

    kept = "target"

    def __init__(self, options: Options, num_envs: int, device: torch.device, seed: int) -> None:
        """Build the environment and reset it with ``seed``.

        Raises:
            EnvError: dm_control is not installed.
        """
        row = task_row(options.task)
        self.task = load_task(options.task)
        self.physics = Physics(self.task.recipe, num_envs, options.num_threads)
        length = options.episode_length or row.episode_length
        control_dt = REPEAT * self.task.recipe.control_dt
        spec = EnvSpec(options.task_name, row.obs_dim, row.action_dim, length, control_dt)
        super().__init__(spec, num_envs, device, torch.device("cpu"), seed)

    def step(self, action: Tensor) -> StepResult:
        """Advance every copy by two control steps; see ``VectorEnv.step``.

        Raises:
            ActionError: wrong shape or a non-finite entry.
        """
        check_action(action, self.num_envs, self.spec.act_dim)
        # Rounded to float32 first, as the suite's adapter and the replay memory hold them.
        ctrl = action.detach().to("cpu", torch.float32).clamp(-1.0, 1.0).to(torch.float64)
        moments = self.physics.step(self._qpos, self._qvel, ctrl, self._kept)
        reward = self.task.reward(moments).unflatten(0, (-1, REPEAT)).sum(1)
        end = moments.every_second()
        # Copies, because the moments are views of all that the step simulated.
        state = end.qpos.clone(), end.qvel.clone(), self._kept
        final_obs = self.task.observe(end).to(torch.float32)
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._finish(state, reward, final_obs, never, invalid_copies(end.qpos, end.qvel))

    def render(self, index: int) -> np.ndarray:
        """Picture [480, 640, 3] uint8 of copy ``index``; see ``pwm.envs.base.Renderable``."""
        self.task.place_target(self.physics.model, self._kept[index].numpy())
        return super().render(index)

    def _start(self, count: int) -> Start:
        return self.task.start(self.physics, self._generator, count)

    def _observe(self, qpos: Tensor, qvel: Tensor, kept: Tensor) -> Tensor:
        return self.task.observe(self.physics.look(qpos, qvel, kept)).to(torch.float32)

    def _make_camera(self) -> MujocoCamera:
        # Imported here: training draws nothing.
        from pwm.envs.engines.mujoco_camera import MujocoCamera

        return MujocoCamera(self.physics.model, 0)

    def _free(self) -> None:
        self.physics.close()
