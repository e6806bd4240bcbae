"""Mean and total variance of a stream of gradients, in the memory of one gradient.

A gradient g of a random batch has mean mu and covariance S. Its signal is |mu|^2, its noise the total
variance tr S = E|g - mu|^2, and their ratio the expected signal-to-noise ratio (Roberts & Tedrake 2008,
"Signal-to-Noise Ratio Analysis of Policy Gradient Algorithms"); the inverse, times the batch size, is the
simple noise scale of McCandlish et al. 2018, "An Empirical Model of Large-Batch Training". Only the trace of
the covariance is needed, so the running mean and two numbers are all that is kept (Welford 1962).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-10


class GradientMoments:
    """Moments of independent gradients, added one at a time.

    Attributes:
        count: gradients added, M.
        mean: their mean, one tensor per parameter; empty before the first one.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: list[Tensor] = []
        self._squares: Tensor = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def add(self, gradient: Sequence[Tensor]) -> None:
        """Fold in one gradient, a tensor per parameter of always the same shapes; waits for no device.

        Deviations are taken from the running mean: the difference of mean square and squared mean would
        cancel where the signal is strong.
        """
        self.count += 1
        if self.count == 1:
            self.mean = [part.clone() for part in gradient]
            self._squares = self._squares.to(self.mean[0].device)
            return
        deviation = torch._foreach_sub(list(gradient), self.mean)
        self._squares += _squared_length(deviation) * (1.0 - 1.0 / self.count)
        torch._foreach_add_(self.mean, deviation, alpha=1.0 / self.count)

    @property
    def mean_square(self) -> Tensor:
        """Squared length of the mean, a float64 scalar; on average tr S / M above the signal."""
        return _squared_length(self.mean)

    @property
    def variance(self) -> Tensor:
        """Total variance, a float64 scalar: an unbiased estimate of tr S; NaN before the second gradient."""
        return self._squares / (self.count - 1)

    @property
    def signal(self) -> Tensor:
        """Unbiased estimate of |mu|^2, a float64 scalar; below zero where noise hides the signal."""
        return self.mean_square - self.variance / self.count

    @property
    def esnr(self) -> Tensor:
        """Squared mean over the biased variance (at least 1e-10), a float64 scalar; see ``compute_esnr``.

        Pure noise gives about 1/(M-1), because the mean of M gradients still has 1/M of their variance.
        """
        return self.mean_square / (self._squares / self.count).clamp(min=EPS)

    @property
    def esnr_unbiased(self) -> Tensor:
        """``signal`` over ``variance``, a float64 scalar: 0 on average for pure noise; may be negative."""
        return self.signal / self.variance.clamp(min=EPS)


def _squared_length(gradient: Sequence[Tensor]) -> Tensor:
    lengths = torch.stack(list(torch._foreach_norm(list(gradient))))
    return lengths.double().square().sum()


def to_db(esnr: Tensor) -> Tensor:
    """10 log10(esnr + 1e-10), in decibel: at least -100 for a ratio that is not negative."""
    return 10.0 * torch.log10(esnr + EPS)


@torch.no_grad()
def entry_statistics(gradient: Sequence[Tensor]) -> dict[str, float]:
    """Statistics over all entries of a gradient, given as at least one tensor.

    Returns:
        ``mean``, ``std`` (of the entries, biased), ``max_abs`` and ``norm`` of the finite entries; ``zeros``
        and ``non_finite``: the fractions of entries that are exactly zero, and NaN or infinite.
    """
    values = torch.cat([part.flatten() for part in gradient]).double()
    finite = values[values.isfinite()]
    stats = {
        "zeros": float((values == 0).double().mean()),
        "non_finite": 1.0 - finite.numel() / values.numel(),
    }
    if not finite.numel():
        return stats | dict.fromkeys(("mean", "std", "max_abs", "norm"), float("nan"))
    return stats | {
        "mean": float(finite.mean()),
        "std": float(finite.std(correction=0)),
        "max_abs": float(finite.abs().max()),
        "norm": float(finite.norm()),
    }
