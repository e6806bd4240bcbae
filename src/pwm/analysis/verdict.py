"""What a comparison amounts to: one sentence per candidate, and the acceptance criteria."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pwm.analysis.outcome import Outcome, Outcomes
from pwm.analysis.parameter_parity import TOLERANCE, Parity
from pwm.analysis.runs import Run
from pwm.analysis.statistics import ALPHA, Estimate
from pwm.analysis.wording import count, counts, interval, listing, number, percent, share

NAMED_DIFFERENCES = 4
SHARE_OF_TASKS = 0.5
RETENTION = 0.9
SHARE_OF_PEAK = 0.5


@dataclass(frozen=True)
class Criterion:
    """One condition a candidate has to meet.

    Attributes:
        arm: the candidate's label.
        name: the condition.
        passed: whether it is met; what cannot be judged is not.
        detail: the numbers behind it.
    """

    arm: str
    name: str
    passed: bool
    detail: str


def verdict(outcome: Outcome) -> str:
    """One sentence: better, worse, cannot be told apart, or not comparable and why."""
    a, b = outcome.candidate.label, outcome.baseline.label
    if outcome.unfair:
        return f"{a} and {b} are NOT COMPARABLE, because more differs than was declared: {_named(outcome)}."
    tasks = outcome.final.tasks
    if not outcome.scaled:
        unknown = "no run folder holds the scores of policies that know nothing"
        nothing = "on no task does an arm's final policy score above doing nothing and acting at random"
        known = any(run.reference for arm in (outcome.baseline, outcome.candidate) for run in arm.table.runs)
        return f"{a} and {b} cannot be compared: {nothing if known else unknown}."
    chosen = [task for task in tasks if task.task in outcome.scaled]
    seeds = counts([n for task in chosen for n in (task.candidate.seeds, task.baseline.seeds)], "seed")
    extent = f"with {seeds} per arm on {count(len(chosen), 'task')}"
    if left_out := [task.task for task in tasks if task.task not in outcome.scaled]:
        extent += f" (no arm beats the floor on {listing(left_out)})"
    if outcome.overall is None:
        return f"{a} and {b} cannot be told apart {extent}: a single run has no spread to judge by."
    difference = outcome.overall.difference
    if math.isnan(difference.low):
        return f"{a} and {b} cannot be told apart {extent}: no score varies, so there is nothing to test."
    found = f"{_difference(difference, outcome)} {extent}; {_task_by_task(outcome)}."
    if difference.low > 0:
        return f"{a} is better than {b}: {found}"
    if difference.high < 0:
        return f"{a} is worse than {b}: {found}"
    return f"{a} and {b} cannot be told apart: {found}"


def criteria(outcomes: Outcomes, parity: Sequence[Parity]) -> list[Criterion]:
    """Every criterion for every candidate, by candidate."""
    judge: list[Callable[[Outcome], Criterion]] = [
        _fair,
        _as_good_on_enough_tasks,
        lambda outcome: _same_size(outcome, parity),
        _no_failed_run,
        lambda outcome: _no_skipped_update(outcome, outcomes),
        lambda outcome: _keeps_what_it_learned(outcome, outcomes),
        lambda outcome: _no_collapsed_seed(outcome, outcomes),
    ]
    return [criterion(outcome) for outcome in outcomes.candidates for criterion in judge]


def size_differences(outcome: Outcome) -> dict[str, float]:
    """By task (P_candidate - P_baseline) / P_baseline over the world models, as the run folders state them.

    NaN where one does not.
    """
    found = {}
    for task in outcome.final.tasks:
        ours, theirs = (_size(arm.runs(task.task)) for arm in (outcome.baseline, outcome.candidate))
        found[task.task] = math.nan if ours is None or theirs is None else (theirs - ours) / ours
    return found


def _size(runs: Sequence[Run]) -> int | None:
    return next((size for run in runs if (size := run.parameters.get("world_model"))), None)


def _named(outcome: Outcome) -> str:
    named = [str(difference) for difference in outcome.unfair[:NAMED_DIFFERENCES]]
    more = len(outcome.unfair) - len(named)
    return listing([*named, f"{more} more"] if more else named)


def _difference(difference: Estimate, outcome: Outcome) -> str:
    widest = max(abs(difference.low), abs(difference.high))
    text = f"{number(difference.value, widest, sign=True)} (95 % interval {interval(difference)})"
    if len(outcome.scaled) == 1:
        return f"{text} in return"
    return f"{text} on a scale from the floor (0) to the best arm (1)"


def _task_by_task(outcome: Outcome) -> str:
    significant = [task for task in outcome.final.tasks if task.welch_p_holm < ALPHA]
    better = listing(task.task for task in significant if task.difference.value > 0)
    worse = listing(task.task for task in significant if task.difference.value < 0)
    text = f"task by task it is significantly better on {better}, worse on {worse}"
    if contrary := _contrary_to_best(outcome):
        text += f" (the best policies instead of the final ones say the opposite on {listing(contrary)})"
    return text


def _contrary_to_best(outcome: Outcome) -> list[str]:
    """Tasks on which the best policies differ significantly in the other direction than the final ones do."""
    return [
        best.task
        for final, best in zip(outcome.final.tasks, outcome.best, strict=True)
        if best.welch_p_holm < ALPHA and best.difference.value * final.difference.value < 0
    ]


def _fair(outcome: Outcome) -> Criterion:
    found = f"also different: {_named(outcome)}" if outcome.unfair else "nothing undeclared differs"
    return Criterion(outcome.candidate.label, "the comparison is fair", not outcome.unfair, found)


def _as_good_on_enough_tasks(outcome: Outcome) -> Criterion:
    tasks = outcome.final.tasks
    good = [task for task in tasks if task.difference.value >= 0]
    part = len(good) / len(tasks)
    signs = "; ".join(
        f"{task.task} {number(task.candidate.mean.value)} against {number(task.baseline.mean.value)}"
        for task in tasks
    )
    name = f"at least as good as {outcome.baseline.label} on {share(SHARE_OF_TASKS)} of the tasks"
    detail = f"{len(good)} of {len(tasks)} ({signs})"
    if outcome.unfair:
        detail += "; not comparable"
    return Criterion(outcome.candidate.label, name, part >= SHARE_OF_TASKS and not outcome.unfair, detail)


def _same_size(outcome: Outcome, parity: Sequence[Parity]) -> Criterion:
    measured = size_differences(outcome)
    passed = all(abs(size) <= TOLERANCE for size in measured.values()) and all(p.passed for p in parity)
    sizes = ", ".join(f"{task} {percent(100 * size, 2)}" for task, size in measured.items())
    detail = f"{sizes}; {len([p for p in parity if p.passed])} of {len(parity)} checked pairs pass"
    return Criterion(
        outcome.candidate.label, f"world models of equal size, within {share(TOLERANCE)}", passed, detail
    )


def _no_failed_run(outcome: Outcome) -> Criterion:
    problems = [p for p in outcome.candidate.table.problems if p.kind in ("failed", "damaged")]
    used = count(len(outcome.candidate.table.runs), "run")
    detail = f"{len(problems)} failed or damaged beside {used} that can be used"
    return Criterion(outcome.candidate.label, "no failed run", not problems, detail)


def _no_skipped_update(outcome: Outcome, outcomes: Outcomes) -> Criterion:
    found = [cost.skipped_updates for cost in outcomes.costs[outcome.candidate.label]]
    known = [value for value in found if value is not None]
    detail = f"{sum(known):g} skipped in {count(len(known), 'run')}"
    if unknown := len(found) - len(known):
        detail += f"; not logged in {count(unknown, 'run')}"
    passed = not unknown and not any(known)
    return Criterion(outcome.candidate.label, "no update skipped for a non-finite gradient", passed, detail)


def _keeps_what_it_learned(outcome: Outcome, outcomes: Outcomes) -> Criterion:
    label = outcome.candidate.label
    shares = {task: outcomes.column(label, task, "retention") for task in outcome.candidate.tasks}
    passed = all(found and np.mean(found) >= RETENTION for found in shares.values())
    detail = _by_task((task, float(np.mean(found)) if found else math.nan) for task, found in shares.items())
    name = f"last evaluations keep {share(RETENTION)} of the peak (mean over seeds, every task)"
    return Criterion(label, name, passed, detail)


def _no_collapsed_seed(outcome: Outcome, outcomes: Outcomes) -> Criterion:
    label = outcome.candidate.label
    worst = {
        task: min(final_shares(outcomes, label, task), default=math.nan) for task in outcome.candidate.tasks
    }
    passed = all(part >= SHARE_OF_PEAK for part in worst.values())
    name = f"no seed ends below {share(SHARE_OF_PEAK)} of its peak"
    return Criterion(label, name, passed, f"worst seed: {_by_task(worst.items())}")


def final_shares(outcomes: Outcomes, label: str, task: str) -> list[float]:
    """Last evaluation of every seed as a share of its best one, both above the lower of the references.

    Without seeds that were never above it.
    """
    floor = min(outcomes.references[task].values(), default=math.nan)
    rows = [row for row in outcomes.rows[label] if row["task"] == task]
    return [(row["final"] - floor) / (row["best"] - floor) for row in rows if row["best"] > floor]


def _by_task(shares: Iterable[tuple[str, float]]) -> str:
    return ", ".join(
        f"{task} never above the floor" if math.isnan(part) else f"{task} {part:.2f}" for task, part in shares
    )
