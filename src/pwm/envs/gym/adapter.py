"""The vector environment: actions in [-1, 1], flat float32 observations, faults named."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled
from torch import Tensor

from pwm.envs.base import EnvSpec, StepResult, check_action
from pwm.envs.engines.opengl import choose_backend
from pwm.envs.gym.copies import Copies
from pwm.envs.gym.creation import INSTALL_HINT
from pwm.envs.gym.faults import Blame, WrongReturn, described
from pwm.envs.gym.options import Options
from pwm.envs.gym.precision import FAINT, FaintWatch, PrecisionWatch
from pwm.envs.gym.processes import Processes
from pwm.envs.gym.spaces import ActionScaling, ObservationLayout, listed
from pwm.envs.gym.success import SuccessTally
from pwm.errors import EnvError


class GymEnv:
    """N copies of a Gymnasium environment with same-step auto-reset; see ``VectorEnv``."""

    def __init__(self, options: Options, num_envs: int, device: torch.device, seed: int) -> None:
        """Build and reset with ``seed``.

        Raises:
            EnvError: unknown id, missing dependency, unsupported spaces, an observation that is no number, or
                whatever the environment raised.
        """
        self.num_envs = num_envs
        self.device = device
        self._options = options
        # The copies that can be drawn, once there are any.
        self._pictured: list[Any] = []
        self._successes = SuccessTally(num_envs)
        self._env = _copies(options, _spread(seed, num_envs))
        facts = self._env.facts
        try:
            self._scaling = ActionScaling(options.id, facts.action_space)
            self._layout = ObservationLayout(options.id, facts.observation_space)
            self.spec = EnvSpec(
                options.task_name, self._layout.dim, self._scaling.dim, facts.episode_length, facts.control_dt
            )
            wide = self._layout.dtype == np.float64
            self._precision = PrecisionWatch(self._layout.dim) if wide else None
            fractions = self._layout.dtype.kind == "f"
            self._faint = FaintWatch(self._layout.dim) if fractions else None
            self.reset(seed)
        except EnvError:
            self._env.close()
            raise
        if not facts.declared:
            warnings.warn(
                f"{options.id} declares no time limit: its episodes are cut after {facts.episode_length} "
                "steps; set env.episode_length to choose",
                RuntimeWarning,
                stacklevel=2,
            )

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes everywhere; see ``VectorEnv.reset``. Returns [N, obs_dim] float32.

        Raises:
            EnvError: an observation is no number, or the environment raised something.
        """
        seeds = None if seed is None else _spread(seed, self.num_envs)
        self._successes.begin()
        return self._observed(self._env.reset(seeds), "at reset")

    def step(self, action: Tensor) -> StepResult:
        """Advance every copy by one control step; see ``VectorEnv.step``.

        Raises:
            ActionError: wrong shape or a non-finite entry.
            EnvError: an observation or a reward is no number, or the environment raised something.
        """
        check_action(action, self.num_envs, self.spec.act_dim)
        unit = action.detach().to("cpu", torch.float32).clamp(-1.0, 1.0).numpy()
        step = self._env.step(self._scaling(unit))
        with np.errstate(over="ignore"):
            reward = step.reward.astype(np.float32)
        if not np.isfinite(reward).all():
            index = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise EnvError(
                f"{self._options.id}: the reward of environment {index} is {step.reward[index]}, which is no "
                "finite float32 number"
            )
        final_obs = self._observed(step.final_obs, "after a step")
        obs = final_obs.clone()
        if (done := step.terminated | step.truncated).any():
            self._successes.add(step.success, done)
            # The other rows are those that were looked at.
            obs[torch.from_numpy(done).to(self.device)] = self._observed(step.obs[done], "at reset", done)
        return StepResult(
            obs,
            torch.from_numpy(reward).to(self.device),
            torch.from_numpy(step.terminated).to(self.device),
            torch.from_numpy(step.truncated).to(self.device),
            final_obs,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every copy; see ``VectorEnv.state_dict``.

        Raises:
            EnvError: the copies are neither MuJoCo nor classic-control environments of Gymnasium, nor can
                they save their state themselves.
        """
        return {"name": self.spec.name, "envs": self._env.save()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            EnvError: the state belongs to another task or number of copies, or cannot be restored.
        """
        if state["name"] != self.spec.name:
            raise EnvError(f"state of {state['name']!r} cannot be loaded into {self.spec.name!r}")
        if len(state["envs"]) != self.num_envs:
            raise EnvError(f"state holds {len(state['envs'])} environments, expected {self.num_envs}")
        self._env.load(state["envs"])

    def take_successes(self) -> list[bool]:
        """Return which first episodes ended with ``info["is_success"]``; see ``JudgesSuccess``."""
        return self._successes.take()

    def start_rendering(self) -> None:
        """Make all copies anew, in this process and with pictures; see ``pwm.envs.base.Renderable``.

        Raises:
            EnvError: the environment makes no pictures, or a package or OpenGL is missing.
        """
        options = self._options
        _quiet_pygame()
        # Asked before it is made with pictures, which its constructor may not take.
        if "rgb_array" not in self._env.facts.render_modes:
            raise EnvError(f"{options.id} has no render mode rgb_array: it cannot be drawn")
        drawn = replace(options, vectorization="sync", kwargs={**options.kwargs, "render_mode": "rgb_array"})
        self._env.close()
        copies = Copies(drawn, 0, _spread(0, self.num_envs))
        self._env = copies
        if hasattr(copies.envs[0].unwrapped, "mujoco_renderer"):
            choose_backend()
        self._pictured = copies.envs
        self.reset(0)
        self.render(0)

    def render(self, index: int) -> np.ndarray:
        """Picture [height, width, 3] uint8 of copy ``index``; see ``pwm.envs.base.Renderable``."""
        if not self._pictured:
            raise EnvError(f"{self.spec.name}: call start_rendering before render")
        with Blame(f"{self._options.id}: drawing it"):
            try:
                return _picture(self._pictured[index].render())
            except DependencyNotInstalled as error:
                raise EnvError(f"drawing {self._options.id}: {error}; {INSTALL_HINT}") from error
        raise AssertionError("a Blame never swallows an exception")

    def close(self) -> None:
        """Close every copy."""
        self._env.close()

    def _observed(self, obs: np.ndarray, when: str, copies: np.ndarray | None = None) -> Tensor:
        """``obs`` [n, obs_dim] as float32 on the device; ``copies`` [N] says whose they are, if not all are.

        Raises:
            EnvError: an entry is not finite.
        """
        with np.errstate(over="ignore"):
            single = obs.astype(np.float32)
        # Pictures are large, and whole numbers always finite.
        if obs.dtype.kind == "f" and not (good := np.isfinite(single)).all():
            row = int(np.flatnonzero(~good.all(1))[0])
            index = row if copies is None else int(np.flatnonzero(copies)[row])
            entries = listed(self._layout.labels(), ~good[row])
            fault = "exceeds float32" if np.isfinite(obs[row]).all() else "is not finite"
            raise EnvError(
                f"{self._options.id}: the observation of environment {index} {when} {fault}, "
                f"entries {entries}"
            )
        if self._precision is not None and (lost := self._precision.lost(obs)) is not None:
            self._precision = None
            self._warn(
                lost,
                "are lost in float32, which has 7 digits; let it give differences, or smaller numbers",
            )
        if self._faint is not None and (faint := self._faint.found(obs)) is not None:
            self._faint = None
            if faint.any():
                self._warn(
                    faint,
                    f"stay below {FAINT}, where the model hardly sees them; let it give larger numbers, in a "
                    "smaller unit",
                )
        return torch.from_numpy(single).to(self.device)

    def _warn(self, found: np.ndarray, why: str) -> None:
        """Say what becomes of the changes of the observation entries that are true in ``found`` [dim]."""
        entries = listed(self._layout.labels(), found)
        warnings.warn(
            f"{self._options.id}: changes of observation entries {entries} {why}",
            RuntimeWarning,
            stacklevel=4,
        )


def _copies(options: Options, seeds: list[int]) -> Copies | Processes:
    return Copies(options, 0, seeds) if options.vectorization == "sync" else Processes(options, seeds)


def _picture(found: Any) -> np.ndarray:
    """Return the picture that ``render`` of an environment gave, [height, width, 3] uint8.

    Raises:
        WrongReturn: it is no picture; as one it would be black, torn or refused by whatever stores it.
    """
    picture = np.asarray(found)
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size or picture.dtype.kind not in "iu":
        raise WrongReturn(f"{described(found)} instead of a picture [height, width, 3] of dtype uint8")
    if picture.min() < 0 or picture.max() > 255:
        raise WrongReturn(
            f"a picture with numbers from {picture.min()} to {picture.max()} instead of 0 to 255"
        )
    return picture.astype(np.uint8)


def _spread(seed: int, count: int) -> list[int]:
    """``count`` seeds made of one: consecutive integers would share streams between neighbouring runs."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(count)]


def _quiet_pygame() -> None:
    """Keep pygame, which draws the classic-control environments, from greeting and from missing a display."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
