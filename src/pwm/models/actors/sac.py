"""tanh-Gaussian policy whose standard deviation depends on the state (Haarnoja et al. 2018, SAC)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

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
        init_log_std: log standard deviation before the tanh that an untrained policy has everywhere.
        min_log_std, max_log_std: bounds that it approaches and never crosses.
    """

    name: str = "sac"
    units: list[int] = field(default_factory=lambda: [400, 200, 100])
    act: str = "mish"
    activation_first: bool = False
    init_log_std: float = -1.0
    min_log_std: float = -3.0
    max_log_std: float = 0.5

    def __post_init__(self) -> None:
        check_units("alg.actor.units", self.units)
        if not -math.inf < self.min_log_std < self.init_log_std < self.max_log_std < math.inf:
            raise ConfigError(
                f"alg.actor.init_log_std={self.init_log_std} must lie between alg.actor.min_log_std="
                f"{self.min_log_std} and alg.actor.max_log_std={self.max_log_std}, and all be finite"
            )


class SACActor(Actor):
    """a = tanh(mu(z) + sigma(z) * noise), both from one network."""

    has_density = True
    typical_std: Tensor

    def __init__(self, options: Options, latent_dim: int, act_dim: int) -> None:
        super().__init__()
        self.noise_dim = act_dim
        self.low = options.min_log_std
        self.range = options.max_log_std - options.min_log_std
        self.net = policy_net(latent_dim, options.units, 2 * act_dim, options.act, options.activation_first)
        share = (options.init_log_std - self.low) / self.range
        spreads = cast("nn.Linear", self.net[-1]).bias[act_dim:]
        nn.init.constant_(spreads, math.log(share / (1.0 - share)))
        # What is reported; not part of a checkpoint.
        self.register_buffer("typical_std", torch.tensor(math.exp(options.init_log_std)), persistent=False)

    def decide(self, z: Tensor, noise: Tensor | None = None) -> Decision:
        """tanh(mean + std * noise), or tanh(mean) without noise; the mean is the location."""
        mean, spread = self.net(z).chunk(2, dim=-1)
        log_std = self.low + self.range * torch.sigmoid(spread)
        if noise is not None:
            self.typical_std = log_std.detach().exp().mean()
        return tanh_gaussian(mean, log_std, noise)

    def mean_std(self) -> Tensor:
        """Mean over the states and actions that were last decided with noise."""
        return self.typical_std


def build(options: Options, latent_dim: int, act_dim: int) -> SACActor:
    """Return the policy described by ``options``."""
    return SACActor(options, latent_dim, act_dim)
