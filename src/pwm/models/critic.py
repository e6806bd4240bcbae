"""Ensemble of state-value functions with stacked parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pwm.models import fused
from pwm.models.layers import mish


class EnsembleLinear(nn.Module):
    """M independent linear layers: [M, N, in] -> [M, N, out]."""

    def __init__(self, members: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, out_dim, in_dim))
        self.bias = nn.Parameter(torch.zeros(members, out_dim))
        for weight in self.weight:
            nn.init.orthogonal_(weight.data)

    def forward(self, x: Tensor) -> Tensor:
        """Apply member m to ``x[m]``."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))


class EnsembleNorm(nn.Module):
    """LayerNorm with one gain and shift per member."""

    def __init__(self, members: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, dim))
        self.bias = nn.Parameter(torch.zeros(members, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [M, N, dim] over the last axis."""
        y = F.layer_norm(x, x.shape[-1:])
        return torch.addcmul(self.bias.unsqueeze(1), y, self.weight.unsqueeze(1))


class CriticEnsemble(nn.Module):
    """M value functions V_m(z): MLPs of normed layers with a scalar output.

    Args:
        latent_dim: width of z.
        units: hidden widths.
        members: number of value functions.
        activation_first: Mish before LayerNorm, as in the published PWM.
        tasks: number of tasks; every task has an output of its own, so that its values can have a scale of
            their own.

    The networks predict (V - mean) / std, with buffers ``mean`` 0 and ``std`` 1 unless ``rescale`` moves
    them (PopArt, van Hasselt et al. 2016; per task as in Hessel et al. 2019).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        latent_dim: int,
        units: Sequence[int],
        members: int = 3,
        activation_first: bool = False,
        tasks: int = 1,
    ) -> None:
        super().__init__()
        widths = [latent_dim, *units, tasks]
        self.first = EnsembleLinear(members, widths[0], widths[1])
        self.layers = nn.ModuleList(EnsembleLinear(members, i, o) for i, o in pairwise(widths[1:]))
        self.norms = nn.ModuleList(EnsembleNorm(members, width) for width in units)
        scale = () if tasks == 1 else (tasks,)
        self.register_buffer("mean", torch.zeros(scale))
        self.register_buffer("std", torch.ones(scale))
        self.activation_first = activation_first

    def forward(self, z: Tensor, task: Tensor | None = None) -> Tensor:
        """Values [M, ...] of latents [..., latent_dim], of tasks int64 [B] on the last axis but one."""
        layers = cast("list[EnsembleLinear]", [self.first, *self.layers])
        norms = cast("list[EnsembleNorm]", list(self.norms))
        x = z.reshape(-1, z.shape[-1]).expand(len(self.first.weight), -1, -1)
        for layer, norm in zip(layers[:-1], norms, strict=True):
            if not self.activation_first and fused.usable(x):
                x = fused.products(x, layer.weight)
                x = fused.normed_mish(x, layer.bias, norm.weight, norm.bias)
            else:
                x = layer(x)
                x = norm(mish(x)) if self.activation_first else mish(norm(x))
        x = layers[-1](x)
        values = torch.addcmul(self.mean, x, self.std)
        if task is not None:
            index = task.expand(z.shape[:-1]).reshape(1, -1, 1).expand(len(values), -1, 1)
            values = values.gather(-1, index)
        return values.view(len(values), *z.shape[:-1])

    @torch.no_grad()
    def rescale(self, mean: Tensor, std: Tensor) -> None:
        """Predict (V - mean) / std from now on, without changing any value: the last layer absorbs it."""
        # The layer must absorb the numbers that are kept, not more exact ones.
        mean, std = mean.to(self.mean), std.to(self.std)
        last = cast("EnsembleLinear", self.layers[-1] if len(self.layers) else self.first)
        last.weight.mul_((self.std / std).unsqueeze(-1) if std.dim() else self.std / std)
        last.bias.mul_(self.std).add_(self.mean - mean).div_(std)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def minimum(self, z: Tensor) -> Tensor:
        """Smallest member value [...] of latents [..., latent_dim]."""
        values: Tensor = self(z)
        return values.amin(0)
