"""Statistics over training runs (seeds): numbers in, numbers out; the libraries do the mathematics.

Scores of one task are an array [seeds]; of several tasks, a matrix [seeds, tasks] as in rliable. What the
methods can show with few seeds is part of the results (``power``, ``sample_size_notes``): with three seeds an
interval or a test promises more than it keeps.

Sources:
    Agarwal et al. 2021, Deep reinforcement learning at the edge of the statistical precipice (rliable).
    Colas, Sigaud and Oudeyer 2019, A hitchhiker's guide to statistical comparisons of RL algorithms.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pwm import packages
from pwm.analysis.statistics.resampling import CONFIDENCE, Array, percentile_interval
from pwm.errors import DataError

ALPHA = 0.05
TARGET_POWER = 0.8
# Resamples of a bootstrap, and of a permutation test with more arrangements than that.
RESAMPLES = 2000
PERMUTATIONS = 9999
MOST_SEEDS = 1000
# Two seeds each find a difference of this many standard deviations with 99 % power, and the distribution
# functions behind larger ones are not reliable.
LARGE_EFFECT = 10.0


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval; NaN bounds where the scores do not allow one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """Estimates at several points.

    Attributes:
        value, low, high: [points].
    """

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Summary:
    """One arm on one task.

    Attributes:
        seeds: number of runs.
        mean: with Student's interval, which is exact for normal scores and any number of seeds.
        std: sample standard deviation (n - 1); NaN for one seed.
    """

    seeds: int
    mean: Estimate
    std: float

    def above(self, floor: float) -> bool:
        """True if the mean is shown to be above ``floor``: the lower end of its interval is.

        One seed has no interval; its score decides.
        """
        return (self.mean.value if math.isnan(self.mean.low) else self.mean.low) > floor


@dataclass(frozen=True)
class DifferenceTest:
    """Outcome of a two-sided test between the means of x and y.

    Attributes:
        difference: mean(x) - mean(y), with Welch's interval.
        p_value: NaN where the test is undefined (neither x nor y varies).
    """

    difference: Estimate
    p_value: float


@dataclass(frozen=True)
class Power:
    """Effect that a two-sided t-test at the 5 % level can detect.

    Attributes:
        effect: observed difference over the pooled standard deviation (Cohen's d); NaN where undefined.
        achieved: power at the observed effect and the seeds at hand; NaN where undefined.
        seeds_needed: seeds per arm for 80 % power at the observed effect; None if more than 1000.
        detectable_effect: smallest effect the seeds at hand detect with 80 % power.
        detectable_difference: the same in units of the score.
    """

    effect: float
    achieved: float
    seeds_needed: int | None
    detectable_effect: float
    detectable_difference: float


def summarise(scores: ArrayLike) -> Summary:
    """Mean with Student's 95 % interval and standard deviation of scores [seeds]."""
    x = _scores(scores, 1, least=1)
    if len(x) == 1:
        return Summary(1, Estimate(float(x[0]), math.nan, math.nan), math.nan)
    mean, std = float(x.mean()), float(x.std(ddof=1))
    if not std:
        return Summary(len(x), Estimate(mean, mean, mean), std)
    low, high = stats.t.interval(CONFIDENCE, len(x) - 1, mean, std / math.sqrt(len(x)))
    return Summary(len(x), Estimate(mean, float(low), float(high)), std)


def median(scores: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return the median of scores [seeds] with the percentiles' bootstrap interval; NaN bounds for one seed.

    Of few seeds the interval is too narrow, as that of ``interquartile_mean`` is.

    Raises:
        DataError: scores are not finite or not of one dimension.
    """
    x = _scores(scores, 1, least=1)
    low, high = percentile_interval([x[:, None]], lambda drawn: np.median(drawn, axis=0), seed, resamples)
    return Estimate(float(np.median(x)), float(low[0]), float(high[0]))


def interquartile_mean(
    scores: ArrayLike, seed: int = 0, resamples: int = RESAMPLES, units: ArrayLike | None = None
) -> Estimate:
    """Mean of the middle half of all runs of all tasks, with a stratified bootstrap interval.

    Runs are drawn again within each task (Agarwal et al. 2021, section 4), those of one unit together; the
    interval is that of the percentiles. Drawing again understates the spread by a factor sqrt((n - 1) / n),
    so that with n = 3 seeds the intervals hold the truth much less often than 95 % of the time, see
    ``sample_size_notes``.

    Args:
        scores: [seeds, tasks], comparable between tasks (normalised).
        seed: of the resampling.
        resamples: number of bootstrap samples.
        units: labels [seeds, tasks], see ``percentile_interval``.

    Raises:
        DataError: scores are not finite or not a matrix.
    """
    matrix = _scores(scores, 2, least=1)
    found = interquartile_mean_curve(matrix[:, :, None], seed, resamples, units)
    return Estimate(float(found.value[0]), float(found.low[0]), float(found.high[0]))


def interquartile_mean_curve(
    scores: ArrayLike, seed: int = 0, resamples: int = RESAMPLES, units: ArrayLike | None = None
) -> Curve:
    """``interquartile_mean`` at every point of learning curves [seeds, tasks, points]."""
    cube = _scores(scores, 3, least=1)
    low, high = percentile_interval([cube], _trimmed, seed, resamples, None if units is None else [units])
    return Curve(_trimmed(cube), low, high)


def _trimmed(cube: Array) -> Array:
    return np.asarray(stats.trim_mean(cube.reshape(-1, cube.shape[2]), 0.25, axis=0))


def probability_of_improvement(
    x: ArrayLike,
    y: ArrayLike,
    seed: int = 0,
    resamples: int = RESAMPLES,
    units: tuple[ArrayLike, ArrayLike] | None = None,
) -> Estimate:
    """Probability that a run of x beats a run of y on the same task, averaged over tasks; ties count half.

    The Mann-Whitney statistic over the number of pairs, with a stratified bootstrap interval in which both
    arms are drawn again, runs of one unit together (Agarwal et al. 2021, section 4.3). Where the arms do not
    overlap on any task, every sample drawn is as the first: this shows no certainty, and there is no
    interval.

    Args:
        x, y: [seeds, tasks]; the numbers of seeds may differ.
        seed: of the resampling.
        resamples: number of bootstrap samples.
        units: labels [seeds, tasks] of x and of y, see ``percentile_interval``.

    Raises:
        DataError: scores are not finite, no matrices, or of different tasks.
    """
    a, b = _scores(x, 2, least=1), _scores(y, 2, least=1)
    if a.shape[1] != b.shape[1]:
        raise DataError(f"scores of {a.shape[1]} and of {b.shape[1]} tasks cannot be compared")
    value = float(_require("rliable.metrics").probability_of_improvement(a, b))
    low, high = percentile_interval([a, b], _share_of_wins, seed, resamples, units)
    if low[0] == high[0]:
        return Estimate(value, math.nan, math.nan)
    return Estimate(value, float(low[0]), float(high[0]))


def _share_of_wins(a: Array, b: Array) -> Array:
    """Rliable's probability of improvement [points] of scores [seeds, tasks, points], 100 times as fast.

    Its rank test for every sample would take most of the time of a report.
    """
    return np.atleast_1d((np.sign(a[:, None] - b) + 1).mean(axis=(0, 1, 2)) / 2)


def performance_profile(
    scores: ArrayLike,
    thresholds: ArrayLike,
    seed: int = 0,
    resamples: int = RESAMPLES,
    units: ArrayLike | None = None,
) -> Curve:
    """Share of the runs of all tasks that score above each threshold [points], with bootstrap intervals.

    The score distributions of Agarwal et al. 2021, section 4.2, after Dolan and Moré 2002.

    Args:
        scores: [seeds, tasks], comparable between tasks (normalised).
        thresholds: [points].
        seed: of the resampling.
        resamples: number of bootstrap samples.
        units: labels [seeds, tasks], see ``percentile_interval``.

    Raises:
        DataError: scores or thresholds are not finite or of another shape.
    """
    matrix, points = _scores(scores, 2, least=1), _scores(thresholds, 1, least=1)
    library = _require("rliable.library")

    def profile(drawn: Array) -> Array:
        return np.asarray(library.score_distributions(drawn, points))

    low, high = percentile_interval([matrix], profile, seed, resamples, None if units is None else [units])
    return Curve(profile(matrix), low, high)


def welch_test(x: ArrayLike, y: ArrayLike) -> DifferenceTest:
    """Welch's t-test (1947): do the means of x [seeds] and y [seeds] differ? No equal variances needed."""
    a, b = _scores(x, 1, least=2), _scores(y, 1, least=2)
    if np.ptp(a) == np.ptp(b) == 0.0:
        return DifferenceTest(Estimate(float(a[0] - b[0]), math.nan, math.nan), math.nan)
    with warnings.catch_warnings():
        if not np.ptp(a) or not np.ptp(b):
            # Said of the variance of the arm that does not vary; the other one decides.
            warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        found = stats.ttest_ind(a, b, equal_var=False)
    interval = found.confidence_interval(CONFIDENCE)
    difference = Estimate(float(a.mean() - b.mean()), float(interval.low), float(interval.high))
    return DifferenceTest(difference, float(found.pvalue))


def welch_test_over_tasks(x: Sequence[ArrayLike], y: Sequence[ArrayLike]) -> DifferenceTest:
    """Welch's test of the difference of means averaged over tasks; for one task it is ``welch_test``.

    The degrees of freedom are Satterthwaite's (1946), so that neither tasks nor arms need equal variances or
    equal numbers of seeds. Every task weighs the same.

    Args:
        x, y: scores [seeds] of every task, on a scale that tasks share.

    Raises:
        DataError: other tasks in x than in y, none, fewer than two seeds, or a score is not finite.
    """
    if len(x) != len(y) or not len(x):
        raise DataError(f"scores of {len(x)} and of {len(y)} tasks cannot be compared")
    pairs = [(_scores(a, 1, least=2), _scores(b, 1, least=2)) for a, b in zip(x, y)]
    value = float(np.mean([a.mean() - b.mean() for a, b in pairs]))
    arms = [arm for pair in pairs for arm in pair]
    parts = np.array([arm.var(ddof=1) / len(arm) for arm in arms]) / len(pairs) ** 2
    if not (variance := parts.sum()):
        return DifferenceTest(Estimate(value, math.nan, math.nan), math.nan)
    freedom = variance**2 / np.sum(parts**2 / [len(arm) - 1 for arm in arms])
    error = math.sqrt(variance)
    low, high = stats.t.interval(CONFIDENCE, freedom, value, error)
    p_value = float(2 * stats.t.sf(abs(value) / error, freedom))
    return DifferenceTest(Estimate(value, float(low), float(high)), p_value)


def permutation_test(x: ArrayLike, y: ArrayLike, seed: int = 0) -> float:
    """p-value of the permutation test of the difference of means (Fisher 1935, Pitman 1937).

    It needs no distribution of the scores. All arrangements of x [seeds] and y [seeds] are looked at where
    there are at most 9999 (up to 7 + 7 seeds), else 9999 random ones.
    """
    a, b = _scores(x, 1, least=2), _scores(y, 1, least=2)
    found = stats.permutation_test(
        (a, b),
        lambda u, v, axis: u.mean(axis) - v.mean(axis),
        n_resamples=PERMUTATIONS,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def smallest_permutation_p(n: int, m: int) -> float:
    """Smallest two-sided p-value of ``permutation_test`` with n and m seeds: 0.1 for 3 and 3."""
    arrangements = math.comb(n + m, n)
    return min(1.0, 2 / arrangements if arrangements <= PERMUTATIONS else 2 / (PERMUTATIONS + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests (tasks) adjusted for their number (Holm 1979).

    An undefined test (NaN) stays undefined and counts as one that found nothing.
    """
    p = np.asarray(p_values, dtype=float)
    if not len(p):
        return []
    correct = _require("statsmodels.stats.multitest").multipletests
    adjusted = correct(np.nan_to_num(p, nan=1.0), method="holm")[1]
    return [math.nan if math.isnan(raw) else float(found) for raw, found in zip(p, adjusted)]


def power(x: ArrayLike, y: ArrayLike) -> Power:
    """Return what t-tests between x [seeds] and y [seeds] can detect, and the seeds that the effect needs.

    Cohen 1988. The observed effect of few seeds is itself uncertain, so ``seeds_needed`` is a rough guide
    for the next experiment and says nothing about whether this one's result is real (Hoenig and Heisey 2001).
    """
    a, b = _scores(x, 1, least=2), _scores(y, 1, least=2)
    pooled = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    detectable = detectable_effect(len(a), len(b))
    if not pooled:
        return Power(math.nan, math.nan, None, detectable, 0.0)
    effect = float((a.mean() - b.mean()) / pooled)
    size = min(abs(effect), LARGE_EFFECT)
    test = _require("statsmodels.stats.power").TTestIndPower()
    seeds = np.arange(2, MOST_SEEDS + 1)
    enough = seeds[np.asarray(test.power(size, seeds, ALPHA)) >= TARGET_POWER]
    achieved = float(test.power(size, len(a), ALPHA, ratio=len(b) / len(a)))
    needed = int(enough[0]) if len(enough) else None
    return Power(effect, achieved, needed, detectable, detectable * pooled)


def detectable_effect(n: int, m: int) -> float:
    """Smallest difference, in standard deviations, that n and m seeds detect with 80 % power at 5 %."""
    if min(n, m) < 2:
        raise DataError(f"{n} and {m} seeds; at least 2 of each are needed")
    test = _require("statsmodels.stats.power").TTestIndPower()
    return float(np.squeeze(test.solve_power(nobs1=n, alpha=ALPHA, power=TARGET_POWER, ratio=m / n)))


def _require(module: str) -> Any:
    return packages.optional(module, "a comparison of runs", "report")


def _scores(values: ArrayLike, dimensions: int, least: int) -> Array:
    """``values`` as a finite float array of that many dimensions with at least so many seeds.

    Raises:
        DataError: they are something else.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != dimensions or not array.size:
        raise DataError(f"scores of shape {list(array.shape)}; {dimensions} non-empty dimensions are needed")
    if len(array) < least:
        raise DataError(f"{len(array)} seeds; at least {least} are needed")
    if not np.isfinite(array).all():
        raise DataError(f"{int((~np.isfinite(array)).sum())} of {array.size} scores are not finite")
    return array
