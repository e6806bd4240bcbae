"""Smoothing and averaging of curves, against sums by hand and ``summarise``."""

from __future__ import annotations

import numpy as np
import pytest

from pwm.analysis.statistics.curves import POINTS, common_grid, mean_curve, on_common_grid, smooth
from pwm.analysis.statistics.estimates import summarise
from pwm.errors import ConfigError


def test_smoothing_is_a_weighted_mean_of_the_past() -> None:
    values = [4.0, 1.0, 7.0]
    found = smooth(values, 0.5)
    assert found[0] == 4.0
    assert found[1] == pytest.approx((1.0 + 0.5 * 4.0) / 1.5)
    assert found[2] == pytest.approx((7.0 + 0.5 * 1.0 + 0.25 * 4.0) / 1.75)
    np.testing.assert_array_equal(smooth(values, 0.0), values)
    # No start at zero: a constant stays what it is.
    np.testing.assert_allclose(smooth([-5.0] * 50, 0.99), -5.0)


@pytest.mark.parametrize("weight", [-0.1, 1.0, 1.5, float("nan")])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        smooth([1.0], weight)


def test_runs_measured_at_the_same_places_are_not_interpolated() -> None:
    np.testing.assert_array_equal(common_grid([[0, 10, 30], [0, 10, 30, 50]]), [0, 10, 30])
    grid, values = on_common_grid([([0, 10], [1.0, 2.0]), ([0, 10, 20], [3.0, 5.0, 100.0])])
    np.testing.assert_array_equal(grid, [0, 10])
    np.testing.assert_array_equal(values, [[1.0, 2.0], [3.0, 5.0]])


def test_other_runs_are_interpolated_where_all_have_data() -> None:
    grid, values = on_common_grid([([0, 4], [0.0, 8.0]), ([1, 3, 5], [1.0, 3.0, 5.0])])
    assert (grid[0], grid[-1], len(grid)) == (1, 4, POINTS)
    np.testing.assert_allclose(values, [2 * grid, grid])


def test_runs_that_meet_nowhere_or_in_one_point() -> None:
    assert len(common_grid([[0, 1], [2, 3]])) == 0
    np.testing.assert_array_equal(common_grid([[0, 1], [1, 3]]), [1])
    np.testing.assert_array_equal(common_grid([[0, 2], [1]]), [1])
    grid, mean = mean_curve([([0, 1], [0.0, 0.0]), ([2, 3], [0.0, 0.0])])
    assert (len(grid), len(mean.value)) == (0, 0)


def test_bands_are_those_of_summarise() -> None:
    runs = [[1.0, 5.0, 9.0], [2.0, 5.0, 7.0], [6.0, 5.0, 2.0]]
    grid, mean = mean_curve([([0, 1, 2], run) for run in runs])
    np.testing.assert_array_equal(grid, [0, 1, 2])
    for point, column in enumerate(zip(*runs)):
        wanted = summarise(column).mean
        assert (mean.value[point], mean.low[point], mean.high[point]) == (
            wanted.value,
            wanted.low,
            wanted.high,
        )
    assert mean.high[0] - mean.low[0] > 10


def test_one_run_has_no_band() -> None:
    _, mean = mean_curve([([0, 1], [3.0, 4.0])])
    np.testing.assert_array_equal(mean.value, [3.0, 4.0])
    assert np.isnan([mean.low, mean.high]).all()
