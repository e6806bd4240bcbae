"""What the environments share whose copies a simulator steps together: episodes, saved states, pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pwm.envs.base import EnvSpec, StepResult, check_state, restore_generator
from pwm.errors import EnvError

if TYPE_CHECKING:
    from pwm.envs.engines.mujoco_camera import MujocoCamera

# What a simulator returns beyond it is taken for a blow-up.
STATE_LIMIT = 1e6
# Positions [n, nq] and velocities [n, nv] in float64, and what else a copy keeps from step to step [n, k].
Start = tuple[Tensor, Tensor, Tensor]


class BatchedEnv(ABC):
    """N copies of one task on one simulator; see ``pwm.envs.base.VectorEnv`` for the contract.

    Attributes:
        spec: task constants.
        num_envs: N.
        device: where returned tensors live.
        invalid_states: how many invalid states ended an episode since the environment was built.
        kept: name under which the third tensor of ``Start`` is saved.
    """

    kept: ClassVar[str]

    def __init__(
        self, spec: EnvSpec, num_envs: int, device: torch.device, simulator: torch.device, seed: int
    ) -> None:
        """Reset with ``seed``; the state of the simulation lives on the device ``simulator``."""
        self.spec = spec
        self.num_envs = num_envs
        self.device = device
        self.invalid_states = 0
        self._simulator = simulator
        self._camera: MujocoCamera | None = None
        self._generator = torch.Generator(device=simulator)
        self.reset(seed)

    @abstractmethod
    def step(self, action: Tensor) -> StepResult:
        """Advance every copy by one control step; see ``VectorEnv.step``."""

    @abstractmethod
    def _start(self, count: int) -> Start:
        """Draw the first states of ``count`` episodes."""

    @abstractmethod
    def _observe(self, qpos: Tensor, qvel: Tensor, kept: Tensor) -> Tensor:
        """Return the observations [n, obs_dim] float32 of states."""

    @abstractmethod
    def _make_camera(self) -> MujocoCamera:
        """Return a camera that looks at the task's model."""

    @abstractmethod
    def _free(self) -> None:
        """Free the simulator's threads and memory."""

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes everywhere; see ``VectorEnv.reset``. Returns [N, obs_dim] float32."""
        if seed is not None:
            self._generator.manual_seed(seed)
        self._qpos, self._qvel, self._kept = start = self._start(self.num_envs)
        self._steps = torch.zeros(self.num_envs, dtype=torch.int64, device=self._simulator)
        self._obs = self._observe(*start)
        return self._give(self._obs)

    def _finish(
        self, state: Start, reward: Tensor, final_obs: Tensor, terminated: Tensor, invalid: Tensor | None
    ) -> StepResult:
        """Take over what the simulator returned, and start new episodes where old ones have ended.

        Args:
            state: of all copies after the step.
            reward, final_obs, terminated: as in ``StepResult``, on the simulator's device.
            invalid: [N] bool, see ``invalid_copies``. These copies get reward 0 for this step and keep the
                observation before it as their last one; those that are not ``terminated`` are truncated.
        """
        self._steps += 1
        truncated = self._steps >= self.spec.episode_length
        if invalid is not None:
            self.invalid_states += int(invalid.sum())
            reward = torch.where(invalid, 0.0, reward)
            final_obs = torch.where(invalid.unsqueeze(1), self._obs, final_obs)
            truncated = truncated | invalid
        (self._qpos, self._qvel, self._kept), self._obs = state, final_obs
        done = terminated | truncated
        if bool(done.any()):
            truncated = truncated & ~terminated
            self._restart(done.nonzero().squeeze(1))
        return StepResult(
            self._give(self._obs),
            reward.to(self.device, torch.float32),
            terminated.to(self.device),
            truncated.to(self.device),
            self._give(final_obs),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return physics, counters, observation and random stream; see ``VectorEnv``."""
        return {
            "name": self.spec.name,
            "qpos": self._qpos.clone(),
            "qvel": self._qvel.clone(),
            self.kept: self._kept.clone(),
            "steps": self._steps.clone(),
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
        names = ("qpos", "qvel", self.kept, "steps", "obs")
        tensors = [state[name].to(self._simulator, copy=True) for name in names]
        self._qpos, self._qvel, self._kept, self._steps, self._obs = tensors
        restore_generator(self._generator, state["generator"])
        self.invalid_states = int(state["invalid_states"])

    def start_rendering(self) -> None:
        """Set up the camera; see ``pwm.envs.base.Renderable``.

        Raises:
            EnvError: this machine has no usable OpenGL.
        """
        if self._camera is None:
            self._camera = self._make_camera()

    def render(self, index: int) -> np.ndarray:
        """Picture [480, 640, 3] uint8 of copy ``index``; see ``pwm.envs.base.Renderable``."""
        if self._camera is None:
            raise EnvError(f"{self.spec.name}: call start_rendering before render")
        return self._camera.picture(self._qpos[index].cpu().numpy())

    def close(self) -> None:
        """Free threads, simulator memory and the camera."""
        self._free()
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def _restart(self, index: Tensor) -> None:
        """Start new episodes in the copies ``index`` [n] and replace their current observations."""
        start = self._start(len(index))
        self._obs = self._obs.clone()
        self._obs[index] = self._observe(*start)
        self._qpos[index], self._qvel[index], self._kept[index] = start
        self._steps[index] = 0

    def _give(self, obs: Tensor) -> Tensor:
        """Copy to the caller's device, so that the caller cannot change the environment's state."""
        return obs.to(self.device, copy=True)


def invalid_copies(*values: Tensor) -> Tensor | None:
    """Return [N] bool, where any entry of ``values`` [N, k] is not finite or too large; None if nowhere."""
    size = torch.cat(values, dim=1).abs_()
    # NaN propagates through max and fails the comparison, as infinity does.
    return None if float(size.max()) <= STATE_LIMIT else ~(size.amax(1) <= STATE_LIMIT)
