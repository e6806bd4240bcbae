"""Mixture dynamics: the change of a latent is drawn from one of K Gaussians (Bishop 1994).

Trained by its likelihood of real transitions, like ``gaussian``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pwm.errors import ConfigError
from pwm.models.dynamics.base import Dynamics, DynamicsLoss
from pwm.models.dynamics.gaussian import bounded_log_std, check_density, normal_log_density
from pwm.models.latent_space import LatentSpace
from pwm.models.layers import check_units, concat_inputs, init_weights, mlp
from pwm.models.world_model import WorldModel

WORLD_MODEL = WorldModel

# Components that begin alike would learn alike: standard deviation of their first means.
SPREAD = 0.5


@dataclass
class Options:
    """Configuration of the mixture: hidden widths ``units``, number of Gaussians ``components``."""

    name: str = "mixture"
    units: list[int] = field(default_factory=lambda: [512, 512])
    components: int = 4

    def __post_init__(self) -> None:
        check_units("alg.dynamics.units", self.units)
        if self.components < 2:
            raise ConfigError(
                f"alg.dynamics.components={self.components}; it must be at least 2 (one is dynamics=gaussian)"
            )


class Mixture(NamedTuple):
    """K Gaussians of the change, in the units of the space.

    Attributes:
        log_weights: [..., K].
        mean, log_std: [..., K, L].
    """

    log_weights: Tensor
    mean: Tensor
    log_std: Tensor


class MixtureDynamics(Dynamics):
    """K normal distributions with independent entries, and their weights.

    Raises:
        ConfigError: latents are learned, see ``check_density``.
    """

    teacher_forced = True

    def __init__(self, options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> None:
        super().__init__(space)
        check_density(options.name, space)
        self.components = options.components
        # The last number chooses the Gaussian.
        self.noise_dim = space.dim + 1
        in_dim = space.dim + act_dim + task_dim
        means = self.components * space.dim
        head = nn.Linear([in_dim, *options.units][-1], 2 * means + self.components)
        self.net = mlp(in_dim, options.units, head).apply(init_weights)
        nn.init.normal_(head.bias[:means], std=SPREAD)

    def mixture(self, z: Tensor, a: Tensor, e: Tensor | None = None) -> Mixture:
        """Return the distribution of the change from latents [..., L] under actions [..., A]."""
        count, width = self.components, self.space.dim
        mean, raw, logits = self.net(concat_inputs(z, a, e)).split([count * width, count * width, count], -1)
        shape = (count, width)
        log_std = bounded_log_std(raw.unflatten(-1, shape))
        return Mixture(torch.log_softmax(logits, -1), mean.unflatten(-1, shape), log_std)

    def predict(self, z: Tensor, a: Tensor, e: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Mean of the next latents, or with ``noise`` [..., L + 1] a sample.

        Gradient of a sample flows through the Gaussian that was chosen, not through the choice.
        """
        log_weights, mean, log_std = self.mixture(z, a, e)
        weights = log_weights.exp()
        if noise is None:
            return z + self.space.change((weights.unsqueeze(-1) * mean).sum(-2))
        uniform = torch.special.ndtr(noise[..., -1:])
        chosen = (uniform > weights.cumsum(-1)[..., :-1]).sum(-1)
        index = chosen[..., None, None].expand(*chosen.shape, 1, self.space.dim)
        mean, log_std = (part.gather(-2, index).squeeze(-2) for part in (mean, log_std))
        return z + self.space.change(mean + log_std.exp() * noise[..., :-1])

    def log_density(self, z: Tensor, a: Tensor, target: Tensor, e: Tensor | None = None) -> Tensor:
        """Log density [...] of the change to ``target``; see ``Dynamics.log_density``."""
        log_weights, mean, log_std = self.mixture(z, a, e)
        change = self.space.relative(target - z).unsqueeze(-2)
        return torch.logsumexp(log_weights + normal_log_density(change, mean, log_std), -1)

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


def build(options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> MixtureDynamics:
    """Return the dynamics described by ``options``."""
    return MixtureDynamics(options, space, act_dim, task_dim)
