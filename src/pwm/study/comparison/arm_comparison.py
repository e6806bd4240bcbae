"""All arms of a study compared with the first of them: their scores, the common scale, and every test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwm.analysis.statistics.comparison import (
    Comparison,
    TaskComparison,
    compare_scores,
    compare_tasks,
    label_matrix,
    normalise,
    score_matrix,
)
from pwm.analysis.statistics.estimates import (
    DifferenceTest,
    Estimate,
    interquartile_mean,
    summarise,
    welch_test,
    welch_test_over_tasks,
)
from pwm.analysis.tables.run_measures import floor_of
from pwm.errors import DataError
from pwm.study.comparison.arms import Arm, references_of
from pwm.study.comparison.fairness import Difference, between, find_differences

# Scores [seeds] by task; by arm's label; by task the scores that count as 0 and as 1.
ScoresByTask = Mapping[str, NDArray[np.float64]]
ScoresByArm = Mapping[str, ScoresByTask]
Scale = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class ArmComparison:
    """One candidate against the baseline, on the tasks both have.

    Attributes:
        baseline, candidate: the arms.
        comparison: of their scores; it decides.
        best: comparison of the policies with the best evaluation during training, task by task; empty where
            these were not scored.
        overall: difference of the scores averaged over ``scaled`` tasks, in units of the scale; of a single
            task in returns. Where runs on several tasks began from one model it is that of the means of each
            seed. None where there is none, or an arm has only one seed on one of them.
        scaled: tasks on which at least one of all arms is shown to beat the policies that know nothing.
        differences: between the two arms, and between seeds of either.
    """

    baseline: Arm
    candidate: Arm
    comparison: Comparison
    best: list[TaskComparison]
    overall: DifferenceTest | None
    scaled: list[str]
    differences: list[Difference]

    @property
    def unfair(self) -> list[Difference]:
        """Differences that decide results and were not declared."""
        return [difference for difference in self.differences if difference.unfair]


@dataclass(frozen=True)
class StudyComparison:
    """All candidates against the baseline.

    Attributes:
        arms: the first is the baseline.
        measure: what the scores are, in words.
        references: by task, returns of the policies that know nothing; empty where unknown.
        scale: by task the score that counts as 0, which is the floor, and the best arm's mean, which counts
            as 1; without tasks on which no arm is shown to be above the floor, whose scale would be as long
            as chance has it. It depends on the arms that are compared.
        scores: by arm's label and task the score of every seed.
        rows: by arm's label, one row per run as in ``RunTable.rows``.
        differences: of all arms from the first one, and of the seeds of each arm from one another.
        normalised: by arm's label its scores [seeds, tasks] on ``scale``, of the scaled tasks that every arm
            has; None where there is none, or the arm has not the same number of seeds on each of them.
        units: by arm's label what the runs of ``normalised`` [seeds, tasks] began from; None as there.
        iqm: by arm's label the interquartile mean of ``normalised`` scores.
        candidates: one comparison per other arm.
    """

    arms: list[Arm]
    measure: str
    references: dict[str, dict[str, float]]
    scale: Scale
    scores: ScoresByArm
    rows: dict[str, list[dict[str, Any]]]
    differences: list[Difference]
    normalised: dict[str, NDArray[np.float64] | None]
    units: dict[str, NDArray[Any] | None]
    iqm: dict[str, Estimate | None]
    candidates: list[ArmComparison]

    @property
    def tasks(self) -> list[str]:
        """Tasks of all arms, sorted."""
        return sorted(self.references)

    def cells(self) -> Iterator[tuple[str, Arm]]:
        """Yield every task with every arm that has runs of it, task by task."""
        return ((task, arm) for task in self.tasks for arm in self.arms if task in arm.tasks)

    def floor(self, task: str) -> float:
        """Return of the better policy that knows nothing; NaN where unknown."""
        return floor_of(self.references[task])

    def column(self, label: str, task: str, name: str) -> list[float]:
        """Known values of a column of ``rows`` of an arm's runs of a task."""
        rows = self.rows[label]
        return [row[name] for row in rows if row["task"] == task and row[name] is not None]


def compare_study(
    arms: Sequence[Arm],
    measure: str,
    scores: ScoresByArm,
    declared: Sequence[str],
    thresholds: Mapping[str, float],
    best: ScoresByArm | None = None,
) -> StudyComparison:
    """Compare every other arm with the first one.

    Args:
        arms: at least one, the baseline first.
        measure: what the scores are, in words.
        scores: by arm's label, one per run; higher is better.
        declared: what the arms may differ in, see ``find_differences``.
        thresholds: returns by task that count as solved.
        best: scores of the policies with the best evaluation, where they are to be compared, too.

    Raises:
        DataError: as ``check_arms``, or a score is not finite.
    """
    check_arms(arms, thresholds)
    references = {task: references_of(arms, task) for arm in arms for task in arm.tasks}
    scale = find_scale(scores, references)
    differences = find_differences(arms, declared)
    normalised, units = _normalised(arms, scores, scale)
    iqm = {
        label: None if matrix is None else interquartile_mean(matrix, units=units[label])
        for label, matrix in normalised.items()
    }
    return StudyComparison(
        arms=list(arms),
        measure=measure,
        references=references,
        scale=scale,
        scores=scores,
        rows={arm.label: arm.table.rows(thresholds) for arm in arms},
        differences=differences,
        normalised=normalised,
        units=units,
        iqm=iqm,
        candidates=[_compare(arms[0], arm, scores, best or {}, scale, differences) for arm in arms[1:]],
    )


def check_arms(arms: Sequence[Arm], thresholds: Mapping[str, float]) -> None:
    """Find out in no time whether ``compare_study`` will accept its arguments.

    Raises:
        DataError: arms have no run, cannot be told apart or share no task with the first one, or a threshold
            belongs to no task.
    """
    labels = [arm.label for arm in arms]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise DataError(f"several arms have the label {', '.join(twice)}; each needs its own")
    for arm in arms:
        if not arm.table.runs:
            raise DataError(f"{arm.label}: no run can be used\n{arm.table.report()}")
        if not set(arm.tasks) & set(arms[0].tasks):
            raise DataError(
                f"{arms[0].label} and {arm.label} share no task: {', '.join(arms[0].tasks)} against "
                f"{', '.join(arm.tasks)}"
            )
    tasks = sorted({task for arm in arms for task in arm.tasks})
    if strange := sorted(set(thresholds) - set(tasks)):
        raise DataError(
            f"thresholds of tasks that no arm has: {', '.join(strange)}; tasks: {', '.join(tasks)}"
        )


def find_scale(
    scores: ScoresByArm, references: Mapping[str, Mapping[str, float]]
) -> dict[str, tuple[float, float]]:
    """By task the scores that count as 0 and as 1, see ``StudyComparison.scale``."""
    scale = {}
    for task, reference in references.items():
        floor = floor_of(reference)
        arms = [summarise(found[task]) for found in scores.values() if task in found]
        if any(arm.above(floor) for arm in arms):
            scale[task] = (floor, max(arm.mean.value for arm in arms))
    return scale


def mean_difference(
    candidate: ScoresByTask, baseline: ScoresByTask, tasks: Sequence[str], scale: Scale
) -> DifferenceTest | None:
    """Difference averaged over ``tasks``, see ``ArmComparison.overall``."""
    if not tasks or any(len(arm[task]) < 2 for arm in (candidate, baseline) for task in tasks):
        return None
    extent = {task: scale[task][1] - scale[task][0] if len(tasks) > 1 else 1.0 for task in tasks}
    a, b = ([arm[task] / extent[task] for task in tasks] for arm in (candidate, baseline))
    return welch_test_over_tasks(a, b)


def _seed_difference(
    candidate: tuple[Arm, ScoresByTask],
    baseline: tuple[Arm, ScoresByTask],
    tasks: Sequence[str],
    scale: Scale,
) -> DifferenceTest | None:
    """Difference of the means over ``tasks`` of every seed, whose runs are not independent of one another."""
    means = [
        arm.seed_means({task: scores[task] / (scale[task][1] - scale[task][0]) for task in tasks}, tasks)
        for arm, scores in (candidate, baseline)
    ]
    return None if min(map(len, means)) < 2 else welch_test(*means)


def _compare(
    baseline: Arm,
    candidate: Arm,
    scores: ScoresByArm,
    best: ScoresByArm,
    scale: Scale,
    differences: Sequence[Difference],
) -> ArmComparison:
    tasks = sorted(set(baseline.tasks) & set(candidate.tasks))

    def shared(arm: Arm, of: ScoresByArm) -> ScoresByTask:
        return {task: of[arm.label][task] for task in tasks}

    theirs, ours = shared(candidate, scores), shared(baseline, scores)
    scaled = [task for task in tasks if task in scale]
    return ArmComparison(
        baseline=baseline,
        candidate=candidate,
        comparison=compare_scores(theirs, ours, (candidate.units, baseline.units)),
        best=compare_tasks(shared(candidate, best), shared(baseline, best)) if best else [],
        overall=(
            _seed_difference((candidate, theirs), (baseline, ours), scaled, scale)
            if len(scaled) > 1 and (candidate.shares_starts or baseline.shares_starts)
            else mean_difference(theirs, ours, scaled, scale)
        ),
        scaled=scaled,
        differences=between(differences, baseline, candidate),
    )


def _normalised(
    arms: Sequence[Arm], scores: ScoresByArm, scale: Scale
) -> tuple[dict[str, NDArray[np.float64] | None], dict[str, NDArray[Any] | None]]:
    """By arm's label its ``normalised`` scores and their ``units``, see ``StudyComparison``."""
    tasks = sorted(set(scale).intersection(*(arm.tasks for arm in arms)))
    found: dict[str, NDArray[np.float64] | None] = {}
    units: dict[str, NDArray[Any] | None] = {}
    for arm in arms:
        matrix = score_matrix(scores[arm.label], tasks)
        found[arm.label] = None if matrix is None else normalise(matrix, tasks, scale)
        units[arm.label] = None if matrix is None else label_matrix(arm.units, tasks)
    return found, units
