"""The verdict over tasks of which one is not learned: how often it is wrong, and what it still finds."""

from __future__ import annotations

import numpy as np
import pytest

from pwm.analysis.statistics.estimates import summarise
from pwm.study.comparison.arm_comparison import ScoresByTask, find_scale, mean_difference

SIMULATIONS = 1000
LEARNED = ("a", "b", "c")
NEAR = "near the floor"
REFERENCES = {task: {"zero_action": 0.0, "random_action": -5.0} for task in (*LEARNED, NEAR)}


def scale_of(candidate: ScoresByTask, baseline: ScoresByTask) -> dict[str, tuple[float, float]]:
    return find_scale({"flow": candidate, "MLP": baseline}, REFERENCES)


def simulate(loss: float) -> tuple[float, float]:
    """Shares of simulations with three seeds whose interval holds the truth, and that find a difference.

    The candidate gains 10 +- 0.5 on three tasks, of which the baseline lacks the share ``loss``. On a fourth
    both are 1 above the floor, with a standard deviation of 30.
    """
    random = np.random.default_rng(0)
    noise = random.normal(size=(SIMULATIONS, 2, 4, 3))
    covered = significant = 0
    for simulation in noise:
        arms = [
            dict(zip(LEARNED, gain + 0.5 * scores)) | {NEAR: 1 + 30 * scores[3]}
            for gain, scores in zip((10.0, 10.0 * (1 - loss)), simulation)
        ]
        scale = scale_of(*arms)
        found = mean_difference(*arms, sorted(scale), scale)
        assert found is not None
        truth = loss * len(LEARNED) / len(scale)
        covered += found.difference.low <= truth <= found.difference.high
        significant += found.p_value < 0.05
    return covered / SIMULATIONS, significant / SIMULATIONS


def test_a_task_near_the_floor_is_left_out_unless_an_arm_is_shown_to_be_above_it() -> None:
    # Five clear wins and one task on which the best arm is 1 above the floor, by chance.
    wins = {f"task {n}": np.array([99.0, 100.0, 101.0]) for n in range(5)}
    losses = {task: scores - 60 for task, scores in wins.items()}
    noise = np.array([-30.0, 0.0, 30.0])
    references = {task: {"zero_action": 0.0} for task in wins} | {NEAR: {"zero_action": 0.0}}
    arms = [wins | {NEAR: 1 + noise}, losses | {NEAR: noise}]
    scale = find_scale({"flow": arms[0], "MLP": arms[1]}, references)
    assert sorted(scale) == sorted(wins)
    found = mean_difference(*arms, sorted(scale), scale)
    assert found is not None
    assert found.difference.value == pytest.approx(0.6)
    assert found.difference.low > 0.5
    assert not summarise(arms[0][NEAR]).above(0.0)
    assert summarise(wins["task 0"]).above(0.0)


def test_equal_arms_are_called_different_as_often_as_stated() -> None:
    covered, significant = simulate(0.0)
    assert 0.92 < covered < 0.98
    assert 0.03 <= significant <= 0.07


def test_a_difference_is_found_beside_a_task_that_nobody_learned() -> None:
    covered, significant = simulate(0.3)
    assert 0.92 < covered < 0.98
    assert significant > 0.9
