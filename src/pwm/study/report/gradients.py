"""The part of a report that compares the signal of gradients, and the smoothness of imagined rollouts.

What is measured stands in docs/gradient_quality.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pwm.analysis.statistics.estimates import (
    DifferenceTest,
    Estimate,
    summarise,
    welch_test,
    welch_test_over_tasks,
)
from pwm.analysis.tables.records import load_records
from pwm.analysis.tables.runs import Run
from pwm.study.comparison.arm_comparison import StudyComparison
from pwm.study.comparison.arms import Arm
from pwm.study.comparison.wording import DASH, count, counts, listing, p_value, with_interval
from pwm.study.report.document import Block, Bullets, Row, Section, Table, Text

# What is compared, by name: a metric, and its sign where more of it is claimed. Decibels, so that no single
# epoch decides a mean.
MEASURES = {
    "world model": ("wm/esnr_db", 1),
    "policy": ("actor/esnr_db", 1),
    "smoothness": ("wm/stretch_db", -1),
}
CONFIRMED, REFUTED, UNDECIDED = "confirmed", "not confirmed", "cannot tell"

# By measure, arm's label and task the mean over training of every seed [seeds], in dB; tasks of which a run
# was not measured are left out.
Signals = Mapping[str, Mapping[str, Mapping[str, NDArray[np.float64]]]]


@dataclass(frozen=True)
class SignalComparison:
    """One measure under one candidate, against the baseline.

    Attributes:
        arm: the candidate's label.
        measure: a key of ``MEASURES``.
        tasks: those on which both arms have two seeds or more, all of them measured.
        seeds: numbers of seeds of both arms on these tasks.
        test: difference of the means, averaged over ``tasks``, in dB; None where there is no such task.
    """

    arm: str
    measure: str
    tasks: list[str]
    seeds: list[int]
    test: DifferenceTest | None

    @property
    def outcome(self) -> str:
        """``confirmed`` where the whole interval is above zero, ``not confirmed`` where it is below."""
        if self.test is None or math.isnan(self.test.difference.low):
            return UNDECIDED
        if self.test.difference.low > 0:
            return CONFIRMED
        return REFUTED if self.test.difference.high < 0 else UNDECIDED


def signals(arms: Sequence[Arm]) -> dict[str, dict[str, dict[str, NDArray[np.float64]]]]:
    """Read what the runs measured, see ``Signals``.

    Raises:
        DataError: metrics of a run are damaged.
    """
    found: dict[str, dict[str, dict[str, NDArray[np.float64]]]] = {
        measure: {arm.label: {} for arm in arms} for measure in MEASURES
    }
    for arm in arms:
        for task in arm.tasks:
            means = [_means(run) for run in arm.runs(task)]
            for measure in MEASURES:
                values = np.array([of_run[measure] for of_run in means])
                if np.isfinite(values).all():
                    found[measure][arm.label][task] = values
    return found


def comparisons(study: StudyComparison, measured: Signals) -> list[SignalComparison]:
    """Every measure under every candidate against the baseline; empty where nothing was measured."""
    return [
        _compare(pair.baseline, pair.candidate, measure, by_arm)
        for pair in study.candidates
        for measure, by_arm in measured.items()
        if any(by_arm.values())
    ]


def gradient_quality(study: StudyComparison, measured: Signals) -> list[Section]:
    """Return the section on gradients; none where no run measured them."""
    found = comparisons(study, measured)
    if not found:
        return []
    baseline = study.arms[0].label
    blocks: list[Block] = [
        Text(
            f"Claim: the gradients of an arm have more signal than those of {baseline}, and its imagination "
            "is smoother. Signal is 10 log10 of the squared length of the mean gradient over the total "
            "variance of 8 gradients at fixed parameters; pure noise is −8.5 dB. Smoothness is −10 log10 of "
            "the mean squared factor by which an imagined rollout of the horizon stretches small changes of "
            "its first latent; a rotation has 0 dB. Both are averaged over all measurements of a run. "
            "Confirmed: the 95 % interval of the difference, averaged over tasks, lies above zero; not "
            "confirmed: below; cannot tell: it holds zero."
        ),
        Bullets([_sentence(comparison, baseline) for comparison in found]),
        Table(
            "Signal of the gradients and smoothness, mean over training in dB: means over seeds with "
            f"Student's 95 % interval; differences from {baseline} with Welch's, not corrected for their "
            "number.",
            list(_rows(study, measured)),
            names=2,
        ),
    ]
    return [Section("Gradient quality", blocks)]


def _means(run: Run) -> dict[str, float]:
    """By measure the mean of the run's measurements up to its last evaluation; NaN where there is none."""
    last = run.evaluations[-1].epoch
    records = [r for r in load_records(run.path) if r.get("epoch") is not None and r["epoch"] <= last]
    found = {}
    for measure, (metric, sign) in MEASURES.items():
        values = [sign * record[metric] for record in records if record.get(metric) is not None]
        found[measure] = float(np.mean(values)) if values else math.nan
    return found


def _compare(
    baseline: Arm, candidate: Arm, measure: str, by_arm: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> SignalComparison:
    theirs, ours = by_arm[candidate.label], by_arm[baseline.label]
    tasks = sorted(t for t in theirs.keys() & ours.keys() if min(len(theirs[t]), len(ours[t])) > 1)
    seeds = [len(of[task]) for task in tasks for of in (theirs, ours)]
    test = None
    if len(tasks) > 1 and (candidate.shares_starts or baseline.shares_starts):
        # Runs of a seed began from one model, so that its mean over tasks is one observation.
        means = candidate.seed_means(theirs, tasks), baseline.seed_means(ours, tasks)
        test = welch_test(*means) if min(map(len, means)) > 1 else None
    elif tasks:
        test = welch_test_over_tasks([theirs[task] for task in tasks], [ours[task] for task in tasks])
    return SignalComparison(candidate.label, measure, tasks, seeds, test)


def _sentence(comparison: SignalComparison, baseline: str) -> str:
    name = f"{comparison.arm}, {comparison.measure}: {comparison.outcome}"
    if comparison.test is None:
        return f"{name}; no task has two measured seeds of it and of {baseline}."
    difference = with_interval(comparison.test.difference, sign=True)
    return (
        f"{name}; {difference} dB against {baseline} (p {p_value(comparison.test.p_value)}) with "
        f"{counts(comparison.seeds, 'seed')} per arm on {count(len(comparison.tasks), 'task')}: "
        f"{listing(comparison.tasks)}."
    )


def _rows(study: StudyComparison, measured: Signals) -> Iterator[Row]:
    baseline = study.arms[0].label
    for task, arm in study.cells():
        cells = []
        for measure, by_arm in measured.items():
            if not any(by_arm.values()):
                continue
            own, first = by_arm[arm.label].get(task), by_arm[baseline].get(task)
            difference = DASH
            if arm.label != baseline and own is not None and first is not None:
                difference = with_interval(_difference(own, first), sign=True)
            title = measure.capitalize()
            cells += [
                (f"{title} (dB)", DASH if own is None else with_interval(summarise(own).mean)),
                (f"{title}, difference", difference),
            ]
        yield [("Task", task), ("Arm", arm.label), *cells]


def _difference(x: NDArray[np.float64], y: NDArray[np.float64]) -> Estimate:
    if min(len(x), len(y)) < 2:
        return Estimate(float(x.mean() - y.mean()), math.nan, math.nan)
    return welch_test(x, y).difference
