"""Gradient signal-to-noise ratio: squared length of the mean gradient over the trace of its covariance.

M samples of pure noise give about 1/(M-1), not 0, because the mean of M samples still has 1/M of the
variance: read every value against that floor.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from pwm.algorithm.gradient_moments import GradientMoments, to_db


def compute_esnr(samples: Tensor) -> Tensor:
    """ESNR |mean|^2 / max(trace of the biased covariance, 1e-10).

    Args:
        samples: [M, D] gradient samples, one per row.

    Returns:
        Scalar float64. The variance is taken around the mean in float64: the difference of the mean
        squared norm and the squared mean norm would cancel.

    Raises:
        ValueError: ``samples`` is not [M, D] with M >= 1.
    """
    if samples.dim() != 2 or len(samples) == 0:
        raise ValueError(f"samples must be [M, D] with M >= 1, got {list(samples.shape)}")
    moments = GradientMoments()
    for sample in samples.double():
        moments.add([sample])
    return moments.esnr


def compute_esnr_db(samples: Tensor) -> Tensor:
    """ESNR of ``samples`` [M, D] in decibel, 10 log10(ESNR + 1e-10): at least -100."""
    return to_db(compute_esnr(samples))


class EsnrReport(NamedTuple):
    """ESNR and its decibels, now and as exponential moving averages (decibels are averaged as such)."""

    esnr: float
    esnr_db: float
    ema: float
    ema_db: float


class ESNRTracker:
    """ESNR over the latest gradient samples.

    Args:
        buffer_size: number of samples kept.
        ema_alpha: weight of a new value in the moving averages.
    """

    def __init__(self, buffer_size: int = 16, ema_alpha: float = 0.1) -> None:
        if buffer_size < 2:
            raise ValueError(f"buffer_size must be at least 2, got {buffer_size}")
        self.samples: deque[Tensor] = deque(maxlen=buffer_size)
        self.ema_alpha = ema_alpha
        self.ema: float | None = None
        self.ema_db = 0.0

    def update(self, sample: Tensor) -> EsnrReport:
        """Add one flat gradient [D] and report; (0, -inf, 0, -inf) before the second sample."""
        self.samples.append(sample.detach().reshape(-1).clone())
        if len(self.samples) < 2:
            return EsnrReport(0.0, -math.inf, 0.0, -math.inf)
        value = compute_esnr(torch.stack(list(self.samples)))
        esnr, esnr_db = float(value), float(to_db(value))
        if self.ema is None:
            self.ema, self.ema_db = esnr, esnr_db
        else:
            self.ema += self.ema_alpha * (esnr - self.ema)
            self.ema_db += self.ema_alpha * (esnr_db - self.ema_db)
        return EsnrReport(esnr, esnr_db, self.ema, self.ema_db)
