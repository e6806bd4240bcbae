"""Statistics and histograms of gradients against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import pwm
from pwm.algorithm.updates import Updater
from pwm.logging.gradients import (
    BINS,
    HISTOGRAM_EPOCHS,
    compute_gradient_stats,
    gradient_histograms,
    histograms_due,
)


def network(*gradients: list[float] | None) -> nn.Module:
    """A module whose parameters have these gradients."""
    module = nn.Module()
    for number, values in enumerate(gradients):
        parameter = nn.Parameter(torch.zeros(len(values or [0.0])))
        parameter.grad = None if values is None else torch.tensor(values)
        module.register_parameter(f"p{number}", parameter)
    return module


def test_histograms_are_due_at_the_start_and_every_200_epochs() -> None:
    assert [epoch for epoch in range(1001) if histograms_due(epoch)] == [1, 200, 400, 600, 800, 1000]
    assert HISTOGRAM_EPOCHS == 200


def test_stats_over_all_entries() -> None:
    stats = compute_gradient_stats(network([3.0, 0.0], None, [-4.0, 1.0]))
    values = np.array([3.0, 0.0, -4.0, 1.0])
    assert stats == pytest.approx(
        {
            "mean": values.mean(),
            "std": values.std(),
            "max_abs": 4.0,
            "norm": math.sqrt(26.0),
            "zeros": 0.25,
            "non_finite": 0.0,
        }
    )
    assert compute_gradient_stats(network([3.0, 0.0], None, [-4.0, 1.0]).parameters()) == stats
    assert pwm.compute_gradient_stats is compute_gradient_stats


def test_stats_leave_non_finite_entries_out_and_count_them() -> None:
    stats = compute_gradient_stats(network([1.0, float("nan")], [float("inf"), 3.0]))
    assert (stats["non_finite"], stats["mean"], stats["max_abs"]) == (0.5, 2.0, 3.0)
    nothing = compute_gradient_stats(network([float("nan")]))
    assert nothing["non_finite"] == 1.0
    assert math.isnan(nothing["norm"])


def test_no_gradient_has_no_stats() -> None:
    assert compute_gradient_stats(network(None)) == {}
    assert compute_gradient_stats([]) == {}


def test_histogram_counts_every_finite_entry() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(10_000, generator=generator).tolist()
    found = gradient_histograms({"actor": network([*values, float("nan"), float("-inf")], None)})
    assert list(found) == ["gradients/actor/p0"]
    histogram = found["gradients/actor/p0"]
    expected, edges = np.histogram(values, BINS)
    assert histogram.counts.sum() == 10_000
    # float32 may put an entry next to an edge into the neighbouring bin.
    assert np.abs(histogram.counts - expected).sum() <= 10
    np.testing.assert_allclose(histogram.edges, edges, rtol=1e-6)
    assert histogram.total == pytest.approx(sum(values), abs=1e-3)
    assert histogram.total_squares == pytest.approx(sum(v * v for v in values), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-9, -3.0, 1e30])
def test_equal_entries_share_a_bin(value: float) -> None:
    found = gradient_histograms({"critic": network([value] * 5)})["gradients/critic/p0"]
    assert sorted(found.counts)[-1] == found.counts.sum() == 5
    assert found.edges[0] < value < found.edges[-1]


def test_gradient_without_finite_entries_has_no_histogram() -> None:
    assert gradient_histograms({"critic": network([float("nan")], None)}) == {}


def test_gradients_are_those_the_optimiser_used() -> None:
    module = nn.Linear(4, 1, bias=False)
    updater = Updater("test", module.parameters(), 1e-3, (0.9, 0.999), max_norm=0.5, max_skipped=3)
    norm = updater.step(100.0 * module(torch.ones(1, 4)).sum())
    assert float(norm) == pytest.approx(200.0)
    assert compute_gradient_stats(module)["norm"] == pytest.approx(0.5)
