"""The part of a report that says what came out: criteria, tables of results, learning and stability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pwm.analysis.statistics.comparison import TaskComparison
from pwm.analysis.statistics.estimates import Estimate, Summary
from pwm.study.comparison.arm_comparison import ArmComparison, StudyComparison
from pwm.study.comparison.verdict import Criterion, final_share
from pwm.study.comparison.wording import (
    DASH,
    counts,
    listing,
    mean_and_std,
    minutes,
    number,
    p_value,
    percent,
    plus_minus,
    scale_in_words,
    with_interval,
)
from pwm.study.report.document import Block, Bullets, Picture, Row, Section, Table, Text, passed_or_not
from pwm.study.report.held_out import POLICIES, HeldOut, steps_title

LITTLE = "†"
NOT_LEARNED = "‡"
NOTES = {
    LITTLE: "A percentage means little here: the baseline's mean is not positive, or not larger than its "
    "standard deviation.",
    NOT_LEARNED: "Not shown to be above the floor: the mean or the lower end of its 95 % interval is not.",
}
CHOSEN = {
    "final": "policy after the last epoch, on held-out seeds; this one decides",
    "best": "policy with the best evaluation during training, on held-out seeds",
}


def acceptance(criteria: Sequence[Criterion]) -> Section:
    """Every criterion with its numbers."""
    table = Table(
        "Acceptance criteria; what cannot be judged is not met. Returns are means over seeds of the final "
        "policies on held-out seeds.",
        [
            [
                ("Arm", c.arm),
                ("Result", passed_or_not(c.passed)),
                ("Criterion", c.name),
                ("Numbers", c.detail),
            ]
            for c in criteria
        ],
        words=True,
    )
    return Section("Acceptance criteria", [table])


def results(study: StudyComparison, held_out: HeldOut, figures: Mapping[str, Picture]) -> Section:
    """Tables of final and best policies, one block per candidate."""
    runs = [run.key for arm in study.arms for run in arm.table.runs]
    episodes = counts([len(held_out[key][which]) for key in runs for which in POLICIES], "episode")
    blocks: list[Block] = [
        Text(
            f"A score is the mean return of {episodes} on held-out seeds, which training never saw: real "
            "rewards, whole episodes, deterministic policy. The floor is the better one of two policies that "
            "know nothing, zero actions and random actions; what does not beat it has not learned. p-values "
            "are two-sided and corrected for the number of tasks (Holm): Welch's t-test, and the permutation "
            "(perm.) test of the difference of means. Time is that of training, its own evaluations "
            "included, mean over seeds."
        )
    ]
    for pair in study.candidates:
        for which, tasks in (("final", pair.comparison.tasks), ("best", pair.best)):
            rows = [_comparison_row(task, pair, study) for task in tasks]
            signs = "".join(str(cell) for row in rows for _, cell in row)
            caption = (
                f"{pair.candidate.label} against {pair.baseline.label}: {CHOSEN[which]}. Mean ± standard "
                "deviation over seeds (number of seeds)."
            )
            notes = [f"{sign} {note}" for sign, note in NOTES.items() if sign in signs]
            blocks.append(Table(caption, rows, notes))
    return Section("Results", [*blocks, figures["final_returns"]])


def over_all_tasks(study: StudyComparison, figures: Mapping[str, Picture]) -> Section:
    """Figures that average over tasks."""
    baseline = study.arms[0].label
    rows: list[Row] = [
        [
            ("Arm", pair.candidate.label),
            ("Mean difference", _estimate(pair.overall.difference if pair.overall else None, sign=True)),
            ("p", p_value(pair.overall.p_value) if pair.overall else DASH),
            (f"P(better than {baseline})", _estimate(pair.comparison.improvement)),
            ("IQM", _estimate(study.iqm[pair.candidate.label])),
            (f"IQM of {baseline}", _estimate(study.iqm[baseline])),
        ]
        for pair in study.candidates
    ]
    notes = [
        "Mean difference: in normalised score, with Welch's 95 % interval and p-value (for a single task in "
        "return).",
        "P(better): probability that a run of the arm beats one of the baseline on the same task, ties "
        "counted half, on all tasks; without an interval where the arms' runs do not overlap. IQM: "
        "interquartile mean of normalised scores. Both with stratified bootstrap intervals (rliable), "
        "too narrow for few seeds, see the limits below.",
    ]
    blocks: list[Block] = [Text(scale_in_words(study.scale, study.tasks))]
    if any(arm.shares_starts for arm in study.arms):
        notes.append(
            "Runs that began from one model are not independent: the mean difference is that of the means of "
            "each model, and the bootstrap draws models, each with all of its runs. Where all runs of an arm "
            "began from one model, there is no interval."
        )
    blocks.append(Table(f"Final policies against {baseline}, with 95 % intervals.", rows, notes))
    if "performance_profile" in figures:
        blocks.append(figures["performance_profile"])
    return Section("Over all tasks", blocks)


def limits(study: StudyComparison) -> Section:
    """Return what so few seeds can and cannot show."""
    several = len(study.candidates) > 1
    lines = [
        f"{pair.candidate.label}: {note}" if several and note.partition(":")[0] in study.tasks else note
        for pair in study.candidates
        for note in pair.comparison.notes
    ]
    if several:
        lines.append(
            f"p-values are corrected for the number of tasks, not for the {len(study.candidates)} "
            f"comparisons with {study.arms[0].label}."
        )
    return Section("What these numbers can and cannot show", [Bullets(list(dict.fromkeys(lines)))])


def learning(
    study: StudyComparison, thresholds: Mapping[str, float], figures: Mapping[str, Picture]
) -> Section:
    """Learning curves, and how many steps and minutes it takes."""
    notes = [
        f"{steps_title(study)} and minutes to the threshold: mean ± standard deviation over the seeds that "
        "reach it, at the first evaluation that does. Average return: area under the learning curve over its "
        "steps."
    ]
    if derived := [task for task in study.tasks if task not in thresholds]:
        notes.append(
            f"No threshold was given for {listing(derived)}: there it lies half-way from the floor to the "
            "best evaluation of the best arm (mean over seeds), where one is above the floor."
        )
    rows = [_sample_efficiency(study, task, arm.label) for task, arm in study.cells()]
    caption = "Sample efficiency, from the evaluations during training."
    table = Table(caption, rows, notes, names=2)
    return Section("Learning", [figures["returns_by_steps"], figures["returns_by_time"], table])


def stability(study: StudyComparison, figures: Mapping[str, Picture]) -> Section:
    """Spread over seeds, and what is left of the peak at the end."""
    table = Table(
        "Spread over seeds, and what is left of the peak.",
        [_spread_and_peak(study, task, arm.label) for task, arm in study.cells()],
        [
            "Standard deviation and range: final policies on held-out seeds; gain is their mean above the "
            "floor. Peak: best evaluation during training. Retention: mean of the last ten evaluations (of "
            "the last fifth where there are fewer than fifty) as a share of the peak; last / peak: the last "
            "evaluation. Both above the floor; a run that was never above it has no peak to keep, and "
            "the number of those that have one is stated.",
        ],
        names=2,
    )
    return Section("Stability", [table, figures["gradient_norms"], figures["losses"]])


def _comparison_row(task: TaskComparison, pair: ArmComparison, study: StudyComparison) -> Row:
    floor = study.floor(task.task)
    baseline, candidate = pair.baseline.label, pair.candidate.label
    ours, theirs = (
        float(np.mean(study.column(label, task.task, "wall_time"))) / 60 for label in (baseline, candidate)
    )
    little = task.baseline.mean.value <= max(0.0, np.nan_to_num(task.baseline.std))
    return [
        ("Task", task.task),
        (baseline, _score(task.baseline, floor)),
        (candidate, _score(task.candidate, floor)),
        ("Δ %", percent(task.percent) + (LITTLE if little and math.isfinite(task.percent) else "")),
        ("p (Welch)", p_value(task.welch_p_holm)),
        ("p (perm.)", p_value(task.permutation_p_holm)),
        (f"Time {baseline} / {candidate} (min)", f"{number(ours)} / {number(theirs)}"),
        ("Time ratio", number(theirs / ours)),
        ("Δ return [95 %]", with_interval(task.difference, sign=True)),
        ("Floor", number(floor)),
    ]


def _score(summary: Summary, floor: float) -> str:
    unclear = not math.isnan(floor) and not summary.above(floor)
    return f"{plus_minus(summary)} ({summary.seeds}){NOT_LEARNED if unclear else ''}"


def _estimate(estimate: Estimate | None, sign: bool = False) -> str:
    return DASH if estimate is None else with_interval(estimate, sign)


def _sample_efficiency(study: StudyComparison, task: str, label: str) -> Row:
    threshold = next(iter(study.column(label, task, "threshold")), None)
    steps = study.column(label, task, "steps_to_threshold")
    reached = f"{len(steps)} of {len(study.column(label, task, 'seed'))}"
    return [
        ("Task", task),
        ("Arm", label),
        ("Average return", mean_and_std(study.column(label, task, "auc"))),
        ("Threshold", number(threshold)),
        ("Seeds that reach it", DASH if threshold is None else reached),
        (steps_title(study), mean_and_std(steps)),
        ("Minutes", minutes(study.column(label, task, "seconds_to_threshold"))),
    ]


def _spread_and_peak(study: StudyComparison, task: str, label: str) -> Row:
    scores = study.scores[label][task]
    std = float(scores.std(ddof=1)) if len(scores) > 1 else math.nan
    gain = float(scores.mean()) - study.floor(task)
    rows = [row for row in study.rows[label] if row["task"] == task]
    retention = study.column(label, task, "retention")
    ends = [part for row in rows if (part := final_share(study, row)) is not None]
    known = f" ({len(retention)} of {len(rows)})" if len(retention) < len(rows) else ""
    return [
        ("Task", task),
        ("Arm", label),
        ("Std over seeds", number(std)),
        ("Std / gain", number(std / gain) if gain > 0 else DASH),
        ("Lowest to highest seed", f"{number(float(scores.min()))} to {number(float(scores.max()))}"),
        ("Peak", mean_and_std(study.column(label, task, "best"))),
        ("Retention", mean_and_std(retention) + known),
        ("Lowest retention", number(min(retention, default=None))),
        ("Lowest last / peak", number(min(ends, default=None))),
    ]
