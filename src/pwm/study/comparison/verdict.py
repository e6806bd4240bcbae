"""What a comparison amounts to: one sentence per candidate, and the acceptance criteria."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pwm.analysis.cost.parameter_parity import TOLERANCE, Parities
from pwm.analysis.cost.training_cost import RunCost
from pwm.analysis.statistics.estimates import ALPHA, Estimate
from pwm.analysis.tables.run_measures import share_of_peak
from pwm.analysis.tables.runs import Run
from pwm.study.comparison.arm_comparison import ArmComparison, StudyComparison
from pwm.study.comparison.wording import count, counts, interval, listing, number, percent, share

NAMED_DIFFERENCES = 4
SHARE_OF_TASKS = 0.5
RETENTION = 0.9
SHARE_OF_PEAK = 0.5

# Name of a criterion, whether it is met, and the numbers behind it.
Judged = tuple[str, bool, str]


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


def verdict(pair: ArmComparison) -> str:
    """One sentence: better, worse, cannot be told apart, or not comparable and why."""
    a, b = pair.candidate.label, pair.baseline.label
    if pair.unfair:
        return f"{a} and {b} are NOT COMPARABLE, because more differs than was declared: {_named(pair)}."
    tasks = pair.comparison.tasks
    if not pair.scaled:
        return f"{a} and {b} cannot be compared: {_why_none(pair)}."
    chosen = [task for task in tasks if task.task in pair.scaled]
    seeds = counts([n for task in chosen for n in (task.candidate.seeds, task.baseline.seeds)], "seed")
    extent = f"with {seeds} per arm on {count(len(chosen), 'task')}"
    if left_out := _left_out(pair):
        extent += f" ({left_out})"
    if pair.overall is None:
        single = "run" if min(min(t.candidate.seeds, t.baseline.seeds) for t in chosen) < 2 else "model"
        return f"{a} and {b} cannot be told apart {extent}: a single {single} has no spread to judge by."
    difference = pair.overall.difference
    if math.isnan(difference.low):
        return f"{a} and {b} cannot be told apart {extent}: no score varies, so there is nothing to test."
    found = f"{_difference(difference, pair)} {extent}; {_task_by_task(pair)}."
    if difference.low > 0:
        return f"{a} is better than {b}: {found}"
    if difference.high < 0:
        return f"{a} is worse than {b}: {found}"
    return f"{a} and {b} cannot be told apart: {found}"


def criteria(
    study: StudyComparison, costs: Mapping[str, Sequence[RunCost]], parity: Parities
) -> list[Criterion]:
    """Every criterion for every candidate, by candidate.

    Args:
        study: the candidates.
        costs: by arm's label those of its runs.
        parity: checked pairs of world models, by label and task.
    """
    return [
        Criterion(pair.candidate.label, *judged)
        for pair in study.candidates
        for judged in (
            _fair(pair),
            _as_good_on_enough_tasks(pair),
            _same_size(pair, parity),
            _no_failed_run(pair),
            _no_skipped_update(costs[pair.candidate.label]),
            _keeps_what_it_learned(pair, study),
            _no_collapsed_seed(pair, study),
        )
    ]


def size_differences(pair: ArmComparison) -> dict[str, float]:
    """By task (P_candidate - P_baseline) / P_baseline over the world models, as the run folders state them.

    NaN where one does not.
    """
    found = {}
    for task in pair.comparison.tasks:
        ours, theirs = (_size(arm.runs(task.task)) for arm in (pair.baseline, pair.candidate))
        found[task.task] = math.nan if ours is None or theirs is None else (theirs - ours) / ours
    return found


def _size(runs: Sequence[Run]) -> int | None:
    return next((size for run in runs if (size := run.parameters.get("world_model"))), None)


def _named(pair: ArmComparison) -> str:
    named = [str(difference) for difference in pair.unfair[:NAMED_DIFFERENCES]]
    more = len(pair.unfair) - len(named)
    return listing([*named, f"{more} more"] if more else named)


def _difference(difference: Estimate, pair: ArmComparison) -> str:
    widest = max(abs(difference.low), abs(difference.high))
    text = f"{number(difference.value, widest, sign=True)} (95 % interval {interval(difference)})"
    if len(pair.scaled) == 1:
        return f"{text} in return"
    return f"{text} on a scale from the floor (0) to the best arm (1)"


def _why_none(pair: ArmComparison) -> str:
    """Return the reason why no task counts."""
    if any(run.reference for arm in (pair.baseline, pair.candidate) for run in arm.table.runs):
        return (
            "on no task is an arm's final policy shown to score above the floor, that is above doing nothing "
            "and acting at random"
        )
    return "no run folder holds the scores of policies that know nothing"


def _left_out(pair: ArmComparison) -> str:
    """Tasks that do not count, and why; empty where all do."""
    others = [task.task for task in pair.comparison.tasks if task.task not in pair.scaled]
    return f"no arm is shown to be above the floor on {listing(others)}" if others else ""


def _task_by_task(pair: ArmComparison) -> str:
    significant = [
        task for task in pair.comparison.tasks if task.task in pair.scaled and task.welch_p_holm < ALPHA
    ]
    better = listing(task.task for task in significant if task.difference.value > 0)
    worse = listing(task.task for task in significant if task.difference.value < 0)
    text = f"task by task it is significantly better on {better}, worse on {worse}"
    if contrary := _contrary_to_best(pair):
        text += f" (the best policies instead of the final ones say the opposite on {listing(contrary)})"
    return text


def _contrary_to_best(pair: ArmComparison) -> list[str]:
    """Tasks on which the best policies differ significantly in the other direction than the final ones do."""
    return [
        best.task
        for final, best in zip(pair.comparison.tasks, pair.best)
        if best.task in pair.scaled
        and best.welch_p_holm < ALPHA
        and best.difference.value * final.difference.value < 0
    ]


def _fair(pair: ArmComparison) -> Judged:
    found = f"also different: {_named(pair)}" if pair.unfair else "nothing undeclared differs"
    return "the comparison is fair", not pair.unfair, found


def _as_good_on_enough_tasks(pair: ArmComparison) -> Judged:
    name = f"at least as good as {pair.baseline.label} on {share(SHARE_OF_TASKS)} of the tasks"
    tasks = [task for task in pair.comparison.tasks if task.task in pair.scaled]
    if not tasks:
        return name, False, f"no task counts: {_why_none(pair)}"
    good = [task for task in tasks if task.difference.value >= 0]
    signs = "; ".join(
        f"{task.task} {number(task.candidate.mean.value)} against {number(task.baseline.mean.value)}"
        for task in tasks
    )
    detail = f"{len(good)} of {len(tasks)} ({signs})"
    if left_out := _left_out(pair):
        detail += f"; not counted: {left_out}"
    if pair.unfair:
        detail += "; not comparable"
    return name, len(good) / len(tasks) >= SHARE_OF_TASKS and not pair.unfair, detail


def _same_size(pair: ArmComparison, parity: Parities) -> Judged:
    measured, checked = size_differences(pair), list(parity.get(pair.candidate.label, {}).values())
    passed = all(abs(size) <= TOLERANCE for size in measured.values()) and all(p.passed for p in checked)
    sizes = ", ".join(f"{task} {percent(100 * size, 2)}" for task, size in measured.items())
    detail = f"{sizes}; {len([p for p in checked if p.passed])} of {len(checked)} checked pairs pass"
    return f"world models of equal size, within {share(TOLERANCE)}", passed, detail


def _no_failed_run(pair: ArmComparison) -> Judged:
    table = pair.candidate.table
    problems = [p for p in table.problems if p.kind in ("failed", "damaged")]
    detail = f"{len(problems)} failed or damaged beside {count(len(table.runs), 'run')} that can be used"
    return "no failed run", not problems, detail


def _no_skipped_update(costs: Sequence[RunCost]) -> Judged:
    known = [cost.skipped_updates for cost in costs if cost.skipped_updates is not None]
    detail = f"{sum(known):g} skipped in {count(len(known), 'run')}"
    if unknown := len(costs) - len(known):
        detail += f"; not logged in {count(unknown, 'run')}"
    return "no update skipped for a non-finite gradient", not unknown and not any(known), detail


def _keeps_what_it_learned(pair: ArmComparison, study: StudyComparison) -> Judged:
    shares = [(row, row["retention"]) for row in study.rows[pair.candidate.label]]
    name = f"last evaluations keep {share(RETENTION)} of the peak (mean over seeds, every task)"
    return name, *_kept(study, shares, np.mean, RETENTION)


def _no_collapsed_seed(pair: ArmComparison, study: StudyComparison) -> Judged:
    shares = [(row, final_share(study, row)) for row in study.rows[pair.candidate.label]]
    passed, detail = _kept(study, shares, np.min, SHARE_OF_PEAK)
    return f"no seed ends below {share(SHARE_OF_PEAK)} of its peak", passed, f"worst seed: {detail}"


def final_share(study: StudyComparison, row: Mapping[str, Any]) -> float | None:
    """Last evaluation of a run (a row of ``RunTable.rows``) as ``share_of_peak`` of its best one."""
    return share_of_peak(row["final"], row["best"], study.floor(row["task"]))


def _kept(
    study: StudyComparison,
    shares: Sequence[tuple[Mapping[str, Any], float | None]],
    over_seeds: Callable[[Sequence[float]], float],
    least: float,
) -> tuple[bool, str]:
    """True if at least so much of the peak is left on every task, and the numbers.

    A run that was never above the floor has no peak, and nothing says that it would have kept one: it is
    named, and the answer is no. This holds for tasks on which nobody learned, too, for they may be the ones
    on which everything was lost again.
    """
    by_task: dict[str, list[float]] = {}
    unknown: dict[str, list[str]] = {}
    for row, part in shares:
        if part is None:
            unknown.setdefault(row["task"], []).append(str(row["seed"]))
        else:
            by_task.setdefault(row["task"], []).append(part)
    left = {task: float(over_seeds(found)) for task, found in sorted(by_task.items())}
    said = [", ".join(f"{task} {part:.2f}" for task, part in left.items())] if left else []
    if unknown:
        runs = sum(map(len, unknown.values()))
        where = "; ".join(
            f"{task} seed{'s' * (len(seeds) > 1)} {listing(seeds)} "
            f"{'of unknown floor' if math.isnan(study.floor(task)) else 'never above the floor'}"
            for task, seeds in sorted(unknown.items())
        )
        said.append(f"{runs} of {count(len(shares), 'run')} cannot be judged: {where}")
    return not unknown and all(part >= least for part in left.values()), "; ".join(said)
