"""Comparing two arms: every figure from hand-counted scores, and what the notes claim."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pwm.analysis.statistics.comparison import compare_scores, normalise, sample_size_notes
from pwm.analysis.statistics.estimates import (
    permutation_test,
    probability_of_improvement,
    welch_test,
)
from pwm.errors import DataError

pytest.importorskip("rliable")

FLOW = {"ant": [110.0, 120.0, 130.0], "hopper": [8.0, 12.0, 10.0]}
MLP = {"ant": [90.0, 100.0, 110.0], "hopper": [9.0, 10.0, 11.0]}


def test_a_table_of_two_tasks() -> None:
    found = compare_scores(FLOW, MLP)
    ant, hopper = found.tasks
    assert (ant.task, ant.baseline.mean.value, ant.candidate.mean.value) == ("ant", 100.0, 120.0)
    assert (ant.baseline.std, ant.candidate.std, ant.baseline.seeds) == (10.0, 10.0, 3)
    assert (ant.difference.value, ant.percent) == (20.0, 20.0)
    assert ant.welch_p == welch_test(FLOW["ant"], MLP["ant"]).p_value
    assert ant.permutation_p == permutation_test(FLOW["ant"], MLP["ant"])
    # Holm: the smaller p-value counts twice.
    assert ant.welch_p_holm == pytest.approx(2 * ant.welch_p)
    assert (hopper.difference.value, hopper.permutation_p_holm) == (0.0, 1.0)
    assert ant.power is not None
    assert ant.power.effect == pytest.approx(2.0)
    assert ant.power.seeds_needed == 6
    arms = [np.array([arm["ant"], arm["hopper"]]).T for arm in (FLOW, MLP)]
    assert found.improvement == probability_of_improvement(*arms)


def test_scores_are_normalised_task_by_task() -> None:
    with pytest.raises(DataError, match="no scale for: hopper"):
        normalise([[1.0, 1.0]], ["ant", "hopper"], {"ant": (0.0, 1.0)})
    with pytest.raises(DataError, match="equal for: a"):
        normalise([[1.0]], ["a"], {"a": (3.0, 3.0)})
    np.testing.assert_allclose(
        normalise([[-5.0, 1.0]], ["a", "b"], {"a": (-10, 0), "b": (0, 2)}), [[0.5, 0.5]]
    )


def test_notes_say_what_three_seeds_cannot_show() -> None:
    notes = " ".join(compare_scores(FLOW, MLP).notes)
    assert "the smallest p-value a two-sided permutation test can give is 0.1, and 0.2 after Holm" in notes
    assert "it cannot reach 0.05 whatever the scores" in notes
    assert "at least 3.1 standard deviations" in notes
    assert "between 0.5 and 6.3 times the measured one" in notes
    assert "held the truth in 73 to 88 % of simulations with 3 seeds" in notes
    assert (
        "ant: if the true difference were the observed one (+2.00 standard deviations), about 6 seeds"
        in notes
    )


def test_arms_that_do_not_overlap_show_no_certainty() -> None:
    found = compare_scores({"ant": [4.0, 5.0, 6.0]}, {"ant": [1.0, 2.0, 3.0]})
    assert found.improvement is not None
    assert found.improvement.value == 1.0
    assert np.isnan([found.improvement.low, found.improvement.high]).all()
    (note,) = [note for note in found.notes if note.startswith("P(better)")]
    assert "held the truth in 38 to 93 % of simulations with 3 seeds" in note
    assert not any("P(better)" in note for note in sample_size_notes(20, 20))


def test_more_seeds_can_show_more() -> None:
    text = " ".join(sample_size_notes(10, 10))
    assert "it can reach 0.05" in text
    assert "at least 1.3 standard deviations" in text
    assert "too narrow" not in text
    # Four seeds reach 2/70, but not after correction for two tasks.
    assert "it can reach 0.05" in " ".join(sample_size_notes(4, 4))
    assert "cannot reach 0.05" in " ".join(sample_size_notes(4, 4, tasks=2))


def test_one_seed_shows_nothing() -> None:
    found = compare_scores({"ant": [3.0]}, {"ant": [1.0, 2.0]})
    (ant,) = found.tasks
    assert ant.difference.value == 1.5
    assert np.isnan([ant.difference.low, ant.welch_p, ant.permutation_p, ant.welch_p_holm]).all()
    assert ant.power is None
    assert "no claim is possible" in found.notes[0]


def test_tasks_with_different_numbers_of_seeds_have_no_common_figure() -> None:
    found = compare_scores(FLOW | {"ant": [1.0, 2.0]}, MLP)
    assert found.improvement is None
    assert found.tasks[0].candidate.seeds == 2
    assert "no figure over all tasks" in found.notes[-1]


def test_percent_of_a_negative_baseline_has_the_sign_of_the_difference() -> None:
    (task,) = compare_scores({"a": [-50.0, -50.0, -50.0]}, {"a": [-90.0, -100.0, -110.0]}).tasks
    assert task.percent == 50.0
    (task,) = compare_scores({"a": [1.0, 2.0]}, {"a": [-1.0, 1.0]}).tasks
    assert math.isnan(task.percent)


def test_different_tasks_are_an_error() -> None:
    with pytest.raises(DataError, match=r"only one arm has: \['hopper'\]"):
        compare_scores(FLOW, {"ant": MLP["ant"]})
    with pytest.raises(DataError, match="at least one"):
        compare_scores({}, {})
