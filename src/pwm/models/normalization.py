"""Running statistics kept as module buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningMeanStd(nn.Module):
    """Running mean and variance over batches (Chan et al. 1979, parallel variance).

    Args:
        shape: shape of one sample; a batch is [n, *shape], or [n] for shape (1,).
        epsilon: pseudo-count of the initial mean 0 and variance 1.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = (1,), epsilon: float = 1e-4) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.tensor(epsilon, dtype=torch.float64))

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Fold in ``batch`` [n, *shape]; the variance is the biased one."""
        batch_var, batch_mean = torch.var_mean(batch, dim=0, correction=0)
        n = batch.shape[0]
        total = self.count + n
        delta = batch_mean - self.mean
        weight = (n / total).to(self.mean.dtype)
        m2 = self.var * (1 - weight) + batch_var * weight + delta.square() * (1 - weight) * weight
        self.mean += delta * weight
        self.var.copy_(m2)
        self.count.copy_(total)

    @property
    def std(self) -> Tensor:
        """sqrt(var + 1e-5), shape ``shape``."""
        return torch.sqrt(self.var + 1e-5)

    def normalize(self, x: Tensor) -> Tensor:
        """Centre and scale, clamped to [-5, 5]."""
        return ((x - self.mean) / self.std).clamp(-5.0, 5.0)

    def unnormalize(self, y: Tensor) -> Tensor:
        """Undo ``normalize`` where it did not clamp."""
        return y * self.std + self.mean


class MovingMeanStd(nn.Module):
    """Exponentially weighted mean and standard deviation of scalars.

    Kept are the moving means of the values and of their squares, in double precision. The variance is the
    difference E[x^2] - E[x]^2, which in single precision is all rounding where the mean is a thousand
    times the standard deviation; in double precision that takes a million times.

    Args:
        rate: weight of a new batch; the first 1/rate batches are averaged with equal weights.
    """

    mean: Tensor
    square: Tensor
    batches: Tensor

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("square", torch.zeros((), dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Fold in ``values`` [n]."""
        values = values.double()
        self.batches += 1
        rate = (1 / self.batches).clamp(min=self.rate)
        self.mean.lerp_(values.mean(), rate)
        self.square.lerp_(values.square().mean(), rate)

    @property
    def std(self) -> Tensor:
        """Standard deviation (double precision), at least 0.01."""
        return (self.square - self.mean.square()).clamp(min=1e-4).sqrt()


class MovingRange(nn.Module):
    """Exponentially weighted range between the 5th and the 95th percentile (Hafner et al. 2023, eq. 7).

    ``std`` is that range over 3.29, what it is worth for a normal distribution; at least 0.01.
    """

    range: Tensor
    batches: Tensor

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("range", torch.zeros(()))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Fold in ``values`` [n]."""
        self.batches += 1
        low, high = torch.quantile(values, values.new_tensor([0.05, 0.95]))
        self.range.lerp_(high - low, (1 / self.batches).clamp(min=self.rate))

    @property
    def std(self) -> Tensor:
        """The range in standard deviations of a normal distribution."""
        return (self.range / 3.29).clamp(min=0.01)
