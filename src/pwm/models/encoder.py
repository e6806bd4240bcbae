"""Observation encoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pwm.models.layers import NormedLinear, SimNorm, init_weights, mlp


def build_encoder(in_dim: int, units: Sequence[int], latent_dim: int, simnorm_dim: int) -> nn.Sequential:
    """MLP of normed layers whose last layer is SimNorm: [..., in_dim] -> [..., latent_dim].

    ``in_dim`` is the observation width plus the width of the task embedding, if any.
    """
    widths = [in_dim, *units]
    net = mlp(in_dim, units, NormedLinear(widths[-1], latent_dim, SimNorm(simnorm_dim)))
    return net.apply(init_weights)
