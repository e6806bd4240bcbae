"""Gaussian dynamics: the change of a latent has a mean and a standard deviation, entry by entry.

z' = z + mean(z, a) + std(z, a) noise, trained by its likelihood of real transitions (Nix & Weigend 1994).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pwm.errors import ConfigError
from pwm.models.dynamics.base import Dynamics, DynamicsLoss
from pwm.models.latent_space import LatentSpace
from pwm.models.layers import check_units, concat_inputs, init_weights, mlp
from pwm.models.world_model import WorldModel

WORLD_MODEL = WorldModel

# Standard deviations lie between 2 % and 740 % of the root mean square of changes.
LOG_STD = (-4.0, 2.0)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass
class Options:
    """``units``: hidden widths of the network that predicts mean and standard deviation."""

    name: str = "gaussian"
    units: list[int] = field(default_factory=lambda: [512, 512])

    def __post_init__(self) -> None:
        check_units("alg.dynamics.units", self.units)


class GaussianDynamics(Dynamics):
    """A normal distribution whose entries are independent.

    Raises:
        ConfigError: latents are learned, see ``check_density``.
    """

    teacher_forced = True

    def __init__(self, options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> None:
        super().__init__(space)
        check_density(options.name, space)
        self.noise_dim = space.dim
        in_dim = space.dim + act_dim + task_dim
        head = nn.Linear([in_dim, *options.units][-1], 2 * space.dim)
        self.net = mlp(in_dim, options.units, head).apply(init_weights)

    def moments(self, z: Tensor, a: Tensor, e: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation [..., L] of the change, in the units of the space."""
        mean, raw = self.net(concat_inputs(z, a, e)).chunk(2, dim=-1)
        return mean, bounded_log_std(raw)

    def predict(self, z: Tensor, a: Tensor, e: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Mean of the next latents, or with ``noise`` [..., L] a sample."""
        mean, log_std = self.moments(z, a, e)
        return z + self.space.change(mean if noise is None else mean + log_std.exp() * noise)

    def log_density(self, z: Tensor, a: Tensor, target: Tensor, e: Tensor | None = None) -> Tensor:
        """Log density [...] of the change to ``target``; see ``Dynamics.log_density``."""
        return normal_log_density(self.space.relative(target - z), *self.moments(z, a, e))

    def loss(
        self,
        z: Tensor,
        action: Tensor,
        target: Tensor,
        weights: Tensor,
        e: Tensor | None = None,
        draws: Tensor | None = None,
    ) -> DynamicsLoss:
        """Weighted mean of the negative log density per entry."""
        density = self.log_density(z, action, target, e) / self.space.dim
        return DynamicsLoss(-(weights * density).mean(), z)


def check_density(name: str, space: LatentSpace) -> None:
    """Raise ConfigError where a likelihood means nothing.

    Learned latents move while the model learns: an encoder that makes them all alike raises every likelihood,
    and those on simplices have no density over all entries.
    """
    if space.learned:
        raise ConfigError(
            f"alg.dynamics.name={name} is trained by likelihood, which learned latents (alg.latents=simnorm) "
            "can raise by shrinking; it needs alg.latents=observations"
        )


def bounded_log_std(raw: Tensor) -> Tensor:
    """Logarithms between the ends of ``LOG_STD``, of outputs of any size; in the middle at 0."""
    low, high = LOG_STD
    return low + (high - low) * torch.sigmoid(raw)


def normal_log_density(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density [...] of ``x`` [..., L] under independent normal entries, in nats."""
    return -(0.5 * ((x - mean) * torch.exp(-log_std)).square() + log_std + HALF_LOG_2PI).sum(-1)


def build(options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> GaussianDynamics:
    """Return the dynamics described by ``options``."""
    return GaussianDynamics(options, space, act_dim, task_dim)
