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
        groups: number G of groups of samples that are told apart, or 0; statistics then have the shape
            (G, *shape), or (G,) for shape (1,), and the count has (G,).
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = (1,), epsilon: float = 1e-4, groups: int = 0) -> None:
        super().__init__()
        if groups:
            shape = (groups,) if shape == (1,) else (groups, *shape)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        counts = torch.full((groups,) if groups else (), epsilon, dtype=torch.float64)
        self.register_buffer("count", counts)

    @torch.no_grad()
    def update(self, batch: Tensor, group: Tensor | None = None) -> None:
        """Fold in ``batch`` [n, *shape] unless it is not finite; the variance is the biased one.

        Args:
            batch: samples.
            group: int64 [n], the group of each of them, where groups are told apart.
        """
        n: Tensor | int = len(batch)
        if group is None:
            batch_var, batch_mean = torch.var_mean(batch, dim=0, correction=0)
        else:
            n, batch_mean = grouped_mean(batch, group, len(self.mean))
            _, batch_var = grouped_mean((batch - batch_mean[group]).square(), group, len(self.mean))
        total = self.count + n
        delta = batch_mean - self.mean
        weight = torch.where(total > 0, n / total, 0.0).to(self.mean.dtype)
        if group is not None:
            weight = weight.reshape(-1, *[1] * (delta.dim() - 1))
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

    def normalize(self, x: Tensor, group: int | Tensor | None = None) -> Tensor:
        """Centre and scale ``x`` [..., *shape], clamped to [-5, 5].

        Args:
            x: samples; [..., B, *shape] where there is a group for each of B.
            group: an int or int64 [B], where groups are told apart.
        """
        mean, std = (self.mean, self.std) if group is None else (self.mean[group], self.std[group])
        return ((x - mean) / std).clamp(-5.0, 5.0)


def grouped_mean(values: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return how many of ``values`` [n, ...] are in each group [G], and their mean there (or 0) [G, ...]."""
    count = torch.zeros(groups, dtype=values.dtype, device=values.device)
    count = count.index_add(0, group, torch.ones_like(group, dtype=values.dtype))
    total = values.new_zeros(groups, *values.shape[1:]).index_add(0, group, values)
    return count, total / count.clamp(min=1).reshape(-1, *[1] * (values.dim() - 1))


class MovingRMS(Statistics):
    """Exponentially weighted root mean square of every entry of vectors.

    Args:
        dim: number of entries.
        rate: weight of a new batch; the first 1/rate batches are averaged with equal weights.
        floor: an entry below this share of the root mean square over all entries has no size of its own and
            gets that of all. A constant would otherwise be judged in a unit near 0, and a model that does
            not reproduce it exactly would learn nothing else.
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
        """Fold in those of ``values`` [n, dim] that are ``valid`` [n] or [n, dim]; all must be finite."""
        valid = valid if valid.dim() == values.dim() else valid.unsqueeze(-1)
        squares = torch.where(valid, values.square(), 0.0)
        count = valid.sum(0)
        mean = torch.where(count > 0, squares.sum(0) / count.clamp(min=1), self.square)
        batches = self.batches + 1
        square = self.square.lerp(mean, (1 / batches).clamp(min=self.rate).to(mean.dtype))
        of_all = square.mean()
        sized = torch.where(square < self.floor**2 * of_all, of_all, square)
        self._replace(square=square, batches=batches, rms=sized.clamp(min=1e-12).sqrt())


class MovingMeanStd(Statistics):
    """Exponentially weighted mean and standard deviation of scalars.

    Kept are the moving means of the values and of their squares, in double precision. The variance is the
    difference E[x^2] - E[x]^2, which in single precision is all rounding where the mean is a thousand
    times the standard deviation; in double precision that takes a million times.

    Args:
        rate: weight of a new batch; the first 1/rate batches are averaged with equal weights.
        groups: number G of groups that are told apart, or 0; statistics then have the shape [G].
    """

    mean: Tensor
    square: Tensor
    batches: Tensor

    def __init__(self, rate: float = 0.01, groups: int = 0) -> None:
        super().__init__()
        self.rate = rate
        shape = (groups,) if groups else ()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("batches", torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def update(self, values: Tensor, group: Tensor | None = None) -> None:
        """Fold in ``values`` [n], of groups int64 [n], unless one is not finite."""
        values = values.double()
        present = torch.ones_like(self.batches)
        if group is None:
            mean, square = values.mean(), values.square().mean()
        else:
            count, mean = grouped_mean(values, group, len(self.mean))
            _, square = grouped_mean(values.square(), group, len(self.mean))
            present = (count > 0).double()
        batches = self.batches + present
        rate = present * (1 / batches.clamp(min=1)).clamp(min=self.rate)
        mean, square = self.mean.lerp(mean, rate), self.square.lerp(square, rate)
        self._replace(mean=mean, square=square, batches=batches)

    @property
    def std(self) -> Tensor:
        """Standard deviation (double precision), at least a millionth of |mean|, and at least 1e-8."""
        squared_mean = self.mean.square()
        floor = (1e-12 * squared_mean).clamp(min=1e-16)
        return torch.maximum(self.square - squared_mean, floor).sqrt()
