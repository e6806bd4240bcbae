"""What every batched environment provides.

A vector environment runs ``num_envs`` copies (N) in lockstep. All tensors it takes and returns are
on its ``device``. It resets finished copies inside the same ``step``: ``obs`` is then the first
observation of the next episode, and ``final_obs`` keeps the true last observation of the old one.

``action[t]``, ``reward[t]`` and ``terminated[t]`` belong to the transition ``obs[t] -> obs[t+1]``.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pwm.errors import ActionError, EnvError


@dataclass(frozen=True)
class EnvSpec:
    """Constant facts about a task.

    Attributes:
        name: unique task name, e.g. ``dflex_hopper``; checkpoints are tied to it.
        obs_dim: width of one observation.
        act_dim: width of one action; actions lie in [-1, 1].
        episode_length: control steps after which an episode is truncated.
        control_dt: seconds of simulated time per control step (0.0 where time has no unit).
    """

    name: str
    obs_dim: int
    act_dim: int
    episode_length: int
    control_dt: float


class StepResult(NamedTuple):
    """Result of one control step of N environments.

    Attributes:
        obs: [N, obs_dim] float32, observation to act on next (after auto-reset where finished).
        reward: [N] float32, reward of this transition.
        terminated: [N] bool, the task ended for good (its value is zero).
        truncated: [N] bool, the time limit was reached (the value is bootstrapped).
        final_obs: [N, obs_dim] float32, the true next observation of every environment; equals
            ``obs`` where the episode goes on.
    """

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_obs: Tensor


@runtime_checkable
class VectorEnv(Protocol):
    """N copies of one task."""

    spec: EnvSpec
    num_envs: int
    device: torch.device

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes everywhere; ``seed`` restarts the random stream. Returns obs [N, obs_dim]."""
        ...

    def step(self, action: Tensor) -> StepResult:
        """Advance every copy by one control step.

        Args:
            action: [N, act_dim] float, clipped to [-1, 1].

        Raises:
            ActionError: wrong shape or a non-finite entry.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to continue bit-identically: physics, counters, random stream.

        Only tensors, numbers, strings, lists and dicts, so that it loads with ``weights_only=True``.

        Raises:
            EnvError: the suite cannot save its state.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state`` of an environment built with the same options."""
        ...

    def close(self) -> None:
        """Free threads and simulator memory."""
        ...


@runtime_checkable
class Renderable(Protocol):
    """Optional contract of an environment that can be drawn, besides ``VectorEnv``.

    Drawing changes nothing that ``step`` returns, and costs nothing until ``start_rendering``.
    """

    def start_rendering(self) -> None:
        """Set up all that ``render`` needs. Running episodes are lost: ``reset`` must follow.

        Raises:
            EnvError: this task cannot be drawn, or not on this machine; the message says what to install.
        """
        ...

    def render(self, index: int) -> np.ndarray:
        """Picture [height, width, 3] uint8 of copy ``index`` in its present state.

        Raises:
            EnvError: ``start_rendering`` was not called.
        """
        ...


@runtime_checkable
class JudgesSuccess(Protocol):
    """Optional contract of an environment whose task may say whether an episode reached its goal."""

    def take_successes(self) -> list[bool]:
        """Return whether the first episode of every copy since each ``reset`` ended in success.

        In the order of the resets, and of the copies within each; those since the last call, of resets whose
        every copy has finished its first episode. Empty where the task does not say it.
        """
        ...


def successes_of(env: VectorEnv, episodes: int) -> list[bool]:
    """Take what ``env`` knows of success in the ``episodes`` it was last evaluated in; empty if nothing."""
    return env.take_successes()[:episodes] if isinstance(env, JudgesSuccess) else []


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Let ``generator`` go on from ``state`` (bytes, as ``get_state`` gave it).

    CPU and GPU draw with different methods, whose states mean nothing to each other: ``generator`` then
    begins a stream that ``state`` alone decides.

    Warns:
        RuntimeWarning: ``state`` is that of another kind of device.
    """
    state = state.cpu()
    if state.numel() == generator.get_state().numel():
        generator.set_state(state)
        return
    digest = hashlib.sha256(state.numpy().tobytes()).digest()
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    warnings.warn(
        "the state was saved on another kind of device: new random streams begin, so this run continues, but "
        "not bit by bit the one it would have been",
        RuntimeWarning,
        stacklevel=3,
    )


def check_state(state: dict[str, Any], name: str, key: str, current: Tensor) -> None:
    """Raise EnvError unless ``state`` is of task ``name``, its entry ``key`` shaped like ``current``."""
    if state["name"] != name:
        raise EnvError(f"state of {state['name']!r} cannot be loaded into {name!r}")
    if state[key].shape != current.shape:
        there, here = tuple(state[key].shape), tuple(current.shape)
        raise EnvError(f"the {key} of the saved state has shape {there}, expected {here}")


def check_action(action: Tensor, num_envs: int, act_dim: int) -> None:
    """Raise ActionError unless ``action`` is a finite float tensor of shape [num_envs, act_dim]."""
    if tuple(action.shape) != (num_envs, act_dim):
        raise ActionError(f"action has shape {tuple(action.shape)}, expected ({num_envs}, {act_dim})")
    # A NaN or infinity anywhere makes the sum non-finite: one reduction instead of a mask.
    if math.isfinite(action.sum().item()):
        return
    # Else they may only have been too large to be added up.
    if bad := (~torch.isfinite(action)).any(-1).nonzero().flatten().tolist():
        raise ActionError(f"action of environment(s) {bad[:8]} is not finite; actions must lie in [-1, 1]")


def check_observation(name: str, obs: Tensor, when: str) -> None:
    """Raise EnvError unless ``obs`` [N, obs_dim] of task ``name`` is finite; ``when`` ends the message."""
    if not math.isfinite(obs.sum().item()):
        _refuse_non_finite(name, {"observation": obs}, when)


def check_result(name: str, result: StepResult, when: str) -> None:
    """Raise EnvError unless rewards and observations of a step are finite; see ``check_observation``."""
    # As for actions: one number to look at instead of all.
    if not math.isfinite((result.final_obs.sum() + result.obs.sum() + result.reward.sum()).item()):
        values = {"reward": result.reward, "final_obs": result.final_obs, "obs": result.obs}
        _refuse_non_finite(name, values, when)


def _refuse_non_finite(name: str, values: dict[str, Tensor], when: str) -> None:
    """Raise EnvError if an entry is not finite; else they were only too large to be added up."""
    for key, value in values.items():
        bad = (~torch.isfinite(value)).view(len(value), -1)
        if bad.any():
            index = int(bad.any(1).nonzero()[0])
            entries = bad[index].nonzero().flatten().tolist()[:8]
            raise EnvError(f"{name}: {key} of environment {index} is not finite (entries {entries}) {when}")
