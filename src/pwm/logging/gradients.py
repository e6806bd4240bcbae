"""Gradients as they stand after the last update of each network: statistics and histograms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pwm.algorithm.gradient_moments import entry_statistics

# The first epoch shows where training started, then one histogram per this many epochs.
HISTOGRAM_EPOCHS = 200
BINS = 64


class Histogram(NamedTuple):
    """Finite entries of one gradient, counted.

    Attributes:
        counts: [BINS] int64.
        edges: [BINS + 1] float64, equally wide bins from the smallest to the largest entry.
        total, total_squares: sums of the entries and of their squares.
    """

    counts: np.ndarray
    edges: np.ndarray
    total: float
    total_squares: float


def histograms_due(epoch: int) -> bool:
    """True if the gradients of ``epoch`` are to be stored."""
    return epoch == 1 or (epoch > 0 and epoch % HISTOGRAM_EPOCHS == 0)


def gradient_histograms(networks: Mapping[str, nn.Module]) -> dict[str, Histogram]:
    """Histogram of every parameter's gradient, named ``gradients/<network>/<parameter>``.

    Gradients are what the optimiser used, after clipping. Parameters without gradient, and gradients without
    a finite entry, are left out.
    """
    found = {}
    for network, module in networks.items():
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                finite = parameter.grad[parameter.grad.isfinite()]
                if finite.numel():
                    found[f"gradients/{network}/{name}"] = _histogram(finite)
    return found


def _histogram(values: Tensor) -> Histogram:
    """Count ``values`` (not empty, finite) on their device; only counts and sums leave it."""
    low, high = (float(v) for v in values.aminmax())
    if low == high:
        # A bin needs a width; this one keeps a distance from zero that float64 can tell apart.
        half = 0.5 * max(abs(low), 1e-12)
        low, high = low - half, high + half
    counts = torch.histc(values.float(), BINS, low, high)
    wide = values.double()
    return Histogram(
        counts.long().cpu().numpy(),
        np.linspace(low, high, BINS + 1),
        float(wide.sum()),
        float(wide.square().sum()),
    )


def compute_gradient_stats(parameters: nn.Module | Iterable[Tensor]) -> dict[str, float]:
    """Statistics over all gradient entries of a module, or of parameters.

    Returns:
        What ``entry_statistics`` gives. Empty if no parameter has a gradient.
    """
    if isinstance(parameters, nn.Module):
        parameters = parameters.parameters()
    gradients = [p.grad for p in parameters if p.grad is not None]
    return entry_statistics(gradients) if gradients else {}
