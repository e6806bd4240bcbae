"""Checks of values in the group of keys ``alg`` that its parts make alike."""

from __future__ import annotations

import math
from typing import Any

from pwm.errors import ConfigError


def at_least_one(options: Any, *keys: str) -> None:
    """Raise ConfigError unless each of the integer options ``keys`` is at least 1."""
    for key in keys:
        if getattr(options, key) < 1:
            raise ConfigError(f"alg.{key}={getattr(options, key)}; it must be at least 1")


def positive(options: Any, *keys: str) -> None:
    """Raise ConfigError unless each of the options ``keys`` is positive and finite."""
    for key in keys:
        if not 0.0 < getattr(options, key) < math.inf:
            raise ConfigError(f"alg.{key}={getattr(options, key)}; it must be positive and finite")


def not_negative(options: Any, *keys: str) -> None:
    """Raise ConfigError unless each of the options ``keys`` is finite and not negative."""
    for key in keys:
        if not 0 <= getattr(options, key) < math.inf:
            raise ConfigError(f"alg.{key}={getattr(options, key)}; it must be finite and not negative")


def norm_limit(options: Any, *keys: str) -> None:
    """Raise ConfigError unless each of the options ``keys`` is positive; infinity means no clipping."""
    for key in keys:
        if not getattr(options, key) > 0.0:
            raise ConfigError(f"alg.{key}={getattr(options, key)}; it must be positive (inf: no clipping)")


def share(options: Any, *keys: str) -> None:
    """Raise ConfigError unless each of the options ``keys`` lies in [0, 1]."""
    for key in keys:
        if not 0.0 <= getattr(options, key) <= 1.0:
            raise ConfigError(f"alg.{key}={getattr(options, key)}; it must lie in [0, 1]")


def one_of(options: Any, key: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless option ``key`` is one of ``allowed``."""
    if getattr(options, key) not in allowed:
        raise ConfigError(f"alg.{key}={getattr(options, key)!r}; choose one of: {', '.join(allowed)}")
