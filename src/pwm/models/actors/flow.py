"""Policy that carries a Gaussian sample through an ODE, with the exact density of where it arrives.

Flow policies (Chi et al. 2023, diffusion policies; Park et al. 2025, FQL) make an action out of noise by
dx/dt = v(x, z, t). Here v is triangular: its entry i reads the entries 1..i of x alone. Flows of such fields
reach every distribution (Knothe-Rosenblatt rearrangement; Papamakarios et al. 2021, section 3.1), and the
determinant of their Jacobian is the product of its diagonal D, which obeys dD_i/dt = D_i dv_i/dx_i and is
integrated beside x. An explicit Runge-Kutta step of both is that step of x and the derivative of it, so the
density belongs to the steps that are taken, not to the curve that they approximate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pwm import components
from pwm.errors import ConfigError
from pwm.models.actors.base import Actor, Decision, log_slope, policy_net
from pwm.models.integrators.explicit_rk import integrate, load_tableau
from pwm.models.layers import check_units

# Below this change of v per unit of x and step, every explicit step can be inverted: the slope of its
# increment is at most exp(rate) - 1, which is then less than 1.
INVERTIBLE = math.log(2.0)


@dataclass
class Options:
    """Configuration of the policy.

    Attributes:
        units: hidden widths of the network that reads the latent, once per action.
        act: its activation name.
        activation_first: activation before LayerNorm there, as in the published PWM.
        velocity_units: hidden width of the velocity network, one layer that reads x, t and what the other
            network makes of the latent.
        integrator: name of an integrator component.
        substeps: integration steps K per action.
        init_log_std: initial log standard deviation of the sample that the flow starts from.
        min_log_std: lower bound of it.
        max_rate: bound on how fast the flow spreads or contracts an entry, |dv_i/dx_i|. It changes the
            spread by at most about exp(max_rate), and keeps every step invertible.
    """

    name: str = "flow"
    units: list[int] = field(default_factory=lambda: [400, 200, 100])
    act: str = "mish"
    activation_first: bool = False
    velocity_units: int = 64
    integrator: str = "euler"
    substeps: int = 4
    init_log_std: float = -1.0
    min_log_std: float = -3.0
    max_rate: float = 2.5

    def __post_init__(self) -> None:
        check_units("alg.actor.units", self.units)
        for key in ("velocity_units", "substeps"):
            if getattr(self, key) < 1:
                raise ConfigError(f"alg.actor.{key}={getattr(self, key)}; it must be at least 1")
        if self.integrator not in (allowed := components.names("integrator")):
            raise ConfigError(
                f"alg.actor.integrator={self.integrator!r}; choose one of: {', '.join(allowed)}"
            )
        if not -math.inf < self.min_log_std <= self.init_log_std < math.inf:
            raise ConfigError(
                f"alg.actor.init_log_std={self.init_log_std}; it must be finite and not below "
                f"alg.actor.min_log_std={self.min_log_std}, which must be finite, too"
            )
        if not 0.0 < self.max_rate < INVERTIBLE * self.substeps:
            raise ConfigError(
                f"alg.actor.max_rate={self.max_rate}; it must lie between 0 and {INVERTIBLE:.2f} times "
                f"alg.actor.substeps={self.substeps}, so that every step can be inverted"
            )


class FlowActor(Actor):
    """a = tanh(x(1)) with dx/dt = v(x, z, t) from x(0) = std * noise."""

    has_density = True
    typical_std: Tensor
    reads: Tensor
    writes: Tensor

    def __init__(self, options: Options, latent_dim: int, act_dim: int) -> None:
        super().__init__()
        width = options.velocity_units
        if width < act_dim:
            raise ConfigError(
                f"alg.actor.velocity_units={width}; it must be at least the number of actions, {act_dim}"
            )
        self.noise_dim = act_dim
        self.options = options
        self.tableau = load_tableau(options.integrator)
        # What a latent means for the velocity: biases of its hidden layer, and a drift.
        self.net = policy_net(
            latent_dim, options.units, width + act_dim, options.act, options.activation_first
        )
        biases = cast("nn.Linear", self.net[-1]).bias
        nn.init.normal_(biases[:width])
        # Weights of x and, in the last column, of t.
        self.inward = nn.Parameter(torch.randn(width, act_dim + 1))
        # Small, so that an untrained policy is a Gaussian about zero.
        self.outward = nn.Parameter(0.01 * torch.randn(act_dim, width))
        self.log_std = nn.Parameter(torch.full((act_dim,), options.init_log_std))
        # A hidden unit of degree d reads entries up to d and is read by entries from d on.
        degrees, entries = torch.arange(width) % act_dim, torch.arange(act_dim)
        reads = torch.cat([entries <= degrees[:, None], torch.ones(width, 1, dtype=torch.bool)], dim=1)
        # Neither these nor what is reported are parts of a checkpoint.
        self.register_buffer("reads", reads.float(), persistent=False)
        self.register_buffer("writes", (degrees <= entries[:, None]).float(), persistent=False)
        self.register_buffer("typical_std", torch.tensor(math.exp(options.init_log_std)), persistent=False)

    def decide(self, z: Tensor, noise: Tensor | None = None) -> Decision:
        """tanh(x(1)) from std * noise, or from 0 without noise; x(1) is the location.

        The log density of entry i is that given the entries before it; their sum is that of the action, and
        the sum over the first entries is that of these alone.
        """
        context = self.net(z)
        inward, outward = self.inward * self.reads, self.outward * self.writes
        act_dim = self.noise_dim
        width = len(inward)
        # v_i has the slopes diagonal [i, h] tanh' along x_i.
        diagonal = outward * inward[:, :act_dim].T

        def velocity(state: Tensor, context: Tensor, time: Tensor, _: Any) -> Tensor:
            x = state[..., :act_dim]
            hidden = torch.tanh(F.linear(torch.cat([x, time], dim=-1), inward) + context[..., :width])
            v = F.linear(hidden, outward) + context[..., width:]
            if noise is None:
                return v
            rate = F.linear(1.0 - hidden.square(), diagonal)
            return torch.cat([v, rate * state[..., act_dim:]], dim=-1)

        if noise is None:
            start = context.new_zeros(*context.shape[:-1], act_dim)
            x = integrate(self.tableau, velocity, start, context, None, self.options.substeps)
            return Decision(torch.tanh(x), x)
        start = torch.cat([self.log_std.exp() * noise, torch.ones_like(noise)], dim=-1)
        end = integrate(self.tableau, velocity, start, context, None, self.options.substeps)
        x, stretch = end[..., :act_dim], end[..., act_dim:]
        log_spread = self.log_std + stretch.log()
        self.typical_std = log_spread.detach().exp().mean()
        density = -0.5 * (noise.square() + math.log(2.0 * math.pi)) - log_spread - log_slope(x)
        return Decision(torch.tanh(x), x, density)

    def mean_std(self) -> Tensor:
        """Mean of dx_i(1) / dnoise_i over the states and samples that were last decided with noise.

        Of a Gaussian that is its standard deviation; of anything else, that of the Gaussian that it is like
        about the sample.
        """
        return self.typical_std

    @torch.no_grad()
    def project(self) -> None:
        """Clamp the log standard deviation from below, and shrink velocities that change too fast."""
        self.log_std.clamp_(min=self.options.min_log_std)
        slopes = (self.outward * self.writes * self.inward[:, :-1].T).abs().sum(dim=1, keepdim=True)
        self.outward.mul_((self.options.max_rate / slopes).clamp(max=1.0))


def build(options: Options, latent_dim: int, act_dim: int) -> FlowActor:
    """Return the policy described by ``options``."""
    return FlowActor(options, latent_dim, act_dim)
