"""Building blocks shared by every network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pwm.errors import ConfigError
from pwm.models import fused


class _Mish(torch.autograd.Function):
    """x tanh(softplus(x)) from one sigmoid, with the derivative kept for the backward pass.

    With s = sigmoid(x) and n = s (2 - s), tanh(softplus(x)) = n / (2 - n), because
    e^x = s / (1 - s); its derivative is 4 s (1 - s)^2 / (2 - n)^2. PyTorch's CPU kernel evaluates exp,
    log1p and tanh in both directions and takes about four times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        w = 2 - s
        n = s * w
        r = (2 - n).reciprocal_()
        t = n.mul_(r)
        y = x * t
        if ctx.needs_input_grad[0]:
            slope = w.sub_(1).mul_(r).square_().mul_(s)
            ctx.save_for_backward(t.addcmul_(x, slope, value=4.0))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        derivative: Tensor
        (derivative,) = ctx.saved_tensors
        return grad * derivative


def mish(x: Tensor) -> Tensor:
    """Mish activation (Misra 2019), x tanh(softplus(x)); accurate to float32 rounding."""
    if torch._C._are_functorch_transforms_active():
        # torch.func cannot look into ``_Mish``, and its vmap cannot batch the derivative of F.mish.
        return x * torch.tanh(F.softplus(x))
    y: Tensor = F.mish(x) if x.is_cuda else _Mish.apply(x)  # type: ignore[no-untyped-call]
    return y


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mish": mish,
    "elu": F.elu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation function called ``name``; ConfigError lists the valid names."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"unknown activation {name!r}; choose one of: {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


def check_units(key: str, units: Sequence[int]) -> None:
    """Raise ConfigError naming ``key`` unless every width is at least 1."""
    if any(width < 1 for width in units):
        raise ConfigError(f"{key}={list(units)}; every width must be at least 1")


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the parameters of ``module``."""
    return next(module.parameters()).device


class SimNorm(nn.Module):
    """Simplicial normalisation (Hansen et al. 2024, TD-MPC2, eq. 5): softmax in groups of ``dim`` entries.

    Args:
        dim: group size V.
        scale: what every group sums to. TD-MPC2 and PWM use 1; V makes the average entry 1, so that latents
            and their changes have the size that initial weights and Adam's steps are made for.
    """

    def __init__(self, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.dim = dim
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., L] to [..., L]; groups of ``dim`` entries are positive and sum to ``scale``."""
        groups = x.unflatten(-1, (-1, self.dim))
        if x.is_cuda:
            shares = torch.softmax(groups, dim=-1).flatten(-2)
        else:
            # PyTorch's CPU softmax is vectorised across the last axis only: groups there are 10 times faster.
            shares = torch.softmax(groups.mT.contiguous(), dim=-2).mT.flatten(-2)
        return shares if self.scale == 1.0 else self.scale * shares


class NormedLinear(nn.Module):
    """Linear, LayerNorm, activation.

    Args:
        in_dim, out_dim: widths.
        act: name of the activation, or a module such as SimNorm.
        activation_first: apply the activation before the LayerNorm, as the actor and critics of the
            published PWM do.
    """

    def __init__(
        self, in_dim: int, out_dim: int, act: str | nn.Module = "mish", activation_first: bool = False
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        self.norm = nn.LayerNorm(out_dim)
        self.act = act if isinstance(act, nn.Module) else activation(act)
        self.activation_first = activation_first

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_dim] to [..., out_dim]."""
        # Narrower inputs are those that a hook of the linear layer pads.
        whole = x.shape[-1] == self.linear.in_features
        if whole and self.act is mish and not self.activation_first and fused.usable(x):
            product = F.linear(x, self.linear.weight)
            return fused.normed_mish(product, self.linear.bias, self.norm.weight, self.norm.bias)
        x = self.linear(x)
        return self.norm(self.act(x)) if self.activation_first else self.act(self.norm(x))


def mlp(
    in_dim: int, units: Sequence[int], head: nn.Module, act: str = "mish", activation_first: bool = False
) -> nn.Sequential:
    """One NormedLinear per entry of ``units``, and ``head`` on top, which reads the last of those widths."""
    widths = [in_dim, *units]
    layers = [NormedLinear(i, o, act, activation_first) for i, o in pairwise(widths)]
    return nn.Sequential(*layers, head)


def check_gain(gain: float) -> None:
    """Raise ConfigError unless an output gain is positive and finite."""
    if not 0.0 < gain < math.inf:
        raise ConfigError(f"alg.dynamics.output_gain={gain}; it must be positive and finite")


INIT_STD = 0.02


def init_weights(module: nn.Module) -> None:
    """Truncated normal weights (std 0.02) and zero biases, as TD-MPC2 and PWM start their world models."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)


def concat_inputs(*parts: Tensor | None) -> Tensor:
    """Concatenate inputs along the last axis; a part [B, D] is repeated over the leading axes of the first.

    ``None`` parts (no task embedding) are left out.
    """
    first = parts[0]
    assert first is not None
    given = [p if p.dim() == first.dim() else p.expand(*first.shape[:-1], -1) for p in parts if p is not None]
    return torch.cat(given, dim=-1) if len(given) > 1 else first


def discounts(gamma: float, steps: int, like: Tensor) -> Tensor:
    """Return gamma**t for t = 0..steps-1, shape [steps], dtype and device of ``like``."""
    return gamma ** torch.arange(steps, dtype=like.dtype, device=like.device)
