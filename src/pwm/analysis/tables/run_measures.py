"""Figures of one run, from its evaluations alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LAST = 10
# Epochs at the end whose mean the results of the original state.
LAST_EPOCHS = 100
# The measures that arms are compared by, in words.
MEASURES = {
    "final": "return of the last evaluation",
    "last10": "mean return of the last ten evaluations",
    "best": "return of the best evaluation",
    "auc": "mean return over the steps of training",
}


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation during training.

    Attributes:
        epoch: epochs that were done.
        steps: what the run's trainer counts, environment steps or updates.
        wall_time: seconds over all sittings.
        episode_return: mean over episodes.
        std: standard deviation over episodes; None where it was not logged.
    """

    epoch: int
    steps: int
    wall_time: float
    episode_return: float
    std: float | None


def floor_of(reference: Mapping[str, float]) -> float:
    """Return the floor of a task, the better return of the policies that know nothing; NaN where unknown.

    Args:
        reference: their returns by name, such as zero actions and random actions.
    """
    return max(reference.values(), default=math.nan)


def share_of_peak(value: float, peak: float, floor: float) -> float | None:
    """Return what ``value`` keeps of ``peak``, both above the floor: 1 is all of it, 0 is the floor.

    None where the peak is not above the floor, or the floor is unknown (NaN): there is nothing to keep.
    """
    return (value - floor) / (peak - floor) if peak > floor else None


def measures(
    evaluations: Sequence[EvaluationRecord], reference: Mapping[str, float], threshold: float | None
) -> dict[str, float | None]:
    """Return the achievements of a run; None where a figure is undefined.

    Args:
        evaluations: at least one, in the order of training.
        reference: returns of policies that know nothing, see ``floor_of``.
        threshold: return that counts as solved.

    Returns:
        ``final``; ``best``; ``last10``, the mean of the last ten evaluations; ``last_100_epochs``, the mean
        of the evaluations of the last 100 epochs, of which the last one always is one; ``auc``, the area
        under the curve over steps (trapezoids) divided by the steps from the first to the last evaluation,
        that is the mean return along the way; ``drop``, best minus final; ``retention``, the mean of the
        last ten evaluations (of the last fifth where there are fewer than fifty: what comes before belongs
        to learning) as ``share_of_peak`` of best;
        ``steps_to_threshold`` and ``seconds_to_threshold``, at the first evaluation that reaches the
        threshold (not interpolated).
    """
    returns = np.array([e.episode_return for e in evaluations])
    steps = np.array([e.steps for e in evaluations], dtype=float)
    final, best, last10 = float(returns[-1]), float(returns.max()), float(returns[-LAST:].mean())
    span = float(steps[-1] - steps[0])
    since = evaluations[-1].epoch - LAST_EPOCHS
    lately = [e.episode_return for e in evaluations[:-1] if e.epoch > since]
    kept = float(returns[-max(1, min(LAST, len(returns) // 5)) :].mean())
    solved = (e for e in evaluations if threshold is not None and e.episode_return >= threshold)
    first = next(solved, None)
    return {
        "final": final,
        "best": best,
        "last10": last10,
        f"last_{LAST_EPOCHS}_epochs": float(np.mean([*lately, final])),
        "auc": float(np.trapezoid(returns, steps)) / span if span else None,
        "drop": best - final,
        "retention": share_of_peak(kept, best, floor_of(reference)),
        "threshold": threshold,
        "steps_to_threshold": None if first is None else first.steps,
        "seconds_to_threshold": None if first is None else first.wall_time,
    }
