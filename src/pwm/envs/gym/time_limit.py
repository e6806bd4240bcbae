"""The time limit of an environment, in whichever way it is declared."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import TimeLimit

from pwm.envs.gym.options import MAX_EPISODE_LENGTH
from pwm.errors import EnvError

# Steps of an episode where nothing declares a limit.
DEFAULT_EPISODE_LENGTH = 1000
# How environments call a limit that they keep by themselves.
ATTRIBUTES = ("_max_episode_steps", "max_episode_steps")
# What properties raise that need more than the constructor made.
TOO_EARLY = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError, ResetNeeded)


def layers(env: Any) -> Iterator[Any]:
    """The wrappers of ``env`` from the outermost in, then the environment itself."""
    yield env
    while env is not env.unwrapped:
        env = env.env
        yield env


def limited(name: str, env: Any, wanted: int | None) -> tuple[Any, int, bool]:
    """``env`` with a time limit, the limit, and whether it was declared or is the default.

    An environment that ends its episodes earlier by itself is left to do so.

    Args:
        name: id of the environment, for messages.
        env: as Gymnasium makes it.
        wanted: replaces what is declared, if given.

    Raises:
        EnvError: the declared limit is longer than evaluations, which run whole episodes, can be.
    """
    wrappers = [layer for layer in layers(env) if isinstance(layer, TimeLimit)]
    attributes = [(layer, key, value) for layer in layers(env) for key, value in _attributes(layer)]
    if wanted is not None:
        for layer, key, _ in attributes:
            # Properties that only tell follow what they are computed from.
            with contextlib.suppress(AttributeError):
                setattr(layer, key, wanted)
        length, declared = wanted, True
    else:
        found = [layer._max_episode_steps for layer in wrappers] or [value for *_, value in attributes]
        length, declared = min(found, default=DEFAULT_EPISODE_LENGTH), bool(found)
    if length > MAX_EPISODE_LENGTH:
        raise EnvError(
            f"{name} has a time limit of {length} steps, and evaluations run whole episodes; set "
            f"env.episode_length to at most {MAX_EPISODE_LENGTH}"
        )
    return env if wrappers else TimeLimit(env, length), length, declared


def told(layer: Any, key: str) -> Any:
    """An attribute of an environment that is not reset yet; None where it is missing or comes later."""
    try:
        return getattr(layer, key, None)
    except TOO_EARLY:
        return None


def _attributes(layer: Any) -> Iterator[tuple[str, int]]:
    """Attributes that state a limit, of this layer alone."""
    for key in ATTRIBUTES:
        # Asked only where it is there: wrappers may hand on attributes of what they wrap.
        value = inspect.getattr_static(layer, key, None)
        if isinstance(value, property):
            value = told(layer, key)
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0:
            yield key, int(value)
