"""Latent regression (the published PWM dynamics): z' = F(z, a), through the output layer of the latents."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pwm.models.dynamics.base import Dynamics
from pwm.models.latent_space import LatentSpace
from pwm.models.layers import check_units, concat_inputs, init_weights, mlp
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
    """z' = head(h(z, a, e)); on simplices the head is SimNorm(LayerNorm(W h))."""

    def __init__(self, options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> None:
        super().__init__(space)
        in_dim = space.dim + act_dim + task_dim
        head = space.head([in_dim, *options.units][-1])
        self.net = mlp(in_dim, options.units, head).apply(init_weights)

    def predict(self, z: Tensor, a: Tensor, e: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Next latents; on simplices every group keeps its sum."""
        z_next: Tensor = self.net(concat_inputs(z, a, e))
        return z_next


def build(options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> MLPDynamics:
    """Return the dynamics described by ``options``."""
    return MLPDynamics(options, space, act_dim, task_dim)
