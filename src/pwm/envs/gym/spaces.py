"""Between the action and observation spaces of an environment and flat rows of numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from pwm.envs.gym.faults import WrongReturn
from pwm.errors import EnvError

# Kept as they are; every other kind of number is kept as float64 until it becomes float32.
COMPACT = (np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.float16, np.float32)
# Spaces of one value that become rows.
FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Text)
# Kinds of dtypes of truth values and integers.
WHOLE = "biu"
# Entries that a message lists.
NAMED = 8


class ActionScaling:
    """From actions in [-1, 1] to those of a Box, each dimension linearly from its low to its high bound.

    The result has the Box's own dtype and lies within its bounds to the last bit; -1 and 1 give exactly the
    bounds. Integers are the nearest ones, so all between the bounds can be reached.

    Args:
        name: id of the environment, for messages.
        space: action space of one copy.

    Raises:
        EnvError: ``space`` is not a Box, has no entries, or a bound is infinite.
    """

    def __init__(self, name: str, space: Any) -> None:
        if not isinstance(space, spaces.Box):
            raise EnvError(
                f"{name} has action space {_text(space)}; only continuous (Box) actions are supported, "
                "discrete ones are not"
            )
        if not space.is_bounded():
            raise EnvError(
                f"{name} has unbounded actions {_text(space)}; they cannot be rescaled from [-1, 1]"
            )
        if not np.prod(space.shape):
            raise EnvError(
                f"{name} has action space {_text(space)} without entries; there is nothing to learn"
            )
        self.dim = int(np.prod(space.shape))
        self._shape, self._dtype = space.shape, space.dtype
        self._whole = not np.issubdtype(space.dtype, np.floating)
        # Long doubles hold every 64-bit integer.
        work = np.longdouble if self._whole else np.result_type(space.dtype, np.float64)
        self._low, self._high = space.low.ravel().astype(work), space.high.ravel().astype(work)

    def __call__(self, unit: np.ndarray) -> np.ndarray:
        """Actions [N, *shape] of the space for ``unit`` [N, dim] in [-1, 1]."""
        share = (unit + self._low.dtype.type(1)) * 0.5
        # Two products instead of one with the width, which may exceed what the type holds.
        action = self._low * (1 - share) + self._high * share
        if self._whole:
            action = np.rint(action)
        # Every bound is one of the dtype's numbers, so rounding to the dtype cannot pass it again.
        action = action.clip(self._low, self._high).astype(self._dtype)
        return action.reshape(len(unit), *self._shape)

    def inverse(self, action: np.ndarray) -> np.ndarray:
        """What becomes ``action`` [N, *shape]: [N, dim] in [-1, 1] as far as ``action`` keeps the bounds.

        Where both bounds of a dimension are the same, it is 0.
        """
        # Halves, because the width may exceed what the type holds.
        low, half = self._low / 2, self._high / 2 - self._low / 2
        moved = action.reshape(len(action), self.dim).astype(low.dtype) / 2 - low
        return np.where(half > 0, 2 * (moved / np.where(half > 0, half, 1)) - 1, 0).astype(np.float64)


class ObservationLayout:
    """From observations of a space to flat rows.

    A Box is flattened in C order; Dict, Tuple, Discrete, MultiDiscrete and MultiBinary as Gymnasium does it:
    parts in the order of the space's keys, discrete values as one-hot codes.

    Args:
        name: id of the environment, for messages.
        space: observation space of one copy.

    Attributes:
        dim: width of a row.
        dtype: dtype of a row, which holds the space's values exactly.

    Raises:
        EnvError: ``space`` cannot be flattened, or has no entries.
    """

    def __init__(self, name: str, space: Any) -> None:
        if not _can_be_flattened(space):
            raise EnvError(
                f"{name} has observation space {_text(space)}; only Box observations, and dictionaries and "
                "tuples that can be flattened to one, are supported"
            )
        flat: Any = spaces.flatten_space(space)
        self.dim = int(np.prod(flat.shape))
        if not self.dim:
            raise EnvError(
                f"{name} has observation space {_text(space)} without entries; nothing is observed"
            )
        self.dtype = flat.dtype if flat.dtype.type in COMPACT else np.dtype(np.float64)
        self._space, self._plain = space, isinstance(space, spaces.Box)
        # Where each part of an observation lies in a row.
        ends = np.cumsum([0, *(spaces.flatdim(part) for part in _leaves(space))]).tolist()
        self._places = [slice(start, end) for start, end in itertools.pairwise(ends)]

    def write(self, observation: Any, row: np.ndarray) -> None:
        """Put ``observation`` into ``row`` [dim] of ``dtype``.

        Raises:
            WrongReturn: it is not what the space says.
        """
        try:
            if self._plain:
                # What the loop does, in the time that a step of a small environment leaves for it.
                _fill(self._space, self._space.shape, np.asarray(observation), row)
                return
            for (space, part), place in zip(_parts(self._space, observation), self._places, strict=True):
                if isinstance(space, spaces.Box):
                    _fill(space, space.shape, np.asarray(part), row[place])
                else:
                    _fill(space, row[place].shape, _codes(space, part), row[place])
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise WrongReturn(
                f"an observation that is none of its space {_text(self._space)} "
                f"({type(error).__name__}: {_text(error)})"
            ) from error

    def labels(self) -> list[str]:
        """Names of the parts and entries: ``["0", "1"]``, or ``["goal[0]", "goal[1]", "speed"]``."""
        return list(_labels(self._space, ""))


def _can_be_flattened(space: Any) -> bool:
    """True if Gymnasium makes a Box of ``space``, which may be of a kind that it does not know."""
    if isinstance(space, spaces.Dict):
        return all(map(_can_be_flattened, space.spaces.values()))
    if isinstance(space, (spaces.Tuple, spaces.OneOf)):
        return all(map(_can_be_flattened, space.spaces))
    return isinstance(space, FLAT)


def _leaves(space: Any) -> Iterator[Any]:
    """The spaces that a Dict or Tuple is made of, in the order of a row."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _leaves(part)
    else:
        yield space


def _parts(space: Any, observation: Any) -> Iterator[tuple[Any, Any]]:
    """Each of ``_leaves(space)`` with what ``observation`` holds for it."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _parts(part, observation[key])
    elif isinstance(space, spaces.Tuple):
        for part, item in zip(space.spaces, observation, strict=True):
            yield from _parts(part, item)
    else:
        yield space, observation


def _codes(space: Any, value: Any) -> np.ndarray:
    """``value`` of a space other than Box, as Gymnasium flattens it.

    Raises:
        WrongReturn: it is out of range, and would be taken for another value.
    """
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        value = np.asarray(value).reshape(space.shape)
        # Truth values count as numbers.
        value = value.astype(np.int8) if value.dtype == np.bool_ else value
    if not space.contains(value):
        raise WrongReturn(f"an observation of {_text(value)}, its space says {_text(space)}")
    return np.asarray(spaces.flatten(space, value)).reshape(-1)


def _fill(space: Any, shape: tuple[int, ...], found: np.ndarray, row: np.ndarray) -> None:
    """Put an array of ``space``, which should have ``shape``, into its place in a row."""
    if found.shape != shape:
        raise WrongReturn(f"an observation of shape {found.shape}, its space says {shape}")
    if found.dtype == row.dtype:
        row[:] = found.reshape(-1)
    elif found.dtype.kind in WHOLE and row.dtype.kind in WHOLE:
        # Lists of whole numbers come as int64, whatever the space says: it is the values that must fit.
        row[:] = found.reshape(-1)
        if not np.array_equal(row, found.reshape(-1)):
            raise WrongReturn(f"an observation of dtype {found.dtype} with numbers beyond {space.dtype}")
    elif np.can_cast(found.dtype, row.dtype, "same_kind"):
        # What exceeds the type becomes infinite, and is then found and named.
        with np.errstate(over="ignore"):
            row[:] = found.reshape(-1)
    else:
        raise WrongReturn(f"an observation of dtype {found.dtype}, its space says {space.dtype}")


def _labels(space: Any, name: str) -> Iterator[str]:
    """Names of the entries of a flattened space."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _labels(part, f"{name}.{key}" if name else str(key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _labels(part, f"{name}.{index}" if name else str(index))
    else:
        size = spaces.flatdim(space)
        for index in range(size):
            yield str(index) if not name else f"{name}[{index}]" if size > 1 else name


def listed(labels: Sequence[str], chosen: np.ndarray) -> str:
    """The first labels where ``chosen`` [dim] is true, for example ``[3, 4, 5]``."""
    found = np.flatnonzero(chosen)
    more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"[{', '.join(labels[i] for i in found[:NAMED])}{more}]"


def _text(value: object) -> str:
    """``value`` as text on one line."""
    return " ".join(str(value).split())
