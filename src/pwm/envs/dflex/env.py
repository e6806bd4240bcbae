"""The vector environment that joins a dflex task (formulas) to a physics engine (state in, state out)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from pwm.envs.base import EnvSpec, StepResult, check_action
from pwm.envs.batched import BatchedEnv, Start, invalid_copies
from pwm.envs.dflex import ASSETS
from pwm.envs.dflex.common import Task

if TYPE_CHECKING:
    from pwm.envs.engines.mujoco_camera import MujocoCamera

CONTROL_DT = 1.0 / 60.0


class Engine(Protocol):
    """Contract of a physics engine."""

    device: torch.device

    def step(self, qpos: Tensor, qvel: Tensor, ctrl: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one control step: [N, nq], [N, nv], [N, nu] -> new qpos, qvel in fresh memory."""
        ...

    def close(self) -> None:
        """Free threads and memory."""
        ...


class DflexEnv(BatchedEnv):
    """N copies of one dflex task.

    The reward of a step is a function of the observation *before* it and the clipped action
    (section 0.2). A copy whose state or observation holds a non-finite entry or one beyond 1e6 is
    terminated with reward 0 for that step, and its ``final_obs`` is the observation before the step
    (section 2.8). ``spec.name`` is ``dflex_<task>``.
    """

    kept = "last_action"

    def __init__(
        self,
        task: Task,
        engine: Engine,
        num_envs: int,
        device: torch.device,
        seed: int,
        episode_length: int | None = None,
    ) -> None:
        """Build the environment and reset it with ``seed``; ``episode_length`` overrides the task's."""
        length = task.episode_length if episode_length is None else episode_length
        self.task = task
        self.engine = engine
        spec = EnvSpec(f"dflex_{task.name}", task.obs_dim, task.act_dim, length, CONTROL_DT)
        super().__init__(spec, num_envs, device, engine.device, seed)

    def step(self, action: Tensor) -> StepResult:
        """Advance every copy by 1/60 s; see ``VectorEnv.step``.

        Raises:
            ActionError: wrong shape or a non-finite entry.
        """
        check_action(action, self.num_envs, self.spec.act_dim)
        clipped = action.detach().to(self.engine.device, torch.float32).clamp(-1.0, 1.0)
        reward = self.task.reward(self._obs, clipped)
        qpos, qvel = self.engine.step(self._qpos, self._qvel, clipped)
        final_obs = self._observe(qpos, qvel, clipped)
        terminated = self.task.terminated(final_obs)
        invalid = invalid_copies(qpos, qvel, final_obs)
        if invalid is not None:
            terminated = terminated | invalid
        return self._finish((qpos, qvel, clipped), reward, final_obs, terminated, invalid)

    def _start(self, count: int) -> Start:
        where = self.engine.device
        shape = (count, self.task.noise_dim)
        noise = torch.rand(shape, generator=self._generator, dtype=torch.float64, device=where)
        qpos, qvel = self.task.sample_reset(noise.mul_(2.0).sub_(1.0))
        return qpos, qvel, torch.zeros(count, self.spec.act_dim, device=where)

    def _observe(self, qpos: Tensor, qvel: Tensor, kept: Tensor) -> Tensor:
        return self.task.observe(qpos, qvel, kept).to(torch.float32)

    def _make_camera(self) -> MujocoCamera:
        # Imported here: training draws nothing.
        from pwm.envs.engines.mujoco_camera import CAMERA, MujocoCamera, decorated

        return MujocoCamera(decorated(ASSETS / self.task.model_file), CAMERA)

    def _free(self) -> None:
        self.engine.close()
