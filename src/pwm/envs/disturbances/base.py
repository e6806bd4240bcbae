"""What every disturbance provides: an environment around another one, which it changes on the way in or out.

A disturbance changes actions before they are executed, or observations before they are seen. Its random
numbers come from a stream of its own, so the environment inside draws what it would draw without it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from pwm import components
from pwm.envs.base import (
    JudgesSuccess,
    Renderable,
    StepResult,
    VectorEnv,
    check_action,
    check_state,
    restore_generator,
)
from pwm.errors import ConfigError, EnvError

# What sets the stream of a disturbance apart from that of the environment, which gets the same seed.
SPAWN_KEY = (7,)


@dataclass
class Options:
    """What disturbs an environment: keys of the group ``env``, beside the environment's own.

    Attributes:
        disturbance: name of a disturbance; empty for none.
        disturbance_strength: how strong, in the unit that the disturbance documents; None for its default.

    Raises:
        ConfigError: there is no such disturbance, or the strength is not one of it.
    """

    disturbance: str = ""
    disturbance_strength: float | None = None

    def __post_init__(self) -> None:
        if self.disturbance:
            load_disturbance(self.disturbance).check(self.strength)
        elif self.disturbance_strength is not None:
            raise ConfigError(
                f"env.disturbance_strength={self.disturbance_strength} without env.disturbance; "
                f"choose one of: {', '.join(components.names('disturbance'))}"
            )

    @property
    def strength(self) -> float:
        """The strength in use; there must be a disturbance."""
        default = load_disturbance(self.disturbance).default
        return default if self.disturbance_strength is None else self.disturbance_strength

    @property
    def values(self) -> dict[str, Any]:
        """The keys with their values; empty where nothing disturbs."""
        return dataclasses.asdict(self) if self.disturbance else {}

    @property
    def suffix(self) -> str:
        """What the name of a disturbed task ends with, e.g. ``+pushes1``: other strengths are other tasks."""
        return f"+{self.disturbance}{self.strength!r}".removesuffix(".0") if self.disturbance else ""


class Disturbed:
    """An environment that is disturbed; see ``pwm.envs.base.VectorEnv`` for the contract.

    The first observation of every episode is shown as it is. A subclass changes actions in ``_act`` or
    observations in ``_see``, and keeps what it needs for that in ``_state``.

    Args:
        env: the environment inside; it is reset.
        options: with the name of this disturbance.
        seed: of the first episodes and of the stream.

    Attributes:
        default: strength unless told otherwise.
        least, most: strengths that are allowed.
        whole: only whole numbers are allowed.
    """

    default: ClassVar[float]
    least: ClassVar[float] = 0.0
    most: ClassVar[float] = 1.0
    whole: ClassVar[bool] = False

    def __init__(self, env: VectorEnv, options: Options, seed: int) -> None:
        self.env, self.strength = env, options.strength
        self.spec = dataclasses.replace(env.spec, name=env.spec.name + options.suffix)
        self.num_envs, self.device = env.num_envs, env.device
        self._generator = torch.Generator(env.device)
        # What a copy keeps from step to step: tensors [N, ...] by name.
        self._state: dict[str, Tensor] = {}
        self.reset(seed)

    @classmethod
    def check(cls, strength: float) -> None:
        """Raise ConfigError unless ``strength`` is allowed."""
        if cls.least <= strength <= cls.most and not (cls.whole and strength % 1):
            return
        kind = "a whole number" if cls.whole else "a number"
        name = cls.__module__.rpartition(".")[2]
        raise ConfigError(
            f"env.disturbance_strength={strength}; of {name} it must be {kind} from {cls.least:g} to "
            f"{cls.most:g}"
        )

    def _start(self, obs: Tensor) -> dict[str, Tensor]:
        """Return the first state of episodes in all copies, which begin with ``obs`` [N, obs_dim]."""
        return {}

    def _act(self, action: Tensor) -> Tensor:
        """Return what is executed instead of ``action`` [N, act_dim] in [-1, 1]; it is clipped to [-1, 1]."""
        return action

    def _see(self, obs: Tensor) -> Tensor:
        """Return what is seen instead of ``obs`` [N, obs_dim], the observation after a step."""
        return obs

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes everywhere; see ``VectorEnv.reset``."""
        if seed is not None:
            sequence = np.random.SeedSequence(seed, spawn_key=SPAWN_KEY)
            self._generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)
        obs = self.env.reset(seed)
        self._state = self._start(obs)
        return obs

    def step(self, action: Tensor) -> StepResult:
        """Advance every copy by one control step; see ``VectorEnv.step``."""
        check_action(action, self.num_envs, self.spec.act_dim)
        result = self.env.step(self._act(action.clamp(-1.0, 1.0)))
        final_obs, done = self._see(result.final_obs), result.terminated | result.truncated
        if bool(done.any()):
            fresh = self._start(result.obs)
            for name, old in self._state.items():
                self._state[name] = torch.where(done.view(-1, *[1] * (old.dim() - 1)), fresh[name], old)
        obs = torch.where(done.unsqueeze(1), result.obs, final_obs)
        return result._replace(obs=obs, final_obs=final_obs)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the environment inside, and all that disturbs it; see ``VectorEnv``."""
        return {
            "name": self.spec.name,
            "env": self.env.state_dict(),
            "generator": self._generator.get_state(),
            **{name: value.clone() for name, value in self._state.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            EnvError: the state belongs to another task or another number of copies.
        """
        for name, value in self._state.items():
            check_state(state, self.spec.name, name, value)
        self.env.load_state_dict(state["env"])
        self._state = {name: state[name].to(self.device, copy=True) for name in self._state}
        restore_generator(self._generator, state["generator"])

    def take_successes(self) -> list[bool]:
        """Return what the environment inside knows of success; see ``pwm.envs.base.JudgesSuccess``."""
        return self.env.take_successes() if isinstance(self.env, JudgesSuccess) else []

    def start_rendering(self) -> None:
        """Set up the pictures of the environment inside; see ``pwm.envs.base.Renderable``."""
        self._drawable().start_rendering()

    def render(self, index: int) -> np.ndarray:
        """Picture [height, width, 3] uint8 of copy ``index``; see ``pwm.envs.base.Renderable``."""
        return self._drawable().render(index)

    def close(self) -> None:
        """Close the environment inside."""
        self.env.close()

    def _drawable(self) -> Renderable:
        if not isinstance(self.env, Renderable):
            raise EnvError(f"{self.spec.name} cannot be drawn: this environment has no pictures")
        return self.env

    def _uniform(self, *shape: int) -> Tensor:
        """Draw numbers in [0, 1), of shape [N, *shape]."""
        return torch.rand(self.num_envs, *shape, generator=self._generator, device=self.device)


def load_disturbance(name: str) -> type[Disturbed]:
    """Class of the disturbance called ``name``.

    Raises:
        UnknownComponentError: there is none; the message lists the names.
    """
    return cast("type[Disturbed]", components.load("disturbance", name).DISTURBANCE)


def disturb(env: VectorEnv, options: Options, seed: int) -> VectorEnv:
    """Return ``env`` as ``options`` disturb it, reset with ``seed``; ``env`` itself where nothing does."""
    return load_disturbance(options.disturbance)(env, options, seed) if options.disturbance else env
