"""Gated flow: the velocity of ``flow``, of which a learned gate lets a share pass, entry by entry.

dz/dtau = P (sigmoid(g) * v), where g and v read the same hidden layer: whatever stands still can be held by
its gate instead of by a velocity that must cancel to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pwm.errors import ConfigError
from pwm.models.dynamics import flow
from pwm.models.flow_world_model import FlowWorldModel
from pwm.models.latent_space import LatentSpace
from pwm.models.layers import concat_inputs, init_weights

WORLD_MODEL = FlowWorldModel


@dataclass
class Options(flow.Options):
    """Configuration of ``flow``, but for the velocity head, which keeps latents where they lie by itself."""

    name: str = "gated_flow"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.velocity_head != "linear":
            raise ConfigError(
                f"alg.dynamics.velocity_head={self.velocity_head!r}; of gated_flow it must be linear (its "
                "gate is followed by a projection of its own)"
            )


class GatedFlowDynamics(flow.FlowDynamics):
    """Integrates a gated velocity over flow time."""

    def __init__(self, options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> None:
        super().__init__(options, space, act_dim, task_dim)
        head = cast("nn.Linear", self.net[-1])
        self.gate = nn.Linear(head.in_features, space.dim).apply(init_weights)
        self.project = space.tangent()

    def velocity(self, z: Tensor, a: Tensor, tau: Tensor, e: Tensor | None = None) -> Tensor:
        """dz/dtau [..., L] at latents [..., L], actions [..., A], flow time [..., 1], embedding [..., E]."""
        hidden = self.net[:-1](concat_inputs(z, a, tau, e))
        gated = torch.sigmoid(self.gate(hidden)) * self.net[-1](hidden)
        return self.options.output_gain * self.space.change(self.project(gated))


def build(options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> GatedFlowDynamics:
    """Return the dynamics described by ``options``."""
    return GatedFlowDynamics(options, space, act_dim, task_dim)
