"""tanh-Gaussian policy with a state-independent standard deviation (PWM, SHAC)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pwm.errors import ConfigError
from pwm.models.actors.base import Actor, Decision, policy_net, tanh_gaussian
from pwm.models.layers import check_units


@dataclass
class Options:
    """Configuration of the policy.

    Attributes:
        units: hidden widths.
        act: activation name.
        activation_first: activation before LayerNorm, as in the published PWM.
        init_log_std: initial log standard deviation before the tanh.
        min_log_std: lower bound of the log standard deviation.
    """

    name: str = "gaussian"
    units: list[int] = field(default_factory=lambda: [400, 200, 100])
    act: str = "mish"
    activation_first: bool = False
    init_log_std: float = -1.0
    min_log_std: float = -1.427

    def __post_init__(self) -> None:
        check_units("alg.actor.units", self.units)
        if not self.min_log_std <= self.init_log_std < math.inf:
            raise ConfigError(
                f"alg.actor.init_log_std={self.init_log_std}; it must be finite and not below "
                f"alg.actor.min_log_std={self.min_log_std}"
            )


class GaussianActor(Actor):
    """a = tanh(mu(z) + exp(log_std) * noise)."""

    has_density = True

    def __init__(self, options: Options, latent_dim: int, act_dim: int) -> None:
        super().__init__()
        self.noise_dim = act_dim
        self.min_log_std = options.min_log_std
        self.net = policy_net(latent_dim, options.units, act_dim, options.act, options.activation_first)
        self.log_std = nn.Parameter(torch.full((act_dim,), options.init_log_std))

    def decide(self, z: Tensor, noise: Tensor | None = None) -> Decision:
        """tanh(mean + std * noise), or tanh(mean) without noise; the mean is the location."""
        return tanh_gaussian(self.net(z), self.log_std, noise)

    @torch.no_grad()
    def mean_std(self) -> Tensor:
        """Mean of exp(log_std) over the action's entries."""
        return self.log_std.exp().mean()

    @torch.no_grad()
    def project(self) -> None:
        """Clamp the log standard deviation from below.

        Done on the parameter instead of in the forward pass, so that a clamped entry keeps its gradient
        and can rise again.
        """
        self.log_std.clamp_(min=self.min_log_std)


def build(options: Options, latent_dim: int, act_dim: int) -> GaussianActor:
    """Return the policy described by ``options``."""
    return GaussianActor(options, latent_dim, act_dim)
