"""Generative flow: the change of a latent is what a flow makes of Gaussian noise, given latent and action.

dx/dtau = v(x, tau | z, a) carries noise x(0) to a change x(1), and z' = z + x(1). Trained by rectified flow
(Liu et al. 2023; Lipman et al. 2023), from noise to the real changes. The other flow, ``flow``, starts from
the latent itself and has one outcome.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pwm import components
from pwm.errors import ConfigError
from pwm.models.dynamics.base import Dynamics, DynamicsLoss
from pwm.models.dynamics.flow import compute_flow_matching_loss
from pwm.models.integrators.explicit_rk import integrate, load_tableau
from pwm.models.latent_space import LatentSpace
from pwm.models.layers import check_units, concat_inputs, init_weights, mlp
from pwm.models.world_model import WorldModel

WORLD_MODEL = WorldModel

# What the change is conditioned on: latents [..., L], and the task embedding or None.
Given = tuple[Tensor, Tensor | None]


@dataclass
class Options:
    """Configuration of the generative flow.

    Attributes:
        units: hidden widths of the velocity network.
        integrator: name of an integrator component.
        substeps: integration steps K per environment step. Coarse steps of Euler's method give samples that
            are spread too little, and one of them the mean whatever the noise.
        noise_std: standard deviation of the noise in the units of changes: 1 fits
            ``alg.latents=observations``, which are measured in the root mean square of their changes; SimNorm
            latents change by less.
    """

    name: str = "generative_flow"
    units: list[int] = field(default_factory=lambda: [512, 512])
    integrator: str = "heun"
    substeps: int = 2
    noise_std: float = 1.0

    def __post_init__(self) -> None:
        check_units("alg.dynamics.units", self.units)
        check_noise(self.noise_std)
        if self.integrator not in components.names("integrator"):
            allowed = ", ".join(components.names("integrator"))
            raise ConfigError(f"alg.dynamics.integrator={self.integrator!r}; choose one of: {allowed}")
        if self.substeps < 1:
            raise ConfigError(f"alg.dynamics.substeps={self.substeps}; it must be at least 1")


class GenerativeFlowDynamics(Dynamics):
    """Integrates a velocity over flow time, from noise to a change."""

    teacher_forced = True

    def __init__(self, options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> None:
        super().__init__(space)
        self.options = options
        self.noise_dim = space.dim
        self._method = load_tableau(options.integrator)
        self.velocity_evals = self._method.stages * options.substeps
        in_dim = 2 * space.dim + act_dim + 1 + task_dim
        head = nn.Linear([in_dim, *options.units][-1], space.dim)
        self.net = mlp(in_dim, options.units, head).apply(init_weights)
        self.project = space.tangent()

    @property
    def action_column(self) -> int:
        """Actions follow a change and a latent."""
        return 2 * self.space.dim

    def slope(self, x: Tensor, a: Tensor, tau: Tensor, given: Given) -> Tensor:
        """dx/dtau [..., L] at changes x [..., L] and flow time [..., 1], for actions [..., A]."""
        z, e = given
        slope: Tensor = self.project(self.net(concat_inputs(x, z, a, tau, e)))
        return slope

    def predict(self, z: Tensor, a: Tensor, e: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Mean of the next latents, or with ``noise`` [..., L] a sample.

        The velocity at flow time 0 is the mean of changes minus the noise, which independent noise says
        nothing about: from zero it is the mean.
        """
        if noise is None:
            change = self.slope(torch.zeros_like(z), a, z.new_zeros(*z.shape[:-1], 1), (z, e))
        else:
            start = self.source(noise)
            change = integrate(self._method, self.slope, start, a, (z, e), self.options.substeps)
        return z + self.space.change(change)

    def source(self, noise: Tensor) -> Tensor:
        """Start [..., L] of the flow, from standard normal numbers [..., L]."""
        start: Tensor = self.options.noise_std * self.project(noise)
        return start

    def draw(self, shape: tuple[int, int], like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return noise and flow times [H, B, L + 1]."""
        dtype, device = like.dtype, like.device
        noise = torch.randn(*shape, self.space.dim, dtype=dtype, device=device, generator=generator)
        tau = torch.rand(*shape, 1, dtype=dtype, device=device, generator=generator)
        return torch.cat([noise, tau], dim=-1)

    def loss(
        self,
        z: Tensor,
        action: Tensor,
        target: Tensor,
        weights: Tensor,
        e: Tensor | None = None,
        draws: Tensor | None = None,
    ) -> DynamicsLoss:
        """Weighted mean of the flow-matching loss on the way from noise to real changes."""
        drawn = self.draw((len(action), action.shape[1]), z, None) if draws is None else draws
        start, end = self.source(drawn[..., :-1]), self.space.relative(target - z)
        gamma, tau = weights.unsqueeze(-1), drawn[..., -1:]
        loss = compute_flow_matching_loss(self.slope, start, end, action, (z, e), gamma_t=gamma, tau=tau)
        return DynamicsLoss(loss, z)


def check_noise(std: float) -> None:
    """Raise ConfigError unless the standard deviation of the noise is positive and finite."""
    if not 0.0 < std < math.inf:
        raise ConfigError(f"alg.dynamics.noise_std={std}; it must be positive and finite")


def build(options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> GenerativeFlowDynamics:
    """Return the dynamics described by ``options``."""
    return GenerativeFlowDynamics(options, space, act_dim, task_dim)
