"""Running statistics kept as module buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Statistics(nn.Module):
    """Buffers that batches are folded into, of which none ever becomes NaN or infinite."""

    def _replace(self, **values: Tensor) -> None:
        """Set the buffers to ``values``, all of them or, if any entry is not finite, none.

        One bad batch (an imagined rollout that diverged, a reward that overflows) would otherwise stay in
        every later value. The choice is made on the device, without asking it for a number.
        """
        sound = torch.stack([torch.isfinite(value).all() for value in values.values()]).all()
        for name, value in values.items():
            buffer = self.get_buffer(name)
            buffer.copy_(torch.where(sound, value, buffer))


class RunningMeanStd(Statistics):
    """Running mean and variance over batches (Chan et al. 1979, parallel variance).

    Args:
        shape: shape of one sample; a batch is [n, *shape], or [n] for shape (1,).
        epsilon: pseudo-count of the initial mean 0 and variance 1; with 0 the first batch replaces them.
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
        """Fold in ``batch`` [n, *shape] unless it is not finite; the variance is the biased one."""
        batch_var, batch_mean = torch.var_mean(batch, dim=0, correction=0)
        n = batch.shape[0]
        total = self.count + n
        delta = batch_mean - self.mean
        weight = (n / total).to(self.mean.dtype)
        m2 = self.var * (1 - weight) + batch_var * weight + delta.square() * (1 - weight) * weight
        self._replace(mean=self.mean + delta * weight, var=m2, count=total)

    @property
    def std(self) -> Tensor:
        """sqrt(var + 1e-5), shape ``shape``."""
        return torch.sqrt(self.var + 1e-5)

    def relative_std(self, share: float) -> Tensor:
        """Standard deviation of data of any size, shape ``shape``.

        It is at least ``share`` of |mean|, so that data that hardly vary are not blown up, and 1 where all
        data were zero. Nothing else is added: data that are a million times smaller give a standard deviation
        that is a million times smaller, if ``epsilon`` is 0.
        """
        std = torch.maximum(self.var.sqrt(), share * self.mean.abs())
        return torch.where(std > 0, std, torch.ones_like(std))

    def normalize(self, x: Tensor) -> Tensor:
        """Centre and scale, clamped to [-5, 5]."""
        return ((x - self.mean) / self.std).clamp(-5.0, 5.0)


class MovingRMS(Statistics):
    """Exponentially weighted root mean square of every entry of vectors.

    Args:
        dim: number of entries.
        rate: weight of a new batch; the first 1/rate batches are averaged with equal weights.
        floor: least value as a share of the root mean square over all entries; an entry that never changes
            would otherwise get a unit of size 0.
    """

    square: Tensor
    batches: Tensor
    rms: Tensor

    def __init__(self, dim: int, rate: float = 0.01, floor: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        self.floor = floor
        self.register_buffer("square", torch.zeros(dim))
        self.register_buffer("batches", torch.zeros((), dtype=torch.float64))
        # What is used, computed once per update: 1 before the first.
        self.register_buffer("rms", torch.ones(dim))

    @torch.no_grad()
    def update(self, values: Tensor, valid: Tensor) -> None:
        """Fold in those of ``values`` [n, dim] that are ``valid`` [n], unless one is not finite."""
        squares = torch.where(valid.unsqueeze(-1), values.square(), 0.0)
        mean = squares.sum(0) / valid.sum().clamp(min=1)
        batches = self.batches + 1
        square = self.square.lerp(mean, (1 / batches).clamp(min=self.rate).to(mean.dtype))
        least = (self.floor**2 * square.mean()).clamp(min=1e-12)
        self._replace(square=square, batches=batches, rms=torch.maximum(square, least).sqrt())


class MovingMeanStd(Statistics):
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
        """Fold in ``values`` [n] unless one is not finite."""
        values = values.double()
        batches = self.batches + 1
        rate = (1 / batches).clamp(min=self.rate)
        mean = self.mean.lerp(values.mean(), rate)
        square = self.square.lerp(values.square().mean(), rate)
        self._replace(mean=mean, square=square, batches=batches)

    @property
    def std(self) -> Tensor:
        """Standard deviation (double precision), at least a millionth of |mean|, and at least 1e-8."""
        squared_mean = self.mean.square()
        floor = (1e-12 * squared_mean).clamp(min=1e-16)
        return torch.maximum(self.square - squared_mean, floor).sqrt()
