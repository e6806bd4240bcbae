"""Curves of several runs on one grid: smoothing, and the mean over seeds with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import lfilter

from pwm.analysis.statistics.estimates import Array, Curve, summarise
from pwm.errors import ConfigError

# Points of a grid for runs that were not measured at the same places.
POINTS = 200


def check_smoothing(weight: float) -> None:
    """Raise ConfigError unless ``weight`` can be given to ``smooth``."""
    if not 0.0 <= weight < 1.0:
        raise ConfigError(f"smoothing={weight:g} is the weight of the past: at least 0 (none) and below 1")


def smooth(values: ArrayLike, weight: float) -> Array:
    """Exponential moving average [points] of values [points], without the pull of a start at zero.

    Args:
        values: finite.
        weight: of the past, at least 0 (no smoothing) and below 1.

    Raises:
        ConfigError: another weight.
    """
    check_smoothing(weight)
    raw = np.asarray(values, dtype=float)
    total = 1.0 - weight ** np.arange(1, len(raw) + 1)
    return np.asarray(lfilter([1.0 - weight], [1.0, -weight], raw) / total)


def common_grid(xs: Sequence[ArrayLike]) -> Array:
    """Return the common range of runs: from the latest first to the earliest last point, or nothing.

    Args:
        xs: increasing positions [points] of every run, at least one point each.

    Returns:
        The runs' own points where they are the same in all runs, so that nothing has to be interpolated,
        else ``POINTS`` even ones.
    """
    runs = [np.asarray(x, dtype=float) for x in xs]
    start, end = max(x[0] for x in runs), min(x[-1] for x in runs)
    if start > end:
        return np.empty(0)
    inside = [x[(x >= start) & (x <= end)] for x in runs]
    if all(np.array_equal(x, inside[0]) for x in inside):
        return inside[0]
    return np.linspace(start, end, POINTS if start < end else 1)


def on_common_grid(curves: Sequence[tuple[ArrayLike, ArrayLike]]) -> tuple[Array, Array]:
    """Their ``common_grid`` [points], and the (linearly interpolated) values [runs, points] on it.

    Args:
        curves: increasing positions [points] and finite values [points] of every run, at least one point
            each.
    """
    grid = common_grid([x for x, _ in curves])
    return grid, np.array([np.interp(grid, np.asarray(x), np.asarray(y)) for x, y in curves])


def mean_curve(curves: Sequence[tuple[ArrayLike, ArrayLike]]) -> tuple[Array, Curve]:
    """Mean over runs with Student's 95 % interval, point by point.

    Args:
        curves: as for ``on_common_grid``.

    Returns:
        The common grid [points] and ``summarise`` of the runs at each of its points; NaN bounds for one run.
    """
    grid, values = on_common_grid(curves)
    means = [summarise(column).mean for column in values.T]
    return grid, Curve(*(np.array([getattr(m, name) for m in means]) for name in ("value", "low", "high")))
