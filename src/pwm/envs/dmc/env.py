"""The vector environment of the batched dm_control tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pwm.envs.base import EnvSpec, StepResult, check_action, check_state, restore_generator
from pwm.envs.dmc import Options
from pwm.envs.dmc.physics import REPEAT, Physics
from pwm.envs.dmc.tasks import load_task
from pwm.envs.dmc.tasks.common import Start
from pwm.envs.task_table import task_row
from pwm.errors import EnvError

if TYPE_CHECKING:
    from pwm.envs.engines.mujoco_camera import MujocoCamera

# What physics.step returns beyond it is taken for a blow-up.
STATE_LIMIT = 1e6
# Physics, and what decides how a copy goes on, by the names it is saved under.
STATE = ("qpos", "qvel", "target", "steps", "obs")


class DmcEnv:
    """N copies of one task; see ``pwm.envs.base.VectorEnv`` for the contract.

    Each step starts from a zero solver warm start, so that the state is positions, velocities and target
    alone. Episodes are only truncated. A copy whose state holds a non-finite entry or one beyond 1e6 is cut
    with reward 0 for that step, and its ``final_obs`` is the observation before the step.

    Attributes:
        spec: task constants; ``spec.name`` is ``dmc_<task>``.
        num_envs: N.
        device: where returned tensors live; the simulation is on the CPU.
        invalid_states: how many invalid states were cut since the environment was built.
    """

    def __init__(self, options: Options, num_envs: int, device: torch.device, seed: int) -> None:
        """Build the environment and reset it with ``seed``.

        Raises:
            EnvError: dm_control is not installed.
        """
        row = task_row(options.task)
        self.task = load_task(options.task)
        length = options.episode_length or row.episode_length
        self.spec = EnvSpec(
            options.task_name, row.obs_dim, row.action_dim, length, REPEAT * self.task.recipe.control_dt
        )
        self.num_envs = num_envs
        self.device = device
        self.invalid_states = 0
        self.physics = Physics(self.task.recipe, num_envs, options.num_threads)
        self._camera: MujocoCamera | None = None
        self._generator = torch.Generator()
        self.reset(seed)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes everywhere; see ``VectorEnv.reset``. Returns [N, obs_dim] float32."""
        if seed is not None:
            self._generator.manual_seed(seed)
        start = self.task.start(self.physics, self._generator, self.num_envs)
        self._qpos, self._qvel, self._target = start
        self._steps = torch.zeros(self.num_envs, dtype=torch.int64)
        self._obs = self._first_observation(start)
        return self._give(self._obs)

    def step(self, action: Tensor) -> StepResult:
        """Advance every copy by two control steps; see ``VectorEnv.step``.

        Raises:
            ActionError: wrong shape or a non-finite entry.
        """
        check_action(action, self.num_envs, self.spec.act_dim)
        # Rounded to float32 first, as the suite's adapter and the replay memory hold them.
        ctrl = action.detach().to("cpu", torch.float32).clamp(-1.0, 1.0).to(torch.float64)
        before = self._obs
        moments = self.physics.step(self._qpos, self._qvel, ctrl, self._target)
        reward = self.task.reward(moments).unflatten(0, (-1, REPEAT)).sum(1)
        end = moments.every_second()
        final_obs = self.task.observe(end).to(torch.float32)
        self._steps += 1
        truncated = self._steps >= self.spec.episode_length
        size = torch.cat((end.qpos, end.qvel), dim=1).abs_()
        # NaN propagates through max and fails the comparison, as infinity does.
        if not float(size.max()) <= STATE_LIMIT:
            valid = size.amax(1) <= STATE_LIMIT
            self.invalid_states += int((~valid).sum())
            truncated = truncated | ~valid
            reward = torch.where(valid, reward, 0.0)
            final_obs = torch.where(valid.unsqueeze(1), final_obs, before)
        # Copies, because the moments are views of all that the step simulated.
        self._qpos, self._qvel, self._obs = end.qpos.clone(), end.qvel.clone(), final_obs
        if bool(truncated.any()):
            self._restart(truncated.nonzero().squeeze(1))
        return StepResult(
            self._give(self._obs),
            reward.to(self.device, torch.float32),
            torch.zeros_like(truncated).to(self.device),
            truncated.to(self.device),
            self._give(final_obs),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return physics, targets, counters, observation and random stream; see ``VectorEnv``."""
        return {
            "name": self.spec.name,
            **{key: getattr(self, f"_{key}").clone() for key in STATE},
            "generator": self._generator.get_state(),
            "invalid_states": self.invalid_states,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            EnvError: the state belongs to another task or another number of copies.
        """
        check_state(state, self.spec.name, "qpos", self._qpos)
        for key in STATE:
            setattr(self, f"_{key}", state[key].to("cpu", copy=True))
        restore_generator(self._generator, state["generator"])
        self.invalid_states = int(state["invalid_states"])

    def start_rendering(self) -> None:
        """Set up the camera, the first one of the model; see ``pwm.envs.base.Renderable``.

        Raises:
            EnvError: this machine has no usable OpenGL.
        """
        # Imported here: training draws nothing.
        from pwm.envs.engines.mujoco_camera import MujocoCamera

        if self._camera is None:
            self._camera = MujocoCamera(self.physics.model, 0)

    def render(self, index: int) -> np.ndarray:
        """Picture [480, 640, 3] uint8 of copy ``index``; see ``pwm.envs.base.Renderable``."""
        if self._camera is None:
            raise EnvError(f"{self.spec.name}: call start_rendering before render")
        self.task.place_target(self.physics.model, self._target[index].numpy())
        return self._camera.picture(self._qpos[index].numpy())

    def close(self) -> None:
        """Free threads, simulator memory and the camera."""
        self.physics.close()
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def _restart(self, index: Tensor) -> None:
        """Start new episodes in the copies ``index`` [n] and replace their current observations."""
        start = self.task.start(self.physics, self._generator, len(index))
        self._obs = self._obs.clone()
        self._obs[index] = self._first_observation(start)
        self._qpos[index], self._qvel[index], self._target[index] = start
        self._steps[index] = 0

    def _first_observation(self, start: Start) -> Tensor:
        return self.task.observe(self.physics.look(*start)).to(torch.float32)

    def _give(self, obs: Tensor) -> Tensor:
        """Copy to the caller's device, so that the caller cannot change the environment's state."""
        return obs.to(self.device, copy=True)
