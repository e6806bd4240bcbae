"""A candidate against a baseline on several tasks: every statistic, and what so few seeds can show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pwm.analysis.statistics.estimates import (
    ALPHA,
    Estimate,
    Power,
    Summary,
    detectable_effect,
    holm,
    permutation_test,
    power,
    probability_of_improvement,
    smallest_permutation_p,
    summarise,
    welch_test,
)
from pwm.errors import DataError

# Percentage of 1000 simulations in which a bootstrap 95 % interval held the true interquartile mean, by
# seeds per task: the least and the most over one to six tasks of normal scores.
BOOTSTRAP_COVERAGE = {2: (49, 79), 3: (73, 88), 5: (89, 92), 10: (92, 94), 20: (93, 95)}
# The same of the probability of improvement, over true ones of 0.5 to 0.92; an interval that has shrunk to a
# point, which is not shown, counts as one that does not hold it.
IMPROVEMENT_COVERAGE = {2: (23, 90), 3: (38, 93), 5: (62, 94), 10: (84, 96), 20: (91, 96)}

Scores = Mapping[str, ArrayLike]
# By task what each run began from [seeds], see ``percentile_interval``.
Units = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class TaskComparison:
    """Candidate against baseline on one task.

    Attributes:
        task: its name.
        baseline, candidate: the two arms.
        difference: candidate minus baseline; Welch's interval, NaN bounds with fewer than two seeds.
        percent: the difference over the size of the baseline's mean; NaN where that is zero. It means little
            where the baseline's mean is near zero or negative.
        welch_p, permutation_p: NaN with fewer than two seeds in an arm.
        welch_p_holm, permutation_p_holm: the same, corrected for the number of tasks.
        power: None with fewer than two seeds in an arm.
    """

    task: str
    baseline: Summary
    candidate: Summary
    difference: Estimate
    percent: float
    welch_p: float
    permutation_p: float
    welch_p_holm: float
    permutation_p_holm: float
    power: Power | None


@dataclass(frozen=True)
class Comparison:
    """Candidate against baseline on all tasks.

    Attributes:
        tasks: by name.
        improvement: probability that a candidate's run beats a baseline's; None where an arm has not the
            same number of seeds on every task.
        notes: what these numbers can and cannot show, in sentences.
    """

    tasks: list[TaskComparison]
    improvement: Estimate | None
    notes: list[str]


def compare_scores(
    candidate: Scores, baseline: Scores, units: tuple[Units, Units] | None = None
) -> Comparison:
    """Compare the scores of two arms on the tasks they share.

    Args:
        candidate, baseline: scores [seeds] by task, higher is better.
        units: of the candidate and of the baseline, labels of runs that are drawn together.

    Raises:
        DataError: the arms have different tasks or none, or a score is not finite.
    """
    names, tasks = sorted(candidate), compare_tasks(candidate, baseline)
    a, b = score_matrix(candidate, names), score_matrix(baseline, names)
    improvement = None
    if a is not None and b is not None:
        labels = None if units is None else (label_matrix(units[0], names), label_matrix(units[1], names))
        improvement = probability_of_improvement(a, b, units=labels)
    return Comparison(tasks, improvement, _notes(tasks, improvement))


def compare_tasks(candidate: Scores, baseline: Scores) -> list[TaskComparison]:
    """Compare two arms task by task; p-values are corrected for the number of tasks.

    Raises:
        DataError: the arms have different tasks or none, or a score is not finite.
    """
    if set(candidate) != set(baseline) or not candidate:
        alone = sorted(set(candidate) ^ set(baseline))
        raise DataError(f"both arms need the same tasks, at least one; only one arm has: {alone}")
    return _corrected([_compare_task(name, candidate[name], baseline[name]) for name in sorted(candidate)])


def score_matrix(scores: Scores, tasks: Sequence[str]) -> np.ndarray | None:
    """Scores [seeds, tasks]; None where the number of seeds differs between tasks, or there is none."""
    columns = [np.asarray(scores[task], dtype=float) for task in tasks]
    return np.stack(columns, axis=1) if len({len(column) for column in columns}) == 1 else None


def label_matrix(labels: Units, tasks: Sequence[str]) -> np.ndarray:
    """Labels [seeds, tasks] of runs, where every task has as many."""
    return np.stack([np.asarray(labels[task]) for task in tasks], axis=1)


def normalise(
    scores: ArrayLike, tasks: Sequence[str], scale: Mapping[str, tuple[float, float]]
) -> np.ndarray:
    """Scores [seeds, tasks] on the scale of each task, on which the two given scores are 0 and 1.

    Raises:
        DataError: a task has no scale, or one without extent.
    """
    if missing := [task for task in tasks if task not in scale]:
        raise DataError(f"no scale for: {', '.join(missing)}")
    zero, one = np.array([scale[task] for task in tasks], dtype=float).T
    if flat := [task for task, extent in zip(tasks, one - zero) if not extent]:
        raise DataError(f"the scores that count as 0 and as 1 are equal for: {', '.join(flat)}")
    return np.asarray((np.asarray(scores, dtype=float) - zero) / (one - zero))


def sample_size_notes(n: int, m: int, tasks: int = 1) -> list[str]:
    """Return what n seeds against m seeds on so many tasks can and cannot show, in sentences."""
    seeds = f"{n} against {m} seeds"
    if min(n, m) < 2:
        return [f"{seeds}: one run has no spread, so no test, no interval and no claim is possible."]
    least = smallest_permutation_p(n, m)
    effect = detectable_effect(n, m)
    found = [
        f"{seeds}: a t-test at the 5 % level finds, in 4 of 5 experiments, only differences of at least "
        f"{effect:.1f} standard deviations; not finding one does not mean that the arms are equal."
    ]
    text = f"{seeds}: the smallest p-value a two-sided permutation test can give is {least:.2g}"
    if tasks > 1:
        text += f", and {min(1.0, least * tasks):.2g} after Holm's correction for {tasks} tasks"
    verdict = "it cannot reach 0.05 whatever the scores" if least * tasks > ALPHA else "it can reach 0.05"
    found.append(f"{text}: {verdict}.")
    fewest = min(n, m)
    low, high = np.sqrt((fewest - 1) / stats.chi2.ppf([0.975, 0.025], fewest - 1))
    found.append(
        f"A standard deviation from {fewest} seeds is uncertain itself: the true one lies, with 95 % "
        f"confidence, between {low:.1f} and {high:.1f} times the measured one."
    )
    measured = max(k for k in BOOTSTRAP_COVERAGE if k <= fewest)
    if measured < 10:
        worst, best = BOOTSTRAP_COVERAGE[measured]
        found.append(
            f"Bootstrap intervals of so few seeds are too narrow: nominal 95 % intervals of the "
            f"interquartile mean held the truth in {worst} to {best} % of simulations with {measured} seeds. "
            f"Intervals of means and of differences (Student, Welch) do hold 95 % for normal scores."
        )
    if measured < 20:
        worst, best = IMPROVEMENT_COVERAGE[measured]
        found.append(
            f"P(better), the probability of improvement: nominal 95 % bootstrap intervals held the truth in "
            f"{worst} to {best} % of simulations with {measured} seeds, least often on one task that one arm "
            f"nearly always wins. Where no run of one arm reaches the other's, they shrink to a point and "
            f"are not shown: a P(better) of 1 or 0 from so few seeds is no certainty."
        )
    return found


def _compare_task(task: str, candidate: ArrayLike, baseline: ArrayLike) -> TaskComparison:
    a, b = summarise(candidate), summarise(baseline)
    difference, found = Estimate(a.mean.value - b.mean.value, math.nan, math.nan), None
    welch_p = permutation_p = math.nan
    if min(a.seeds, b.seeds) > 1:
        test = welch_test(candidate, baseline)
        difference, welch_p = test.difference, test.p_value
        permutation_p, found = permutation_test(candidate, baseline), power(candidate, baseline)
    base = abs(b.mean.value)
    percent = 100 * difference.value / base if base else math.nan
    # Corrected once all tasks are known.
    return TaskComparison(task, b, a, difference, percent, welch_p, permutation_p, math.nan, math.nan, found)


def _corrected(tasks: list[TaskComparison]) -> list[TaskComparison]:
    welch, permutation = holm([t.welch_p for t in tasks]), holm([t.permutation_p for t in tasks])
    return [
        replace(task, welch_p_holm=w, permutation_p_holm=p) for task, w, p in zip(tasks, welch, permutation)
    ]


def _notes(tasks: Sequence[TaskComparison], improvement: Estimate | None) -> list[str]:
    counts = sorted({(t.candidate.seeds, t.baseline.seeds) for t in tasks})
    notes = list(dict.fromkeys(line for n, m in counts for line in sample_size_notes(n, m, len(tasks))))
    for task in tasks:
        if (found := task.power) is None or math.isnan(found.effect):
            continue
        needed = "more than 1000" if found.seeds_needed is None else f"about {found.seeds_needed}"
        notes.append(
            f"{task.task}: if the true difference were the observed one ({found.effect:+.2f} standard "
            f"deviations), {needed} seeds per arm would find it in 4 of 5 experiments; the seeds at hand "
            f"find differences of {found.detectable_difference:.3g} and more as often."
        )
    if improvement is None:
        notes.append("Tasks differ in their number of seeds, so there is no figure over all tasks.")
    return notes
