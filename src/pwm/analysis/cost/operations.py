"""What an epoch of training costs, in floating-point operations, counted from the configuration alone.

Counted are matrix products, 2 m n k operations each, forward and backward: what PyTorch's ``FlopCounterMode``
counts. Not counted are activations, LayerNorm, SimNorm, biases, the arithmetic of losses, returns and
integrators, Adam, replay and the simulator.

In a backward pass a matrix costs one product more for the gradient of its weights, if those learn, and one
for the gradient of its input, if that needs one. The first matrix of a network therefore costs less where the
input is data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from pwm.configuration.config import ExperimentConfig
from pwm.errors import ConfigError
from pwm.models.actors.base import load_actor
from pwm.models.critic import CriticEnsemble, EnsembleLinear
from pwm.models.world_model import build_world_model

PHASES = ("world_model", "actor", "critic", "interaction")


class Network(NamedTuple):
    """A chain of matrices.

    Attributes:
        first, rest: operations per sample of one product with the first matrix, and with all others.
    """

    first: int
    rest: int

    @property
    def forward(self) -> int:
        """Operations per sample of a pass without gradient."""
        return self.first + self.rest

    @property
    def through(self) -> int:
        """Forward, and back to the input; the weights do not learn."""
        return 2 * self.forward

    @property
    def learn(self) -> int:
        """Forward, and back to the weights; the input is data."""
        return 2 * self.first + 3 * self.rest

    @property
    def learn_through(self) -> int:
        """Forward, and back to the weights and to the input."""
        return 3 * self.forward


@dataclass(frozen=True)
class Networks:
    """Sizes of an agent's networks; ``evals`` and ``teacher`` say how its dynamics use theirs.

    Attributes:
        termination: None if the model does not predict terminations.
        evals: evaluations of the dynamics network per imagined step.
        velocity: those of them that evaluate a velocity: all of a flow, 0 otherwise.
        teacher: the dynamics loss starts every transition from an encoded observation.
    """

    encoder: Network
    dynamics: Network
    reward: Network
    termination: Network | None
    actor: Network
    critic: Network
    evals: int
    velocity: int
    teacher: bool


class VelocityEvals(NamedTuple):
    """Evaluations of the velocity network; all 0 for dynamics without one.

    Attributes:
        per_step: per imagined step of one trajectory.
        imagination: per epoch in the policy's imagination, one per sample: the metric ``velocity_evals``.
        model_learning: per epoch in the updates of the world model, one per sample.
    """

    per_step: int
    imagination: int
    model_learning: int


@dataclass(frozen=True)
class ComputeMatch:
    """Outcome of ``match_compute``.

    Attributes:
        wm_iterations: world-model iterations per epoch to give the baseline.
        warmup_updates: world-model updates before the first epoch to give the baseline.
        baseline: operations of its epoch as configured.
        matched: operations of its epoch with ``wm_iterations``.
        candidate: operations of the candidate's epoch.
    """

    wm_iterations: int
    warmup_updates: int
    baseline: float
    matched: float
    candidate: float

    @property
    def mismatch(self) -> float:
        """(matched - candidate) / candidate: what rounding to whole iterations leaves."""
        return (self.matched - self.candidate) / self.candidate

    @property
    def overrides(self) -> list[str]:
        """What to add to the baseline."""
        return [f"alg.wm_iterations={self.wm_iterations}", f"alg.warmup_updates={self.warmup_updates}"]


def epoch_flops(config: ExperimentConfig, obs_dim: int, act_dim: int) -> dict[str, float]:
    """Operations of one training epoch by phase, and their ``total``.

    ``world_model``, ``actor`` and ``critic`` are the updates; ``interaction`` is what turns observations into
    actions and into the latents that imagination starts from. Evaluation is not part of an epoch.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    nets = _networks(config, obs_dim, act_dim)
    alg = config.alg
    flops = {
        "world_model": float(alg.wm_iterations * _model_update(config, nets)),
        "actor": float(_policy_updates(config) * _actor_update(config, nets)),
        "critic": float(_policy_updates(config) * _critic_update(config, nets)),
        "interaction": float(_interaction(config, nets)),
    }
    return flops | {"total": sum(flops.values())}


def warmup_flops(config: ExperimentConfig, obs_dim: int, act_dim: int) -> float:
    """Operations of the world-model updates before the first epoch; actions are random until then.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    return float(config.alg.warmup_updates * _model_update(config, _networks(config, obs_dim, act_dim)))


def velocity_evals(config: ExperimentConfig, obs_dim: int, act_dim: int) -> VelocityEvals:
    """How often the velocity network is evaluated.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    nets, alg = _networks(config, obs_dim, act_dim), config.alg
    if not nets.velocity:
        return VelocityEvals(0, 0, 0)
    imagined = _policy_updates(config) * alg.horizon * start_states(config)
    learned = alg.wm_iterations * alg.wm_batch_size * _loss_passes(config, nets)
    return VelocityEvals(nets.velocity, imagined * nets.velocity, learned)


def match_compute(
    baseline: ExperimentConfig, candidate: ExperimentConfig, obs_dim: int, act_dim: int
) -> ComputeMatch:
    """How many world-model updates, per epoch and in warm-up, make the baseline as costly as the candidate.

    At least one iteration per epoch stays, so a candidate that is much cheaper than the baseline leaves a
    mismatch.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    before = epoch_flops(baseline, obs_dim, act_dim)
    target = epoch_flops(candidate, obs_dim, act_dim)["total"]
    one = float(_model_update(baseline, _networks(baseline, obs_dim, act_dim)))
    other = before["total"] - before["world_model"]
    iterations = max(1, round((target - other) / one))
    warmup = round(warmup_flops(candidate, obs_dim, act_dim) / one)
    return ComputeMatch(iterations, warmup, before["total"], other + iterations * one, target)


def _networks(config: ExperimentConfig, obs_dim: int, act_dim: int) -> Networks:
    """Sizes of the agent's networks; built on the meta device, which has no memory."""
    if obs_dim < 1 or act_dim < 1:
        raise ConfigError(f"obs_dim={obs_dim} and act_dim={act_dim} must be at least 1")
    alg = config.alg
    with torch.device("meta"):
        model = build_world_model(alg, config.dynamics, obs_dim, act_dim)
        actor = load_actor(config.actor.name).build(config.actor, model.latent_dim, act_dim)
        critic = CriticEnsemble(model.latent_dim, alg.critic_units, alg.num_critics)
    velocity = model.dynamics.velocity_evals
    return Networks(
        encoder=_measure(model.encoder),
        dynamics=_measure(model.dynamics),
        reward=_measure(model.reward_net),
        termination=None if model.termination_net is None else _measure(model.termination_net),
        actor=_measure(actor),
        critic=_measure(critic),
        evals=velocity or 1,
        velocity=velocity,
        teacher=model.dynamics.teacher_forced,
    )


def _measure(net: nn.Module) -> Network:
    """An ensemble's matrices are stacked, so their entries count the members' products together.

    A network without matrices (an encoder that passes observations on) costs nothing.
    """
    weights = [m.weight for m in net.modules() if isinstance(m, (nn.Linear, EnsembleLinear))]
    products = [2 * weight.numel() for weight in weights]
    return Network(sum(products[:1]), sum(products[1:]))


def start_states(config: ExperimentConfig) -> int:
    """Start states of one imagined rollout, the batch of the actor's gradient."""
    return config.alg.num_envs if config.alg.collect == "lockstep" else config.alg.actor_batch_size


def _policy_updates(config: ExperimentConfig) -> int:
    """Actor updates per epoch, each followed by the critics' passes over what was imagined."""
    return 1 if config.alg.collect == "lockstep" else config.alg.actor_iterations


def _loss_passes(config: ExperimentConfig, nets: Networks) -> int:
    """Evaluations of the dynamics network per window of the dynamics loss.

    A regression is evaluated where it predicts. A flow is evaluated once on every path, and before that its
    own rollout finds where the paths start, unless the encoder tells.
    """
    horizon = config.alg.horizon
    if nets.teacher or not nets.velocity:
        return horizon
    return (horizon - 1) * nets.evals + horizon


def _model_update(config: ExperimentConfig, nets: Networks) -> int:
    """One world-model update; everything in it learns, only the targets of the dynamics are data."""
    horizon = config.alg.horizon
    sources = horizon if nets.teacher else 1
    window = sources * nets.encoder.learn + horizon * nets.encoder.forward
    window += _loss_passes(config, nets) * nets.dynamics.learn_through
    window += horizon * nets.reward.learn_through
    if nets.termination is not None:
        window += horizon * nets.termination.learn_through
    return config.alg.wm_batch_size * window


def _actor_update(config: ExperimentConfig, nets: Networks) -> int:
    """One actor update: the gradient runs through model and critics, whose weights rest, to the actor's."""
    alg, horizon = config.alg, config.alg.horizon
    # No gradient is needed at the latents that imagination starts from.
    trajectory = nets.actor.learn + (horizon - 1) * nets.actor.learn_through
    trajectory += horizon * nets.evals * nets.dynamics.through
    trajectory += horizon * nets.reward.through
    if alg.collect == "lockstep":
        # Real episode ends replace the predictor; the value after any step may count.
        trajectory += horizon * nets.critic.through
    else:
        # All values enter the critics' targets, the last one the objective as well.
        trajectory += horizon * nets.critic.forward + nets.critic.through
        if nets.termination is not None:
            trajectory += horizon * nets.termination.through
    return start_states(config) * trajectory


def _critic_update(config: ExperimentConfig, nets: Networks) -> int:
    """The critics' passes over the latents of one imagined rollout."""
    alg = config.alg
    return alg.critic_iterations * start_states(config) * alg.horizon * nets.critic.learn


def _interaction(config: ExperimentConfig, nets: Networks) -> int:
    alg = config.alg
    steps = alg.horizon * alg.num_envs
    if alg.collect == "lockstep":
        # The imagined rollout's actions are executed: only its start and the answers are encoded.
        return (alg.num_envs + steps) * nets.encoder.forward
    acting = steps * (nets.encoder.forward + nets.actor.forward)
    acting += alg.horizon * alg.open_loop_envs * nets.evals * nets.dynamics.forward
    return acting + alg.actor_iterations * alg.actor_batch_size * nets.encoder.forward
