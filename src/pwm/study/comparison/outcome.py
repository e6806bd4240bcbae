"""What came out of a comparison: scores on held-out seeds, their tests, and all figures of every run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwm.analysis.cost.training_cost import RunCost, measure_cost
from pwm.analysis.statistics.comparison import (
    Comparison,
    TaskComparison,
    compare_arms,
    compare_tasks,
    normalise,
)
from pwm.analysis.statistics.estimates import (
    DifferenceTest,
    Estimate,
    interquartile_mean,
    summarise,
    welch_test_over_tasks,
)
from pwm.analysis.tables.runs import Key, describe_key
from pwm.errors import DataError
from pwm.study.comparison.arms import Arm
from pwm.study.comparison.fairness import Difference, find_differences

CHECKPOINTS = ("final", "best")

HeldOut = Mapping[Key, Mapping[str, Sequence[float]]]
Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Outcome:
    """One candidate against the baseline, on the tasks both have.

    Attributes:
        baseline, candidate: the arms.
        final: comparison of the final policies; it decides, because nothing was selected.
        best: comparison of the policies with the best evaluation during training, task by task.
        overall: difference of the final policies averaged over ``scaled`` tasks, in units of the scale; of a
            single task in returns. None where there is none, or an arm has only one seed on one of them.
        scaled: tasks on which at least one of all arms is shown to beat the policies that know nothing.
        differences: between the two arms, and between seeds of either.
    """

    baseline: Arm
    candidate: Arm
    final: Comparison
    best: list[TaskComparison]
    overall: DifferenceTest | None
    scaled: list[str]
    differences: list[Difference]

    @property
    def unfair(self) -> list[Difference]:
        """Differences that decide results and were not declared."""
        return [difference for difference in self.differences if difference.unfair]


@dataclass(frozen=True)
class Outcomes:
    """All candidates against the baseline.

    Attributes:
        arms: the first is the baseline.
        references: by task, returns of the policies that know nothing; empty where unknown.
        scale: by task the return that counts as 0, which is the better one of ``references``, and that of the
            best arm's final policies, which counts as 1; without tasks on which no arm's final policies are
            shown to be above the former, whose scale would be as long as chance has it.
        scores: by arm's label, checkpoint and task the mean held-out return of every seed.
        rows: by arm's label, one row per run as in ``RunTable.rows``.
        costs: by arm's label and in the order of its runs.
        iqm: by arm's label the interquartile mean of final scores on ``scale``; None where an arm has not the
            same number of seeds on every task.
        candidates: one outcome per other arm.
    """

    arms: list[Arm]
    references: dict[str, dict[str, float]]
    scale: dict[str, tuple[float, float]]
    scores: dict[str, dict[str, Scores]]
    rows: dict[str, list[dict[str, Any]]]
    costs: dict[str, list[RunCost]]
    iqm: dict[str, Estimate | None]
    candidates: list[Outcome]

    @property
    def tasks(self) -> list[str]:
        """Tasks of all arms, sorted."""
        return sorted({task for arm in self.arms for task in arm.tasks})

    def floor(self, task: str) -> float:
        """Return of the better policy that knows nothing; NaN where unknown."""
        return max(self.references[task].values(), default=math.nan)

    def column(self, label: str, task: str, name: str) -> list[float]:
        """Known values of a column of ``rows`` of an arm's runs of a task."""
        rows = self.rows[label]
        return [row[name] for row in rows if row["task"] == task and row[name] is not None]


def evaluate(
    arms: Sequence[Arm], declared: Sequence[str], held_out: HeldOut, thresholds: Mapping[str, float]
) -> Outcomes:
    """Compare every other arm with the first one.

    Raises:
        DataError: as ``check_comparable``.
    """
    check_comparable(arms, held_out, thresholds)
    scores = {arm.label: {which: _scores(arm, held_out, which) for which in CHECKPOINTS} for arm in arms}
    references = {task: _reference(arms, task) for arm in arms for task in arm.tasks}
    scale = _scale(scores, references)
    chosen = _thresholds(arms, references) | dict(thresholds)
    differences = find_differences(arms, declared)
    sizes: dict[str, tuple[int, int] | None] = {}
    return Outcomes(
        arms=list(arms),
        references=references,
        scale=scale,
        scores=scores,
        rows={arm.label: arm.table.rows(chosen) for arm in arms},
        costs={arm.label: [measure_cost(run, sizes) for run in arm.table.runs] for arm in arms},
        iqm=_iqm(arms, scores, scale),
        candidates=[_outcome(arms[0], arm, scores, scale, differences) for arm in arms[1:]],
    )


def _outcome(
    baseline: Arm,
    candidate: Arm,
    scores: Mapping[str, Mapping[str, Scores]],
    scale: Mapping[str, tuple[float, float]],
    differences: Sequence[Difference],
) -> Outcome:
    tasks = sorted(set(baseline.tasks) & set(candidate.tasks))
    ours, theirs = (
        {which: {task: scores[arm.label][which][task] for task in tasks} for which in CHECKPOINTS}
        for arm in (baseline, candidate)
    )
    scaled = [task for task in tasks if task in scale]
    labels = (baseline.label, candidate.label)
    return Outcome(
        baseline=baseline,
        candidate=candidate,
        final=compare_arms(theirs["final"], ours["final"]),
        best=compare_tasks(theirs["best"], ours["best"]),
        overall=mean_difference(theirs["final"], ours["final"], scaled, scale),
        scaled=scaled,
        differences=[difference for difference in differences if difference.arm in labels],
    )


def mean_difference(
    candidate: Scores, baseline: Scores, tasks: Sequence[str], scale: Mapping[str, tuple[float, float]]
) -> DifferenceTest | None:
    """Difference averaged over ``tasks``, see ``Outcome.overall``."""
    if not tasks or any(len(arm[task]) < 2 for arm in (candidate, baseline) for task in tasks):
        return None
    extent = {task: scale[task][1] - scale[task][0] if len(tasks) > 1 else 1.0 for task in tasks}
    a, b = ([arm[task] / extent[task] for task in tasks] for arm in (candidate, baseline))
    return welch_test_over_tasks(a, b)


def check_comparable(arms: Sequence[Arm], held_out: HeldOut, thresholds: Mapping[str, float]) -> None:
    """Find out in no time whether ``evaluate`` will accept its arguments.

    Raises:
        DataError: there are not two arms, they cannot be told apart or share no task, a run has no held-out
            returns, or a threshold belongs to no task.
    """
    if len(arms) < 2:
        raise DataError(f"{len(arms)} arms; a report compares at least 2")
    for kind, names in (
        ("label", [arm.label for arm in arms]),
        ("algorithm", [arm.algorithm for arm in arms if arm.table.runs]),
    ):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"several arms have the {kind} {', '.join(twice)}; each needs its own")
    for arm in arms:
        if not arm.table.runs:
            raise DataError(f"{arm.label}: no run can be used\n{arm.table.report()}")
        if not set(arm.tasks) & set(arms[0].tasks):
            raise DataError(f"{arm.label} and {arms[0].label} have no task in common")
    if strange := sorted(set(thresholds) - {task for arm in arms for task in arm.tasks}):
        raise DataError(f"thresholds of tasks that no arm has: {', '.join(strange)}")
    for key in (run.key for arm in arms for run in arm.table.runs):
        for which in CHECKPOINTS:
            returns = held_out.get(key, {}).get(which, ())
            if not len(returns) or not np.isfinite(returns).all():
                found = f"{len(returns)} returns, not all finite" if len(returns) else "no returns"
                raise DataError(f"{describe_key(key)}: {found} of the {which} policy on held-out seeds")


def _scores(arm: Arm, held_out: HeldOut, which: str) -> Scores:
    """Mean held-out return of every seed, by task."""
    return {
        task: np.array([np.mean(held_out[run.key][which]) for run in arm.runs(task)]) for task in arm.tasks
    }


def _reference(arms: Sequence[Arm], task: str) -> dict[str, float]:
    known = (run.reference for arm in arms for run in arm.runs(task))
    return next((reference for reference in known if reference), {})


def _scale(
    scores: Mapping[str, Mapping[str, Scores]], references: Mapping[str, Mapping[str, float]]
) -> dict[str, tuple[float, float]]:
    scale = {}
    for task, reference in references.items():
        floor = max(reference.values(), default=math.inf)
        arms = [summarise(found["final"][task]) for found in scores.values() if task in found["final"]]
        if any(arm.above(floor) for arm in arms):
            scale[task] = (floor, max(arm.mean.value for arm in arms))
    return scale


def _thresholds(arms: Sequence[Arm], references: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns half-way from the floor to the best evaluation (mean over seeds) of any arm."""
    found = {}
    for task, reference in references.items():
        floor = max(reference.values(), default=math.inf)
        bests = [arm.scores("best")[task].mean() for arm in arms if task in arm.tasks]
        if max(bests) > floor:
            found[task] = float(floor + max(bests)) / 2
    return found


def _iqm(
    arms: Sequence[Arm],
    scores: Mapping[str, Mapping[str, Scores]],
    scale: Mapping[str, tuple[float, float]],
) -> dict[str, Estimate | None]:
    """Interquartile means over the scaled tasks that every arm has."""
    tasks = sorted(set(scale).intersection(*(arm.tasks for arm in arms)))
    found: dict[str, Estimate | None] = {}
    for arm in arms:
        columns = [scores[arm.label]["final"][task] for task in tasks]
        whole = len({len(column) for column in columns}) == 1
        found[arm.label] = (
            interquartile_mean(normalise(np.stack(columns, axis=1), tasks, scale)) if whole else None
        )
    return found
