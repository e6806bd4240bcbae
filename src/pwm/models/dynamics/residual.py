"""Residual MLP: z' = z + P f(z, a), the control that shares flow's residual form but integrates nothing.

P keeps predicted latents where latents lie: on simplices it removes the mean of each SimNorm group.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pwm.models.dynamics.base import Dynamics
from pwm.models.latent_space import LatentSpace
from pwm.models.layers import check_gain, check_units, concat_inputs, init_weights, mlp
from pwm.models.world_model import WorldModel

WORLD_MODEL = WorldModel


@dataclass
class Options:
    """Configuration of the residual MLP.

    Attributes:
        units: hidden widths of the network that predicts the change.
        output_gain: factor on its output. Changes of a latent are small beside what one step of Adam does
            to the output of a network; a gain below 1 makes those steps finer.
    """

    name: str = "residual"
    units: list[int] = field(default_factory=lambda: [512, 512])
    output_gain: float = 1.0

    def __post_init__(self) -> None:
        check_units("alg.dynamics.units", self.units)
        check_gain(self.output_gain)


class ResidualDynamics(Dynamics):
    """z' = z + P f(z, a, e), trained by squared error along its own rollout like the MLP."""

    def __init__(self, options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> None:
        super().__init__(space)
        in_dim = space.dim + act_dim + task_dim
        head = nn.Linear([in_dim, *options.units][-1], space.dim)
        self.net = mlp(in_dim, options.units, head).apply(init_weights)
        self.output_gain = options.output_gain
        self.project = space.tangent()

    def predict(self, z: Tensor, a: Tensor, e: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Next latents; on simplices every group keeps its sum."""
        change = self.project(self.space.change(self.net(concat_inputs(z, a, e))))
        return torch.add(z, change, alpha=self.output_gain)


def build(options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> ResidualDynamics:
    """Return the dynamics described by ``options``."""
    return ResidualDynamics(options, space, act_dim, task_dim)
