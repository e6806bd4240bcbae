"""Flow-matching dynamics: z' is the solution at tau = 1 of dz/dtau = v(z, a, tau), z(0) = z.

Trained by rectified flow (Liu et al. 2023; Lipman et al. 2023): on the straight path
z_tau = (1 - tau) z_s + tau z_t the velocity should be z_t - z_s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pwm import components
from pwm.errors import ConfigError
from pwm.models.dynamics.base import Dynamics, DynamicsLoss, unroll
from pwm.models.flow_world_model import FlowWorldModel
from pwm.models.integrators.explicit_rk import VelocityFn, integrate, load_tableau
from pwm.models.latent_space import LatentSpace, Simplices
from pwm.models.layers import check_gain, check_units, concat_inputs, init_weights, mlp

WORLD_MODEL = FlowWorldModel

VELOCITY_HEADS = ("linear", "tangent", "simnorm")
TAU_SAMPLING = ("uniform", "midpoint", "nodes")
FLOW_SOURCES = ("rollout", "teacher")


@dataclass
class Options:
    """Configuration of the flow.

    Attributes:
        units: hidden widths of the velocity network.
        velocity_head: ``linear`` (unconstrained), ``tangent`` (of SimNorm latents; group means removed, so
            that integrated latents keep their group sums), or ``simnorm`` (of SimNorm latents; reproduces
            the Flow-MBPO fork and cannot represent a velocity).
        tau_sampling: flow time in training, ``uniform`` in [0, 1], the constant ``midpoint`` 0.5, or one of
            the integrator's ``nodes``, the only times at which the velocity is used (0 for one Euler step).
        flow_source: start of the training path, the model's own ``rollout`` or ``teacher`` (the encoded
            observation: no unrolling, all H transitions in one batch).
        output_gain: factor on the network's output. Velocities are small beside what one step of Adam does to
            the output of a network; a gain below 1 makes those steps finer.
        integrator: name of an integrator component.
        substeps: integration steps K per environment step.
    """

    name: str = "flow"
    units: list[int] = field(default_factory=lambda: [512, 512])
    velocity_head: str = "linear"
    tau_sampling: str = "uniform"
    flow_source: str = "rollout"
    output_gain: float = 1.0
    integrator: str = "euler"
    substeps: int = 1

    def __post_init__(self) -> None:
        check_units("alg.dynamics.units", self.units)
        check_gain(self.output_gain)
        for key, allowed in (
            ("velocity_head", VELOCITY_HEADS),
            ("tau_sampling", TAU_SAMPLING),
            ("flow_source", FLOW_SOURCES),
            ("integrator", tuple(components.names("integrator"))),
        ):
            if getattr(self, key) not in allowed:
                raise ConfigError(
                    f"alg.dynamics.{key}={getattr(self, key)!r}; choose one of: {', '.join(allowed)}"
                )
        if self.substeps < 1:
            raise ConfigError(f"alg.dynamics.substeps={self.substeps}; it must be at least 1")


def sample_tau(
    shape: tuple[int, ...],
    tau_sampling: str,
    like: Tensor,
    generator: torch.Generator | None = None,
    nodes: Tensor | None = None,
) -> Tensor:
    """Flow times of ``shape``: uniform in [0, 1], 0.5 for ``midpoint``, or drawn from ``nodes`` [N]."""
    if tau_sampling == "midpoint":
        return like.new_full(shape, 0.5)
    if tau_sampling == "uniform":
        return torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
    if tau_sampling != "nodes" or nodes is None:
        raise ConfigError(
            f"tau_sampling={tau_sampling!r}; allowed: {', '.join(TAU_SAMPLING)}, nodes need an integrator"
        )
    return nodes[torch.randint(len(nodes), shape, device=like.device, generator=generator)]


def compute_flow_matching_loss(
    velocity_fn: VelocityFn,
    z_start: Tensor,
    z_target: Tensor,
    a: Tensor,
    task: Any = None,
    tau_sampling: str = "uniform",
    gamma_t: float | Tensor = 1.0,
    *,
    tau: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rectified-flow loss: mean of gamma_t (v(z_tau, a, tau) - (z_target - z_start))^2.

    Args:
        velocity_fn: called once as ``(z_tau, a, tau, task)`` with tau [..., 1].
        z_start, z_target: ends of the path, [..., L]; gradients flow into both.
        a: actions [..., A].
        task: handed to ``velocity_fn`` untouched.
        tau_sampling: as in ``sample_tau``, without ``nodes``; not read when ``tau`` is given.
        gamma_t: weight, a number or a tensor that broadcasts against [..., L].
        tau: flow times [..., 1] to use instead of drawing them.
        generator: source of the draw.

    Returns:
        Scalar loss.
    """
    if tau is None:
        tau = sample_tau((*z_start.shape[:-1], 1), tau_sampling, z_start, generator)
    velocity = z_target - z_start
    predicted = velocity_fn(torch.addcmul(z_start, tau, velocity), a, tau, task)
    return (gamma_t * (predicted - velocity).square()).mean()


class FlowDynamics(Dynamics):
    """Integrates a learned velocity network over flow time."""

    nodes: Tensor

    def __init__(self, options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> None:
        super().__init__(space)
        if options.velocity_head != "linear" and not isinstance(space, Simplices):
            raise ConfigError(
                f"alg.dynamics.velocity_head={options.velocity_head} is made for alg.latents=simnorm; "
                "with other latents it must be linear"
            )
        self.options = options
        self.teacher_forced = options.flow_source == "teacher"
        self.tableau = load_tableau(options.integrator)
        in_dim = space.dim + act_dim + 1 + task_dim
        hidden = [in_dim, *options.units][-1]
        head: nn.Module = nn.Linear(hidden, space.dim)
        if options.velocity_head == "simnorm":
            head = space.head(hidden)
        elif options.velocity_head == "tangent":
            head = nn.Sequential(head, space.tangent())
        self.net = mlp(in_dim, options.units, head).apply(init_weights)
        nodes = torch.tensor(self.tableau.times(options.substeps))
        # Follows from the options, so not part of a checkpoint.
        self.register_buffer("nodes", nodes, persistent=False)

    @property
    def substeps(self) -> int:
        """Integration steps K per ``next``."""
        return self.options.substeps

    @property
    def velocity_evals(self) -> int:  # type: ignore[override]
        """Velocity evaluations per ``next``: stages times substeps."""
        return self.tableau.stages * self.substeps

    def velocity(self, z: Tensor, a: Tensor, tau: Tensor, e: Tensor | None = None) -> Tensor:
        """dz/dtau [..., L] at latents [..., L], actions [..., A], flow time [..., 1], embedding [..., E]."""
        velocity = self.space.change(self.net(concat_inputs(z, a, tau, e)))
        gain = self.options.output_gain
        return velocity if gain == 1.0 else gain * velocity

    def predict(self, z: Tensor, a: Tensor, e: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Latents at tau = 1, by the configured integrator and substeps."""
        return integrate(self.tableau, self.velocity, z, a, e, self.substeps)

    def draw(self, shape: tuple[int, int], like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return flow times [H, B, 1]."""
        return sample_tau((*shape, 1), self.options.tau_sampling, like, generator, self.nodes)

    def loss(
        self,
        z: Tensor,
        action: Tensor,
        target: Tensor,
        weights: Tensor,
        e: Tensor | None = None,
        draws: Tensor | None = None,
    ) -> DynamicsLoss:
        """Weighted mean of the flow-matching loss; every transition's path in one batch."""
        source = z if self.teacher_forced else unroll(self, z[0], action[:-1], e)
        tau = self.draw((len(action), action.shape[1]), source, None) if draws is None else draws
        # Squared errors in the units of the space are divided by them twice.
        weights = self.space.relative(self.space.relative(weights.unsqueeze(-1)))
        loss = compute_flow_matching_loss(self.velocity, source, target, action, e, gamma_t=weights, tau=tau)
        return DynamicsLoss(loss, source)


def build(options: Options, space: LatentSpace, act_dim: int, task_dim: int) -> FlowDynamics:
    """Return the dynamics described by ``options``."""
    return FlowDynamics(options, space, act_dim, task_dim)
