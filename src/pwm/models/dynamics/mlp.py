"""Latent regression (the published PWM dynamics): z' = F(z, a), SimNorm output."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pwm.models.dynamics.base import Dynamics, DynamicsLoss, rollout_regression_loss
from pwm.models.layers import NormedLinear, SimNorm, check_units, concat_inputs, init_weights, mlp
from pwm.models.world_model import WorldModel

WORLD_MODEL = WorldModel


@dataclass
class Options:
    """``units``: hidden widths of the dynamics network."""

    name: str = "mlp"
    units: list[int] = field(default_factory=lambda: [512, 512])

    def __post_init__(self) -> None:
        check_units("alg.dynamics.units", self.units)


class MLPDynamics(Dynamics):
    """z' = SimNorm(LayerNorm(W h(z, a, e)))."""

    def __init__(
        self, options: Options, latent_dim: int, act_dim: int, task_dim: int, simnorm: SimNorm
    ) -> None:
        super().__init__()
        in_dim = latent_dim + act_dim + task_dim
        head = NormedLinear([in_dim, *options.units][-1], latent_dim, simnorm)
        self.net = mlp(in_dim, options.units, head).apply(init_weights)

    def next(self, z: Tensor, a: Tensor, e: Tensor | None = None) -> Tensor:
        """Next latents; every SimNorm group keeps its sum."""
        return self.net(concat_inputs(z, a, e))

    def loss(
        self,
        z: Tensor,
        action: Tensor,
        target: Tensor,
        weights: Tensor,
        e: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> DynamicsLoss:
        """Squared error along the model's own rollout."""
        return rollout_regression_loss(self, z, action, target, weights, e)


def build(options: Options, latent_dim: int, act_dim: int, task_dim: int, simnorm: SimNorm) -> MLPDynamics:
    """Return the dynamics described by ``options``."""
    return MLPDynamics(options, latent_dim, act_dim, task_dim, simnorm)
