"""One sentence for whatever the code of an environment raises."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pwm.errors import EnvError, PwmError

# Where a fault in an environment shows, but does not lie.
LIBRARIES = (*(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")), Path(__file__).parents[2])


class WrongReturn(Exception):
    """An environment returned something that is not what its spaces or Gymnasium's interface say."""


class Blame:
    """Context that turns whatever else is raised inside into an ``EnvError`` that names the environment.

    A class, because a generator's context would cost as much as a step of a small environment.

    Args:
        what: who did what, for example ``Pendulum-v1: reset of environment 2``.
    """

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, WrongReturn):
            raise EnvError(f"{self.what} returned {error}") from error
        # An environment that calls sys.exit must not end the program as if all were well.
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, PwmError):
            raise EnvError(f"{self.what} raised {sentence(error)}") from error


def sentence(error: BaseException) -> str:
    """Type and text of ``error`` and where it was raised, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text}{_place(error)}"


def _place(error: BaseException) -> str:
    """File and line of the innermost code that raised ``error`` and belongs to no library."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(folder in path.parents for folder in LIBRARIES):
            return f" ({path.name}, line {frame.lineno})"
    return ""


def described(value: Any) -> str:
    """The kind of a returned value, for messages."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."
