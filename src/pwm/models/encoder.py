"""Observation encoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pwm.models.layers import INIT_STD, NormedLinear, SimNorm, init_weights, mlp


def build_encoder(
    in_dim: int, units: Sequence[int], latent_dim: int, simnorm: SimNorm, centred_inputs: bool
) -> nn.Sequential:
    """MLP of normed layers whose last layer is SimNorm: [..., in_dim] -> [..., latent_dim].

    Args:
        in_dim: observation width plus the width of the task embedding, if any.
        units: hidden widths.
        latent_dim: width of the latent.
        simnorm: activation of the last layer.
        centred_inputs: inputs have mean 0 and standard deviation 1. LayerNorm of a layer without biases
            is singular at 0, where such inputs crowd, so the first layer then starts with random biases as
            large as its typical outputs.
    """
    widths = [in_dim, *units]
    net = mlp(in_dim, units, NormedLinear(widths[-1], latent_dim, simnorm)).apply(init_weights)
    if centred_inputs:
        first = next(module for module in net.modules() if isinstance(module, nn.Linear))
        nn.init.normal_(first.bias, std=INIT_STD * in_dim**0.5)
    return net
