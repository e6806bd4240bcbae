"""Building blocks shared by every network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pwm.errors import ConfigError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mish": F.mish,
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


class SimNorm(nn.Module):
    """Simplicial normalisation (Hansen et al. 2024, TD-MPC2, eq. 5): softmax in groups of ``dim`` entries."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., L] to [..., L]; each consecutive group of ``dim`` entries is positive and sums to 1."""
        return torch.softmax(x.unflatten(-1, (-1, self.dim)), dim=-1).flatten(-2)

    def extra_repr(self) -> str:
        """Show the group size."""
        return f"dim={self.dim}"


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
        x = self.linear(x)
        return self.norm(self.act(x)) if self.activation_first else self.act(self.norm(x))


def mlp(
    in_dim: int, units: Sequence[int], head: nn.Module, act: str = "mish", activation_first: bool = False
) -> nn.Sequential:
    """One NormedLinear per entry of ``units`` and ``head``, which reads ``units[-1]`` (or ``in_dim``), on top."""
    widths = [in_dim, *units]
    layers = [NormedLinear(i, o, act, activation_first) for i, o in pairwise(widths)]
    return nn.Sequential(*layers, head)


def init_weights(module: nn.Module) -> None:
    """Truncated normal weights (std 0.02) and zero biases, as TD-MPC2 and PWM start their world models."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
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
