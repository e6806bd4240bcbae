"""Reward heads: each owns the width of its output, its loss and its decoding.

``regression`` predicts the scalar itself. ``two_hot`` classifies symlog(reward) over K bins with a
two-hot target and cross-entropy (Hafner et al. 2023, DreamerV3; Hansen et al. 2024, TD-MPC2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pwm.errors import ConfigError


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """Inverse of symlog: sign(x) (exp(|x|) - 1)."""
    return torch.sign(x) * torch.expm1(x.abs())


class RegressionHead(nn.Module):
    """Squared error on the scalar."""

    width = 1

    def loss(self, raw: Tensor, reward: Tensor) -> Tensor:
        """Squared error [...] of ``raw`` [..., 1] against ``reward`` [...]."""
        if raw.shape[:-1] != reward.shape or raw.shape[-1] != 1:
            raise ValueError(f"prediction {tuple(raw.shape)} does not match reward {tuple(reward.shape)}")
        return (raw.squeeze(-1) - reward).square()

    def decode(self, raw: Tensor) -> Tensor:
        """Predicted reward [...] from ``raw`` [..., 1]."""
        return raw.squeeze(-1)


class TwoHotHead(nn.Module):
    """Cross-entropy over ``num_bins`` bins evenly spaced in symlog space from ``vmin`` to ``vmax``."""

    bins: Tensor

    def __init__(self, num_bins: int = 101, vmin: float = -10.0, vmax: float = 10.0) -> None:
        super().__init__()
        self.width = num_bins
        self.vmin, self.vmax = vmin, vmax
        self.bin_size = (vmax - vmin) / (num_bins - 1)
        self.register_buffer("bins", torch.linspace(vmin, vmax, num_bins), persistent=False)

    def two_hot(self, reward: Tensor) -> Tensor:
        """Target distribution [..., K] of ``reward`` [...]; values beyond the bins count as the last bin."""
        position = (symlog(reward).clamp(self.vmin, self.vmax) - self.vmin) / self.bin_size
        lower = position.floor().clamp(max=self.width - 2)
        weight = (position - lower).unsqueeze(-1)
        lower_index = lower.long().unsqueeze(-1)
        target = reward.new_zeros(*reward.shape, self.width)
        target.scatter_(-1, lower_index, 1 - weight)
        return target.scatter_(-1, lower_index + 1, weight)

    def loss(self, raw: Tensor, reward: Tensor) -> Tensor:
        """Cross-entropy [...] of logits ``raw`` [..., K] against ``reward`` [...]."""
        if raw.shape != (*reward.shape, self.width):
            raise ValueError(f"logits {tuple(raw.shape)} do not match reward {tuple(reward.shape)}")
        return -(self.two_hot(reward) * F.log_softmax(raw, dim=-1)).sum(-1)

    def expected_bin(self, raw: Tensor) -> Tensor:
        """Expected value in symlog space [...] of logits ``raw`` [..., K]."""
        return torch.softmax(raw, dim=-1) @ self.bins

    def decode(self, raw: Tensor) -> Tensor:
        """Predicted reward [...]: symexp of the expected bin."""
        return symexp(self.expected_bin(raw))


ScalarHead = RegressionHead | TwoHotHead


@dataclass
class Options:
    """Configuration of a reward head.

    Attributes:
        name: ``regression`` or ``two_hot``.
        num_bins, vmin, vmax: bins of ``two_hot``, in symlog space.
    """

    name: str = "regression"
    num_bins: int = 101
    vmin: float = -10.0
    vmax: float = 10.0

    def __post_init__(self) -> None:
        if self.name not in ("regression", "two_hot"):
            raise ConfigError(f"alg.reward_head.name={self.name!r}; choose one of: regression, two_hot")
        if self.num_bins < 2 or not -math.inf < self.vmin < self.vmax < math.inf:
            raise ConfigError(
                f"alg.reward_head needs num_bins >= 2 and finite vmin < vmax, got num_bins={self.num_bins}, "
                f"vmin={self.vmin}, vmax={self.vmax}"
            )


def build(options: Options) -> ScalarHead:
    """Return the head described by ``options``."""
    if options.name == "regression":
        return RegressionHead()
    return TwoHotHead(options.num_bins, options.vmin, options.vmax)
