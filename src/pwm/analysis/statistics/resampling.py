"""The bootstrap: runs are drawn again, together with those that are not independent of them.

A unit is what is drawn as a whole: a run, or all runs that began from one model. Units that have runs in the
same columns (tasks of an arm) are exchangeable, and are drawn again among themselves. Where every run is a
unit of its own this is the stratified bootstrap of Agarwal et al. 2021, section 4; where runs share models it
is the cluster bootstrap (Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pwm import packages
from pwm.errors import DataError

CONFIDENCE = 0.95

Array = NDArray[np.float64]
# An arm, by its place, and a task of it, by its place.
Column = tuple[int, int]
# Runs (rows) of a unit by column.
Unit = dict[Column, list[int]]


def percentile_interval(
    scores: Sequence[Array],
    statistic: Callable[..., Array],
    seed: int,
    resamples: int,
    units: Sequence[ArrayLike] | None = None,
) -> tuple[Array, Array]:
    """Return the percentiles' 95 % interval of ``statistic``, with the shape of its value.

    Args:
        scores: of every arm [seeds, tasks] or [seeds, tasks, points].
        statistic: of as many arrays, returns an array.
        seed: of the resampling.
        resamples: number of bootstrap samples.
        units: of every arm labels [seeds, tasks], equal where runs are drawn together, also between arms;
            None where all runs are independent.

    Returns:
        Lower and upper ends; NaN where some runs are of a single unit, of whose spread nothing is known.

    Raises:
        DataError: labels have another shape than scores.
    """
    labels = None if units is None else [np.asarray(found) for found in units]
    if labels is not None and [x.shape for x in labels] != [x.shape[:2] for x in scores]:
        raise DataError(
            f"labels of shapes {[x.shape for x in labels]} for scores of {[x.shape for x in scores]}"
        )
    strata = _strata([x.shape[:2] for x in scores], labels)
    if any(len(members) == 1 for members in strata):
        unknown = np.full_like(statistic(*scores), np.nan, dtype=float)
        return unknown, unknown
    runs = sum(x.shape[0] * x.shape[1] for x in scores)
    if sum(map(len, strata)) == runs:
        return _independent(scores, statistic, seed, resamples)
    generator = np.random.default_rng(seed)
    values = [statistic(*_drawn(scores, strata, generator)) for _ in range(resamples)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail], axis=0)
    return low, high


def _strata(shapes: Sequence[tuple[int, ...]], labels: Sequence[NDArray[Any]] | None) -> list[list[Unit]]:
    """Units that have runs in the same columns, group by group."""
    units: dict[Any, Unit] = {}
    for arm, shape in enumerate(shapes):
        for row, task in np.ndindex(*shape):
            label = (arm, row, task) if labels is None else labels[arm][row, task]
            units.setdefault(label, {}).setdefault((arm, task), []).append(row)
    strata: dict[frozenset[Column], list[Unit]] = {}
    for unit in units.values():
        strata.setdefault(frozenset(unit), []).append(unit)
    return list(strata.values())


def _drawn(
    scores: Sequence[Array], strata: Sequence[Sequence[Unit]], generator: np.random.Generator
) -> list[Array]:
    """Scores in which the units of every stratum are replaced by as many drawn ones.

    Where units have different numbers of runs in a column, as many as there were are kept.
    """
    sample = [x.copy() for x in scores]
    for members in strata:
        order = generator.integers(len(members), size=len(members))
        for arm, task in members[0]:
            place = [row for unit in members for row in unit[arm, task]]
            rows = [row for number in order for row in members[number][arm, task]]
            sample[arm][place, task] = scores[arm][np.resize(rows, len(place)), task]
    return sample


def _independent(
    scores: Sequence[Array], statistic: Callable[..., Array], seed: int, resamples: int
) -> tuple[Array, Array]:
    """Interval of ``statistic`` under rliable's stratified bootstrap, in which every run is a unit."""
    library = packages.optional("rliable.library", "a comparison of runs", "report")
    given = scores[0] if len(scores) == 1 else list(scores)
    with _global_stream(seed):
        _, intervals = library.get_interval_estimates(
            {"": given}, statistic, reps=resamples, confidence_interval_size=CONFIDENCE
        )
    return intervals[""][0], intervals[""][1]


@contextlib.contextmanager
def _global_stream(seed: int) -> Iterator[None]:
    """Seed NumPy's global stream, the only one rliable draws from, and restore it afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
