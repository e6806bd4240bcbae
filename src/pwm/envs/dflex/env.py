"""The vector environment that joins a dflex task (formulas) to a physics engine (state in, state out)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pwm.envs.base import EnvSpec, StepResult, check_action, check_state, restore_generator
from pwm.envs.dflex import ASSETS
from pwm.envs.dflex.common import Task
from pwm.errors import EnvError

if TYPE_CHECKING:
    from pwm.envs.engines.mujoco_camera import MujocoCamera

CONTROL_DT = 1.0 / 60.0
STATE_LIMIT = 1e6


class Engine(Protocol):
    """What the environment needs from a physics engine."""

    device: torch.device

    def step(self, qpos: Tensor, qvel: Tensor, ctrl: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one control step: [N, nq], [N, nv], [N, nu] -> new qpos, qvel in fresh memory."""
        ...

    def close(self) -> None:
        """Free threads and memory."""
        ...


class DflexEnv:
    """N copies of one dflex task; see ``pwm.envs.base.VectorEnv`` for the contract.

    The reward of a step is a function of the observation *before* it and the clipped action
    (section 0.2). A copy whose state or observation holds a non-finite entry or one beyond 1e6 is
    terminated with reward 0 for that step, and its ``final_obs`` is the observation before the step
    (section 2.8).

    Attributes:
        spec: task constants; ``spec.name`` is ``dflex_<task>``.
        num_envs: N.
        device: where returned tensors live.
        invalid_states: how many invalid states were terminated since the environment was built.
    """

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
        self.spec = EnvSpec(f"dflex_{task.name}", task.obs_dim, task.act_dim, length, CONTROL_DT)
        self.num_envs = num_envs
        self.device = device
        self.invalid_states = 0
        self.task = task
        self.engine = engine
        self._camera: MujocoCamera | None = None
        self._generator = torch.Generator(device=engine.device)
        self.reset(seed)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes everywhere; see ``VectorEnv.reset``. Returns [N, obs_dim] float32."""
        if seed is not None:
            self._generator.manual_seed(seed)
        self._qpos, self._qvel = self._draw(self.num_envs)
        where = self.engine.device
        self._steps = torch.zeros(self.num_envs, dtype=torch.int64, device=where)
        self._last_action = torch.zeros(self.num_envs, self.spec.act_dim, device=where)
        self._obs = self._observe(self._qpos, self._qvel, self._last_action)
        return self._give(self._obs)

    def step(self, action: Tensor) -> StepResult:
        """Advance every copy by 1/60 s; see ``VectorEnv.step``.

        Raises:
            ActionError: wrong shape or a non-finite entry.
        """
        check_action(action, self.num_envs, self.spec.act_dim)
        clipped = action.detach().to(self.engine.device, torch.float32).clamp(-1.0, 1.0)
        before = self._obs
        reward = self.task.reward(before, clipped)
        qpos, qvel = self.engine.step(self._qpos, self._qvel, clipped)
        self._steps += 1
        final_obs = self._observe(qpos, qvel, clipped)
        terminated = self.task.terminated(final_obs)
        size = torch.cat((qpos, qvel, final_obs), dim=1).abs_()
        # NaN propagates through max and fails the comparison, as infinity does.
        if not float(size.max()) <= STATE_LIMIT:
            valid = size.amax(1) <= STATE_LIMIT
            self.invalid_states += int((~valid).sum())
            terminated = terminated | ~valid
            reward = torch.where(valid, reward, 0.0)
            final_obs = torch.where(valid.unsqueeze(1), final_obs, before)
        self._qpos, self._qvel, self._obs, self._last_action = qpos, qvel, final_obs, clipped
        truncated = self._steps >= self.spec.episode_length
        done = terminated | truncated
        if bool(done.any()):
            truncated = truncated & ~terminated
            self._restart(done.nonzero().squeeze(1))
        return StepResult(
            self._give(self._obs),
            reward.to(self.device),
            terminated.to(self.device),
            truncated.to(self.device),
            self._give(final_obs),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return physics, counters, last action, observation and random stream; see ``VectorEnv``."""
        return {
            "name": self.spec.name,
            "qpos": self._qpos.clone(),
            "qvel": self._qvel.clone(),
            "steps": self._steps.clone(),
            "last_action": self._last_action.clone(),
            "obs": self._obs.clone(),
            "generator": self._generator.get_state(),
            "invalid_states": self.invalid_states,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            EnvError: the state belongs to another task or another number of copies.
        """
        check_state(state, self.spec.name, "qpos", self._qpos)
        where = self.engine.device
        self._qpos = state["qpos"].to(where, copy=True)
        self._qvel = state["qvel"].to(where, copy=True)
        self._steps = state["steps"].to(where, copy=True)
        self._last_action = state["last_action"].to(where, copy=True)
        self._obs = state["obs"].to(where, copy=True)
        restore_generator(self._generator, state["generator"])
        self.invalid_states = int(state["invalid_states"])

    def start_rendering(self) -> None:
        """Set up the camera; see ``pwm.envs.base.Renderable``.

        Raises:
            EnvError: this machine has no usable OpenGL.
        """
        # Imported here: training draws nothing.
        from pwm.envs.engines.mujoco_camera import CAMERA, MujocoCamera, decorated

        if self._camera is None:
            self._camera = MujocoCamera(decorated(ASSETS / self.task.model_file), CAMERA)

    def render(self, index: int) -> np.ndarray:
        """Picture [480, 640, 3] uint8 of copy ``index``; see ``pwm.envs.base.Renderable``."""
        if self._camera is None:
            raise EnvError(f"{self.spec.name}: call start_rendering before render")
        return self._camera.picture(self._qpos[index].cpu().numpy())

    def close(self) -> None:
        """Free the engine's threads and memory, and the camera."""
        self.engine.close()
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def _draw(self, count: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(
            count,
            self.task.noise_dim,
            generator=self._generator,
            dtype=torch.float64,
            device=self.engine.device,
        )
        return self.task.sample_reset(noise.mul_(2.0).sub_(1.0))

    def _restart(self, index: Tensor) -> None:
        """Start new episodes in the copies ``index`` [n] and replace their current observations."""
        qpos, qvel = self._draw(index.shape[0])
        still = torch.zeros(index.shape[0], self.spec.act_dim, device=index.device)
        self._obs = self._obs.clone()
        self._obs[index] = self._observe(qpos, qvel, still)
        self._qpos[index] = qpos
        self._qvel[index] = qvel
        self._last_action[index] = 0.0
        self._steps[index] = 0

    def _observe(self, qpos: Tensor, qvel: Tensor, last_action: Tensor) -> Tensor:
        return self.task.observe(qpos, qvel, last_action).to(torch.float32)

    def _give(self, obs: Tensor) -> Tensor:
        """Copy to the caller's device, so that the caller cannot change the environment's state."""
        return obs.to(self.device, copy=True)
