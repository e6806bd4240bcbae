"""Copies of one environment, stepped one after the other in this process."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pwm.envs.gym import state
from pwm.envs.gym.creation import import_module, make
from pwm.envs.gym.faults import Blame, WrongReturn, described
from pwm.envs.gym.options import Options
from pwm.envs.gym.random_streams import CopyStream, borrowed_globals, may_draw_from_globals
from pwm.envs.gym.spaces import ActionScaling, ObservationLayout
from pwm.envs.gym.time_limit import limited, told
from pwm.errors import EnvError


@dataclass(frozen=True)
class Facts:
    """Facts that all copies of an environment share.

    Attributes:
        action_space: Gymnasium's space of one action.
        observation_space: that of one observation, as the environment returns it.
        episode_length: steps after which an episode is truncated at the latest.
        declared: whether the environment, or the configuration, states that limit.
        control_dt: seconds per control step where the environment states them, else 0.
        render_modes: the ways in which it can be drawn.
    """

    action_space: Any
    observation_space: Any
    episode_length: int
    declared: bool
    control_dt: float
    render_modes: tuple[str, ...]


def common(name: str, facts: Sequence[Facts]) -> Facts:
    """The facts of all copies of ``name``.

    Raises:
        EnvError: two copies differ.
    """
    first = facts[0]
    for other in facts[1:]:
        for key in ("action_space", "observation_space", "episode_length"):
            mine, its = getattr(first, key), getattr(other, key)
            if mine != its:
                raise EnvError(f"{name}: the {key} of its copies differs, {mine} and {its}")
    return first


class Step(NamedTuple):
    """One step of n copies.

    Attributes:
        obs: [n, obs_dim], what to act on next: the first of a new episode where one ended.
        final_obs: [n, obs_dim], the observation that the step led to.
        reward: [n] float64.
        terminated, truncated: [n] bool; never both, termination wins.
        success: [n] float64, ``info["is_success"]`` as 0 or 1; NaN where there is none.
    """

    obs: np.ndarray
    final_obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray


class Copies:
    """Copies of an environment with same-step auto-reset. Of infos only ``is_success`` is kept.

    Args:
        options: what to make.
        first: number of the first copy here among all, for messages.
        seeds: one for every copy; they start the streams of the global generators.

    Raises:
        EnvError: a copy cannot be made or has spaces that are not supported, or two copies differ.
    """

    def __init__(self, options: Options, first: int, seeds: Sequence[int]) -> None:
        self.envs: list[Any] = []
        self.streams = [CopyStream(seed) for seed in seeds]
        self._name = options.id
        copies = range(first, first + len(seeds))
        self._resets = [Blame(f"{options.id}: reset of environment {i}") for i in copies]
        self._steps = [Blame(f"{options.id}: step of environment {i}") for i in copies]
        import_module(options.id, seeds[0])
        try:
            with borrowed_globals():
                facts = [self._add(options, stream) for stream in self.streams]
            # Refused before they are compared, which spaces of one's own may not be able to.
            ActionScaling(options.id, facts[0].action_space)
            self._layout = ObservationLayout(options.id, facts[0].observation_space)
            self.facts = common(options.id, facts)
        except EnvError:
            self.close()
            raise
        self._draws = any(may_draw_from_globals(env) for env in self.envs)

    def _add(self, options: Options, stream: CopyStream) -> Facts:
        stream.seed_globals()
        env = make(options)
        self.envs.append(env)
        with Blame(f"{options.id}: its constructor"):
            _own_spaces(env.unwrapped)
            env, length, declared = limited(options.id, env, options.episode_length)
            self.envs[-1] = env
            return Facts(
                env.action_space,
                env.observation_space,
                length,
                declared,
                _seconds(told(env.unwrapped, "dt")),
                tuple(env.metadata.get("render_modes") or ()),
            )

    def reset(self, seeds: Sequence[int] | None) -> np.ndarray:
        """Begin new episodes, with new random streams if there are seeds; returns obs [n, obs_dim]."""
        obs = self._rows()
        with self._globals():
            for i, stream in enumerate(self.streams):
                if seeds is not None:
                    stream.restart(seeds[i])
                self._begin(i, obs[i], None if seeds is None else seeds[i])
        return obs

    def step(self, actions: np.ndarray) -> Step:
        """Advance every copy by its action [n, *shape] of the action space."""
        n = len(self.envs)
        obs, (reward, success) = self._rows(), np.empty((2, n))
        terminated, truncated = np.zeros((2, n), dtype=bool)
        with self._globals():
            for i in range(n):
                # Not actions[i], which is no array where actions are scalars.
                reward[i], terminated[i], truncated[i], success[i] = self._advance(i, actions[i, ...], obs[i])
            truncated &= ~terminated
            final_obs = obs.copy()
            for done in np.flatnonzero(terminated | truncated):
                self._begin(int(done), obs[done], None)
        return Step(obs, final_obs, reward, terminated, truncated, success)

    def save(self) -> list[dict[str, Any]]:
        """Return the state of every copy; see ``pwm.envs.gym.state``."""
        return [state.save(env, stream) for env, stream in zip(self.envs, self.streams, strict=True)]

    def load(self, saved: Sequence[dict[str, Any]]) -> None:
        """Put every copy into its state of ``saved``."""
        for env, stream, its in zip(self.envs, self.streams, saved, strict=True):
            state.load(env, stream, its)

    def close(self) -> None:
        """Close every copy; what one raises then is only a warning, for its work is done."""
        for env in self.envs:
            try:
                with Blame(f"{self._name}: close"):
                    env.close()
            except EnvError as error:
                warnings.warn(str(error), RuntimeWarning, stacklevel=2)

    def _rows(self) -> np.ndarray:
        return np.empty((len(self.envs), self._layout.dim), dtype=self._layout.dtype)

    def _globals(self) -> contextlib.AbstractContextManager[None]:
        return borrowed_globals() if self._draws else contextlib.nullcontext()

    def _begin(self, index: int, row: np.ndarray, seed: int | None) -> None:
        """Reset one copy; its first observation goes into ``row``."""
        env = self.envs[index]
        with self._resets[index]:
            if self._draws:
                self.streams[index].seed_globals()
                if seed is not None:
                    env.unwrapped.observation_space.seed(seed)
                    env.unwrapped.action_space.seed(seed)
            found = env.reset(seed=seed)
            if not isinstance(found, tuple) or len(found) != 2:
                raise WrongReturn(f"{described(found)} instead of (observation, info)")
            self._layout.write(found[0], row)

    def _advance(self, index: int, action: np.ndarray, row: np.ndarray) -> tuple[float, bool, bool, float]:
        """Step one copy; what it observes goes into ``row``. Returns the rest of ``Step``."""
        with self._steps[index]:
            if self._draws:
                self.streams[index].seed_globals()
            observation, reward, terminated, truncated, info = self.envs[index].step(action)
            self._layout.write(observation, row)
            ends = _flag("terminated", terminated), _flag("truncated", truncated)
            return _number(reward), *ends, _success(info)
        raise AssertionError("a Blame never swallows an exception")


def _own_spaces(core: Any) -> None:
    """Give an environment spaces of its own.

    Spaces draw samples from generators of theirs, and are often attributes of the class, which all copies of
    an environment share.
    """
    for name in ("observation_space", "action_space"):
        # Where it is a property, every copy has made its own.
        if not isinstance(getattr(type(core), name, None), property):
            setattr(core, name, copy.deepcopy(getattr(core, name)))


def _seconds(dt: Any) -> float:
    """The time of a step, 0 where it is not stated."""
    stated = isinstance(dt, (int, float, np.number)) and not isinstance(dt, bool) and 0.0 < dt < np.inf
    return float(dt) if stated else 0.0


def _number(reward: Any) -> float:
    """A reward given as any number, or as an array of one."""
    if isinstance(reward, (float, int, np.number, np.bool_)):
        return float(reward)
    found = np.asarray(reward)
    if found.size != 1 or not np.can_cast(found.dtype, np.float64, "same_kind"):
        raise WrongReturn(f"the reward {described(reward)} instead of one number")
    return float(found.reshape(()))


def _flag(name: str, value: Any) -> bool:
    """A flag given as a truth value, or as an array of one."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    found = np.asarray(value)
    if found.size != 1 or found.dtype.kind not in "biuf":
        raise WrongReturn(f"{name} {described(value)} instead of one truth value")
    return bool(found.reshape(()))


def _success(info: Any) -> float:
    """Whether the episode has reached its goal, by the name that Gymnasium's environments give it."""
    if isinstance(info, dict) and "is_success" in info:
        return float(_flag("info['is_success']", info["is_success"]))
    return np.nan
