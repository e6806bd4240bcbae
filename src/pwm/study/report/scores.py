"""The part of a report on scores between 0 and 1, on a scale that the tasks themselves have."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pwm.analysis.statistics.estimates import summarise, welch_test
from pwm.analysis.tables.runs import Key
from pwm.study.comparison.arm_comparison import ScoresByTask, StudyComparison
from pwm.study.comparison.arms import Arm
from pwm.study.comparison.wording import DASH, listing, number, p_value, with_interval
from pwm.study.report.document import Block, Row, Section, Table


def normalised_scores(
    study: StudyComparison, scores: Mapping[Key, float], full_returns: Mapping[str, float]
) -> list[Section]:
    """Return the section of scores whose scale the tasks themselves have; empty where no task has one.

    Args:
        study: what was compared.
        scores: of the final policies by task, algorithm and seed, see ``Findings.task_scores``.
        full_returns: by task the return that is a score of 1; a return of 0 is a score of 0. The score of
            another task is its success.
    """
    tasks = [
        task for task in study.tasks if all(run.key in scores for arm in study.arms for run in arm.runs(task))
    ]
    if not tasks:
        return []
    by_arm = {arm.label: _scores(arm, tasks, scores) for arm in study.arms if set(tasks) <= set(arm.tasks)}
    means = {arm.label: arm.seed_means(by_arm[arm.label], tasks) for arm in study.arms if arm.label in by_arm}
    # What success a policy has that knows nothing is not measured.
    floors = {task: study.floor(task) / full_returns.get(task, math.nan) for task in tasks}
    rows = [
        _row(task, {label: by_task[task] for label, by_task in by_arm.items()}, floors[task])
        for task in tasks
    ]
    if len(tasks) > 1:
        rows.append(_row(f"mean of {len(tasks)} tasks", means, float(np.mean(list(floors.values())))))
    caption = "Normalised scores of the final policies: means over seeds with Student's 95 % interval."
    blocks: list[Block] = [Table(caption, rows, [_meaning(tasks, full_returns)])]
    baseline = study.arms[0].label
    tests = {
        label: welch_test(found, means[baseline])
        for label, found in means.items()
        if label != baseline and baseline in means and min(len(found), len(means[baseline])) > 1
    }
    if tests:
        caption = f"Mean normalised scores against {baseline}, with Welch's 95 % interval."
        columns = ("Arm", "Mean difference", "p")
        blocks.append(
            Table(
                caption,
                [
                    list(zip(columns, (label, with_interval(t.difference, sign=True), p_value(t.p_value))))
                    for label, t in tests.items()
                ],
            )
        )
    return [Section("Normalised scores", blocks)]


def _scores(arm: Arm, tasks: list[str], scores: Mapping[Key, float]) -> ScoresByTask:
    return {task: np.array([scores[run.key] for run in arm.runs(task)], dtype=float) for task in tasks}


def _meaning(tasks: list[str], full_returns: Mapping[str, float]) -> str:
    """What a score is, in words."""
    earned = sorted({number(full_returns[task]) for task in tasks if task in full_returns})
    judged = [task for task in tasks if task not in full_returns]
    parts = []
    if earned:
        parts.append(f"the return over the most that an episode can earn ({listing(earned)})")
    if judged:
        parts.append(f"the share of held-out episodes that end in success ({listing(judged)})")
    return (
        f"A normalised score is {', and elsewhere '.join(parts)}. The mean over tasks is taken seed by seed, "
        "and its interval over seeds."
    )


def _row(name: str, scores: Mapping[str, np.ndarray], floor: float) -> Row:
    """A row of scores [seeds] by arm's label."""
    means = {label: with_interval(summarise(s).mean) if len(s) else DASH for label, s in scores.items()}
    return [("Task", name), *means.items(), ("Floor", number(floor))]
