"""One-step flow map: the average velocity of a generative flow (MeanFlow, Geng et al. 2025).

u(x, s, t | z, a) is the mean velocity of the flow from time s to t through x at s, so one evaluation carries
noise to a change: x(1) = x(0) + u(x(0), 0, 1). Differentiating (t - s) u = int_s^t v along the flow in s
gives the identity that it is trained by: u = v + (t - s) du/ds, with du/ds = v . grad_x u + d_s u, one
Jacobian-vector product. (The paper runs time from data to noise; its second term has the other sign.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pwm.models.dynamics.base import Dynamics, DynamicsLoss
from pwm.models.dynamics.generative_flow import check_noise
from pwm.models.latent_space import LatentSpace
from pwm.models.layers import check_units, concat_inputs, init_weights, mlp
from pwm.models.world_model import WorldModel

WORLD_MODEL = WorldModel

# Share of transitions that learn the velocity itself, s = t.
INSTANTANEOUS = 0.5


@dataclass
class Options:
    """Configuration of the flow map.

    Attributes:
        units: hidden widths of the network.
        noise_std: standard deviation of the noise in the units of changes, as for ``generative_flow``.
    """

    name: str = "flow_map"
    units: list[int] = field(default_factory=lambda: [512, 512])
    noise_std: float = 1.0

    def __post_init__(self) -> None:
        check_units("alg.dynamics.units", self.units)
        check_noise(self.noise_std)


class FlowMapDynamics(Dynamics):
    """Jumps from noise to a change with one evaluation of its network."""

    teacher_forced = True
    velocity_evals = 1

    def __init__(self, options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> None:
        super().__init__(space)
        self.options = options
        self.noise_dim = space.dim
        in_dim = 2 * space.dim + act_dim + 2 + task_dim
        head = nn.Linear([in_dim, *options.units][-1], space.dim)
        self.net = mlp(in_dim, options.units, head).apply(init_weights)
        self.project = space.tangent()

    @property
    def action_column(self) -> int:
        """Actions follow a change, two flow times and a latent."""
        return 2 * self.space.dim + 2

    def average(self, x: Tensor, times: Tensor, z: Tensor, a: Tensor, e: Tensor | None = None) -> Tensor:
        """Mean velocity [..., L] from ``times`` s to t [..., 2] of the flow through x [..., L] at s."""
        average: Tensor = self.project(self.net(concat_inputs(x, times, z, a, e)))
        return average

    def predict(self, z: Tensor, a: Tensor, e: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Mean of the next latents (the velocity at zero noise, as for ``generative_flow``), or a sample."""
        times = z.new_zeros(*z.shape[:-1], 2)
        if noise is None:
            return z + self.space.change(self.average(torch.zeros_like(z), times, z, a, e))
        start = self.source(noise)
        times[..., 1] = 1.0
        return z + self.space.change(start + self.average(start, times, z, a, e))

    def source(self, noise: Tensor) -> Tensor:
        """Start [..., L] of the flow, from standard normal numbers [..., L]."""
        start: Tensor = self.options.noise_std * self.project(noise)
        return start

    def draw(self, shape: tuple[int, int], like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return noise, and the two flow times in order [H, B, L + 2]."""
        dtype, device = like.dtype, like.device
        noise = torch.randn(*shape, self.space.dim, dtype=dtype, device=device, generator=generator)
        uniform = torch.rand(*shape, 3, dtype=dtype, device=device, generator=generator)
        first, second, coin = uniform.unbind(-1)
        start = torch.minimum(first, second)
        # Where there is no second time, the first keeps its uniform distribution.
        instantaneous = coin < INSTANTANEOUS
        start = torch.where(instantaneous, first, start)
        end = torch.where(instantaneous, first, torch.maximum(first, second))
        return torch.cat([noise, torch.stack([start, end], -1)], dim=-1)

    def loss(
        self,
        z: Tensor,
        action: Tensor,
        target: Tensor,
        weights: Tensor,
        e: Tensor | None = None,
        draws: Tensor | None = None,
    ) -> DynamicsLoss:
        """Weighted mean of the squared distance to the identity's right side, which gets no gradient."""
        drawn = self.draw((len(action), action.shape[1]), z, None) if draws is None else draws
        start, times = self.source(drawn[..., :-2]), drawn[..., -2:]
        velocity = self.space.relative(target - z) - start
        x = torch.addcmul(start, times[..., :1], velocity)
        # Along the flow s moves on and t stays.
        moves = torch.stack([torch.ones_like(times[..., 0]), torch.zeros_like(times[..., 0])], -1)
        average, derivative = torch.func.jvp(  # type: ignore[misc]
            lambda x, times: self.average(x, times, z, action, e), (x, times), (velocity, moves)
        )
        span = times[..., 1:] - times[..., :1]
        wanted = (velocity + span * derivative).detach()
        return DynamicsLoss((weights.unsqueeze(-1) * (average - wanted).square()).mean(), z)


def build(options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> FlowMapDynamics:
    """Return the dynamics described by ``options``."""
    return FlowMapDynamics(options, space, act_dim, task_dim)
