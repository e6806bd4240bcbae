"""Comparisons of arms as rows for CSV files, and as text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from pwm.analysis.statistics.comparison import TaskComparison
from pwm.analysis.statistics.estimates import Estimate, Summary, summarise
from pwm.analysis.tables.run_measures import MEASURES
from pwm.numbers import aligned
from pwm.study.comparison.arm_comparison import ArmComparison, StudyComparison
from pwm.study.comparison.arms import Arm, steps_in_words
from pwm.study.comparison.fairness import Difference
from pwm.study.comparison.wording import (
    listing,
    minutes,
    number,
    p_value,
    percent,
    scale_in_words,
    with_interval,
)

FIGURES = ("percent", "welch_p", "welch_p_holm", "permutation_p", "permutation_p_holm")


def comparison_rows(study: StudyComparison, measure: str) -> list[dict[str, Any]]:
    """One row per task and arm: its figures and, unless it is the first arm, how it compares with that one.

    ``comparable`` says whether nothing that decides results differs beyond what is declared. None stands for
    what is undefined, for instance an interval of one seed.
    """
    rows = []
    pairs = {pair.candidate.label: pair for pair in study.candidates}
    for task, arm, summary in _summaries(study):
        pair, against = pairs.get(arm.label), _against(pairs.get(arm.label), task)
        last = [run.evaluations[-1] for run in arm.runs(task)]
        row = {
            "task": task,
            "label": arm.label,
            "algorithm": arm.algorithm,
            "measure": measure,
            "seeds": summary.seeds,
            **_interval("mean", summary.mean),
            "std": summary.std,
            "zero_action": study.references[task].get("zero_action"),
            "floor": study.floor(task),
            **{name: _mean(counted) for name, counted in _steps(arm, task).items()},
            "wall_time": _mean([e.wall_time for e in last]),
            "baseline": None if against is None else study.arms[0].label,
            "comparable": None if pair is None or against is None else not pair.unfair,
            **_interval("difference", None if against is None else against.difference),
        }
        row |= {name: None if against is None else getattr(against, name) for name in FIGURES}
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


def comparison_text(study: StudyComparison, declared: Sequence[str]) -> str:
    """Tables of the arms and of every comparison, what they can show, and every problem of the runs.

    Arms that differ in more than what is ``declared`` are called not comparable.
    """
    lines = [f"{study.measure}, over seeds", "", _arm_table(study)]
    noted: set[str] = set()
    for pair in study.candidates:
        lines += ["", f"{pair.candidate.label} against {pair.baseline.label}", ""]
        lines += [*_fairness(pair, declared), "", _pair_table(pair), "", *_over_tasks(study, pair)]
        fresh = [note for note in pair.comparison.notes if note not in noted]
        noted.update(fresh)
        lines += [f"- {note}" for note in fresh]
    if general := [f"- {note}" for note in _notes(study)]:
        lines += ["", *general]
    for arm in study.arms:
        lines += ["", f"{arm.label}: {arm.table.report()}"]
    return "\n".join(lines) + "\n"


def _summaries(study: StudyComparison) -> Iterator[tuple[str, Arm, Summary]]:
    """Task, arm and its scores there, arm by arm within each task."""
    for task, arm in study.cells():
        yield task, arm, summarise(study.scores[arm.label][task])


def _against(pair: ArmComparison | None, task: str) -> TaskComparison | None:
    return next((t for t in pair.comparison.tasks if t.task == task), None) if pair is not None else None


def _steps(arm: Arm, task: str) -> dict[str, list[int]]:
    """Steps of the arm's runs of a task, by what they count."""
    found: dict[str, list[int]] = {}
    for run in arm.runs(task):
        found.setdefault(run.progress, []).append(run.steps)
    return found


def _interval(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    values = (None, None, None) if estimate is None else dataclasses.astuple(estimate)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _arm_table(study: StudyComparison) -> str:
    steps = steps_in_words(study.arms).removeprefix("environment ")
    header = ["task", "arm", "seeds", "mean [95 % Student interval]", "std", "floor", steps, "minutes"]
    rows = []
    for task, arm, summary in _summaries(study):
        last = [run.evaluations[-1] for run in arm.runs(task)]
        figures = [with_interval(summary.mean), number(summary.std), number(study.floor(task))]
        times = [f"{_mean([e.steps for e in last]):,.0f}", minutes([e.wall_time for e in last])]
        rows.append([task, arm.label, str(summary.seeds), *figures, *times])
    return aligned(header, rows, words=("task", "arm"))


def _pair_table(pair: ArmComparison) -> str:
    header = ["task", "difference [95 % Welch interval]", "Δ %", "p Welch", "Holm", "p permutation", "Holm"]
    rows = [
        [
            task.task,
            with_interval(task.difference, sign=True),
            percent(task.percent),
            *(p_value(getattr(task, name)) for name in FIGURES[1:]),
        ]
        for task in pair.comparison.tasks
    ]
    return aligned(header, rows, words=("task",))


def _fairness(pair: ArmComparison, declared: Sequence[str]) -> list[str]:
    meant = listing(declared, "nothing")
    if not pair.unfair:
        return [f"declared to differ: {meant}; nothing else that decides results differs"]
    names = f"{pair.candidate.label} and {pair.baseline.label}"
    return [
        f"{names} are NOT COMPARABLE: more differs than was declared ({meant}):",
        *(f"  {difference}" for difference in pair.unfair),
    ]


def _notes(study: StudyComparison) -> Iterator[str]:
    """Return the remarks that hold for all comparisons."""
    if study.candidates:
        yield scale_in_words(study.scale, study.tasks)
    if len(study.candidates) > 1:
        others = f"{len(study.candidates)} comparisons with {study.arms[0].label}"
        yield f"p-values are corrected for the number of tasks, not for the {others}."
    if study.measure == MEASURES["best"]:
        yield "The best of many noisy evaluations is higher than what the policy is worth."


def _over_tasks(study: StudyComparison, pair: ArmComparison) -> Iterator[str]:
    candidate, baseline = pair.candidate.label, pair.baseline.label
    bootstrap = "with 95 % bootstrap intervals"
    if (chance := pair.comparison.improvement) is not None:
        yield (
            f"probability that a run of {candidate} beats one of {baseline}, {bootstrap}: "
            f"{with_interval(chance)}"
        )
    ours, theirs = study.iqm[candidate], study.iqm[baseline]
    if ours is not None and theirs is not None:
        yield (
            f"interquartile mean of normalised scores, {bootstrap}: {candidate} {with_interval(ours)}, "
            f"{baseline} {with_interval(theirs)}"
        )
