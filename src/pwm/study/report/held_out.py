"""Returns of every run's policies on held-out seeds, as the scores that a report compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pwm.analysis.tables.run_measures import floor_of
from pwm.analysis.tables.runs import Key, describe_key
from pwm.errors import DataError
from pwm.study.comparison.arm_comparison import ScoresByArm, StudyComparison, check_arms
from pwm.study.comparison.arms import Arm, references_of, steps_in_words

# The one that decides comes first.
POLICIES = ("final", "best")
# By task, algorithm and seed the episode returns of the best and the final policy.
HeldOut = Mapping[Key, Mapping[str, Sequence[float]]]


def check_reportable(arms: Sequence[Arm], held_out: HeldOut, thresholds: Mapping[str, float]) -> None:
    """Find out in no time whether a report can be made.

    Raises:
        DataError: as ``check_arms``, there are not two arms or two of the same algorithm, or a run has no
            held-out returns.
    """
    if len(arms) < 2:
        raise DataError(f"{len(arms)} arms; a report compares at least 2")
    check_arms(arms, thresholds)
    names = [arm.algorithm for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"several arms have the algorithm {', '.join(twice)}; each needs its own")
    for key in (run.key for arm in arms for run in arm.table.runs):
        for which in POLICIES:
            returns = held_out.get(key, {}).get(which, ())
            if not len(returns) or not np.isfinite(returns).all():
                found = f"{len(returns)} returns, not all finite" if len(returns) else "no returns"
                raise DataError(f"{describe_key(key)}: {found} of the {which} policy on held-out seeds")


def held_out_scores(arms: Sequence[Arm], held_out: HeldOut, which: str) -> ScoresByArm:
    """Mean held-out return of one policy of every run, by arm's label and task."""
    return {
        arm.label: {
            task: np.array([np.mean(held_out[run.key][which]) for run in arm.runs(task)])
            for task in arm.tasks
        }
        for arm in arms
    }


def half_way(arms: Sequence[Arm]) -> dict[str, float]:
    """Returns by task half-way from the floor to the best evaluation (mean over seeds) of any arm.

    Without tasks on which no arm is above the floor.
    """
    found = {}
    for task in sorted({task for arm in arms for task in arm.tasks}):
        floor = floor_of(references_of(arms, task))
        best = max(float(arm.scores("best")[task].mean()) for arm in arms if task in arm.tasks)
        if best > floor:
            found[task] = (floor + best) / 2
    return found


def steps_title(study: StudyComparison) -> str:
    """Return the title of columns that count the steps of runs: ``Steps``, or for example ``Updates``."""
    return steps_in_words(study.arms).removeprefix("environment ").capitalize()
