"""Arms against the first of them: statistics of every pair, as rows for a CSV file and as text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pwm.analysis.plots.visualization import MINUTE
from pwm.analysis.statistics.comparison import Comparison, TaskComparison, compare_arms
from pwm.analysis.statistics.estimates import Estimate, summarise
from pwm.analysis.tables.run_measures import MEASURES
from pwm.errors import DataError
from pwm.study.comparison.arms import Arm, reference_scale, zero_action
from pwm.study.comparison.fairness import DECLARED, Difference, between, find_differences
from pwm.study.comparison.wording import listing


def compare_with_first(arms: Sequence[Arm], measure: str = "final") -> dict[str, Comparison]:
    """Compare every further arm with the first one, on the tasks both have.

    Several tasks are averaged on the scale of ``reference_scale``, where there is one.

    Returns:
        Comparisons by label, without the first arm's.

    Raises:
        DataError: two arms share no task, a label is there twice, or a run has no value for the measure.
    """
    labels = [arm.label for arm in arms]
    if len(set(labels)) < len(labels):
        raise DataError(f"labels must differ, there are: {', '.join(labels)}")
    scale = reference_scale(arms, measure)
    found = {}
    for arm in arms[1:]:
        baseline, candidate = arms[0].scores(measure), arm.scores(measure)
        shared = sorted(set(baseline) & set(candidate))
        if not shared:
            raise DataError(
                f"{arms[0].label} and {arm.label} share no task: {', '.join(arms[0].tasks)} against "
                f"{', '.join(arm.tasks)}"
            )
        found[arm.label] = compare_arms(
            {task: candidate[task] for task in shared},
            {task: baseline[task] for task in shared},
            scale if len(shared) > 1 else None,
        )
    return found


def comparison_rows(
    arms: Sequence[Arm],
    comparisons: Mapping[str, Comparison],
    measure: str = "final",
    declared: Sequence[str] = DECLARED,
) -> list[dict[str, Any]]:
    """One row per task and arm: its figures and, unless it is the first arm, how it compares with that one.

    ``comparable`` says whether nothing that decides results differs beyond what is ``declared``. None stands
    for what is undefined, for instance an interval of one seed.
    """
    rows = []
    unfair = unfair_differences(arms, declared)
    for task in _tasks(arms):
        for arm in arms:
            if not (runs := arm.runs(task)):
                continue
            summary = summarise(arm.scores(measure)[task])
            against = _against(comparisons.get(arm.label), task)
            row = {
                "task": task,
                "label": arm.label,
                "algorithm": arm.algorithm,
                "measure": measure,
                "seeds": summary.seeds,
                **_interval("mean", summary.mean),
                "std": summary.std,
                "zero_action": zero_action(arms, task),
                "env_steps": _mean([run.evaluations[-1].env_steps for run in runs]),
                "wall_time": _mean([run.evaluations[-1].wall_time for run in runs]),
                "baseline": None if against is None else arms[0].label,
                "comparable": None if against is None else not unfair[arm.label],
                **_interval("difference", None if against is None else against.difference),
            }
            figures = ("percent", "welch_p", "welch_p_holm", "permutation_p", "permutation_p_holm")
            row |= {name: None if against is None else getattr(against, name) for name in figures}
            rows.append({key: None if _is_nan(value) else value for key, value in row.items()})
    return rows


def difference_rows(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """One row per difference of an arm from the first one, or between seeds of an arm."""
    return [
        {
            "label": d.arm,
            "key": d.key,
            "baseline_value": d.baseline,
            "value": d.candidate,
            "runs": d.runs,
            "declared": d.declared,
            "decides": d.decides,
        }
        for d in differences
    ]


def comparison_text(
    arms: Sequence[Arm],
    comparisons: Mapping[str, Comparison],
    measure: str = "final",
    declared: Sequence[str] = DECLARED,
) -> str:
    """Tables of the arms and of every comparison, what they can show, and every problem of the runs.

    Arms that differ in more than what is ``declared`` (see ``find_differences``) are called not comparable.
    """
    rows = comparison_rows(arms, comparisons, measure, declared)
    unfair = unfair_differences(arms, declared)
    lines = [f"{MEASURES.get(measure, measure)}, over seeds", ""]
    lines += _arm_table(rows)
    noted: set[str] = set()
    for label, comparison in comparisons.items():
        lines += ["", f"{label} against {arms[0].label}", ""]
        lines += [*_fairness(label, arms[0].label, unfair[label], declared), ""]
        lines += _pair_table([row for row in rows if row["label"] == label and row["baseline"] is not None])
        lines += ["", *_over_tasks(label, arms[0].label, comparison)]
        fresh = [note for note in comparison.notes if note not in noted]
        noted.update(fresh)
        lines += [f"- {note}" for note in fresh]
    general = []
    if len(comparisons) > 1:
        general.append(
            f"p-values are corrected for the number of tasks, not for the {len(comparisons)} comparisons "
            f"with {arms[0].label}"
        )
    if measure == "best":
        general.append("the best of many noisy evaluations is higher than what the policy is worth")
    lines += ["", *(f"- {note}" for note in general)] if general else []
    for arm in arms:
        lines += ["", f"{arm.label}: {arm.table.report()}"]
    return "\n".join(lines) + "\n"


def unfair_differences(arms: Sequence[Arm], declared: Sequence[str]) -> dict[str, list[Difference]]:
    """By label of every arm but the first what decides results and was not declared to differ."""
    found = [d for d in find_differences(arms, declared) if d.unfair]
    return {arm.label: between(found, arms[0], arm) for arm in arms[1:]}


def _fairness(label: str, baseline: str, unfair: Sequence[Difference], declared: Sequence[str]) -> list[str]:
    meant = listing(declared, "nothing")
    if not unfair:
        return [f"declared to differ: {meant}; nothing else that decides results differs"]
    return [
        f"{label} and {baseline} are NOT COMPARABLE: more differs than was declared ({meant}):",
        *(f"  {difference}" for difference in unfair),
    ]


def _tasks(arms: Sequence[Arm]) -> list[str]:
    return sorted({task for arm in arms for task in arm.tasks})


def _against(comparison: Comparison | None, task: str) -> TaskComparison | None:
    found = (t for t in comparison.tasks if t.task == task) if comparison is not None else iter(())
    return next(found, None)


def _interval(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    values = (None, None, None) if estimate is None else dataclasses.astuple(estimate)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _arm_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    header = [
        "task",
        "arm",
        "seeds",
        "mean [95 % Student interval]",
        "std",
        "zero action",
        "steps",
        "minutes",
    ]
    cells = [
        [
            row["task"],
            row["label"],
            str(row["seeds"]),
            _with_interval(row, "mean"),
            _number(row["std"]),
            _number(row["zero_action"]),
            f"{row['env_steps']:.0f}",
            f"{row['wall_time'] / MINUTE:.1f}",
        ]
        for row in rows
    ]
    return list(_aligned([header, *cells], left=2))


def _pair_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    header = ["task", "difference [95 % Welch interval]", "%", "p Welch", "Holm", "p permutation", "Holm"]
    cells = [
        [
            row["task"],
            _with_interval(row, "difference"),
            "-" if row["percent"] is None else f"{row['percent']:+.1f}",
            *(
                _probability(row[name])
                for name in ("welch_p", "welch_p_holm", "permutation_p", "permutation_p_holm")
            ),
        ]
        for row in rows
    ]
    return list(_aligned([header, *cells], left=1))


def _over_tasks(candidate: str, baseline: str, comparison: Comparison) -> Iterator[str]:
    if (chance := comparison.improvement) is not None:
        yield f"probability that a run of {candidate} beats one of {baseline}: {_estimate(chance)}"
    if comparison.baseline_iqm is not None and comparison.candidate_iqm is not None:
        yield (
            f"interquartile mean of normalised scores (0 = doing nothing, 1 = best run of the task): "
            f"{candidate} {_estimate(comparison.candidate_iqm)}, {baseline} "
            f"{_estimate(comparison.baseline_iqm)}"
        )


def _estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [95 % bootstrap: {estimate.low:.2f}, {estimate.high:.2f}]"


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return _number(value) if low is None else f"{_number(value)} [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    """A return with the digits that matter; "-" where there is none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _probability(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _aligned(table: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    """Lines of a table whose first ``left`` columns hold text."""
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        cells = (
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        )
        yield "  ".join(cells).rstrip()
