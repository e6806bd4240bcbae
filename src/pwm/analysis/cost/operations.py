"""What an epoch of training costs, in floating-point operations, counted from the configuration alone.

The losses that training minimises are computed on the meta device, whose tensors have shapes but no entries,
while PyTorch's ``FlopCounterMode`` looks on. Whatever model, actor or integrator is configured is counted as
it computes. Counted are matrix products, 2 m n k operations each, forward and backward. Not counted are
activations, LayerNorm, SimNorm, biases, the arithmetic of losses, returns and integrators, Adam, replay and
the simulator.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pwm.algorithm.agent import Agent
from pwm.algorithm.losses import Feedback, Imagined, actor_loss, critic_loss
from pwm.algorithm.updates import Updater
from pwm.configuration.config import ExperimentConfig
from pwm.data.batch import Batch
from pwm.errors import ConfigError

PHASES = ("world_model", "actor", "critic", "interaction")


class Updates(NamedTuple):
    """Operations of one update of each network, and of an epoch's interaction with the environment."""

    world_model: int
    actor: int
    critic: int
    interaction: int


# What was traced: by algorithm and widths.
TRACED: dict[tuple[str, int, int], Updates] = {}


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
        """Overrides to add to the baseline."""
        return [f"alg.wm_iterations={self.wm_iterations}", f"alg.warmup_updates={self.warmup_updates}"]


class Tracer:
    """An agent without entries, whose computations can be counted.

    Args:
        config: the run's configuration.
        obs_dim, act_dim: widths of observations and actions.

    Raises:
        ConfigError: a width is smaller than 1.
    """

    def __init__(self, config: ExperimentConfig, obs_dim: int, act_dim: int) -> None:
        if obs_dim < 1 or act_dim < 1:
            raise ConfigError(f"obs_dim={obs_dim} and act_dim={act_dim} must be at least 1")
        self.options, self.obs_dim, self.act_dim = config.alg, obs_dim, act_dim
        self.horizon = config.alg.objective.horizon
        self.lockstep = config.alg.collect == "lockstep"
        self.starts = config.alg.starts
        self.updates = imagined_rollouts(config)
        with torch.device("meta"):
            self.agent = Agent(config.alg, config.chosen, obs_dim, act_dim, None, "meta")

    def model_update(self) -> int:
        """Return the operations of one update of the world model; everything in it learns."""
        steps, windows = self.horizon, self.options.model_learning.wm_batch_size
        batch = Batch(
            zeros(steps + 1, windows, self.obs_dim),
            zeros(steps, windows, self.act_dim),
            zeros(steps, windows),
            zeros(steps, windows).bool(),
            zeros(steps, windows).bool(),
        )
        learner = self.agent.model
        return flops(lambda: back(learner.updater, learner.loss(batch, None)[0]))

    def actor_update(self) -> int:
        """Return the operations of one actor update, its rollout included."""
        learner = self.agent.actor_critic

        def update() -> None:
            rollout = self.imagine()
            result = actor_loss(rollout, learner.target_critic, self.options.objective.gamma)
            back(learner.updaters["actor"], learner.loss(rollout, result.per_entry))

        return flops(update)

    def imagine(self) -> Imagined:
        """Return an imagined rollout, which under lockstep collection real episode ends interrupt."""
        latent_dim = self.agent.world_model.latent_dim
        ends = zeros(self.starts).bool()
        feedback = Feedback(ends, ends, zeros(self.starts, latent_dim))
        interrupt = (lambda _t, _action: feedback) if self.lockstep else None
        z = zeros(self.starts, latent_dim)
        return self.agent.actor_critic.imagine(self.agent.world_model, z, interrupt=interrupt)

    def critic_update(self) -> int:
        """Return the operations of the critics' passes over the latents of one imagined rollout."""
        learner, states = self.agent.actor_critic, self.starts * self.horizon
        z, target = zeros(states, self.agent.world_model.latent_dim), zeros(states)
        one = flops(lambda: back(learner.updaters["critic"], critic_loss(learner.critic, z, target)))
        return learner.options.critic_iterations * one

    def interaction(self) -> int:
        """Return the operations that turn one epoch's observations into actions and start states."""
        opts, model, actor = self.options, self.agent.world_model, self.agent.actor_critic
        with torch.no_grad():
            encode = flops(lambda: model.encode(zeros(1, self.obs_dim)))
            if self.lockstep:
                # The imagined rollout's actions are executed: only its start and the answers are encoded.
                return (opts.num_envs + opts.epoch_steps) * encode
            z = zeros(1, model.latent_dim)
            act = flops(lambda: actor.explore(z))
            step = flops(lambda: model.next(z, zeros(1, self.act_dim)))
        acting = opts.epoch_steps * (encode + act) + self.horizon * opts.open_loop_envs * step
        return acting + self.updates * self.starts * encode


def zeros(*shape: int) -> Tensor:
    """Return a tensor of ``shape`` without entries."""
    return torch.zeros(*shape, device="meta")


def flops(work: Callable[[], object]) -> int:
    """Return the operations of all matrix products in ``work``."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def back(updater: Updater, loss: Tensor) -> None:
    """Compute the gradient of ``loss`` that a step of ``updater`` takes."""
    torch.autograd.grad(loss, updater.parameters, allow_unused=True)


def traced(config: ExperimentConfig, obs_dim: int, act_dim: int) -> Updates:
    """Return the operations of single updates; runs that differ in their seed alone are traced once.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    key = (json.dumps(config.to_dict()["alg"], sort_keys=True), obs_dim, act_dim)
    if key not in TRACED:
        tracer = Tracer(config, obs_dim, act_dim)
        TRACED[key] = Updates(
            tracer.model_update(), tracer.actor_update(), tracer.critic_update(), tracer.interaction()
        )
    return TRACED[key]


def epoch_flops(config: ExperimentConfig, obs_dim: int, act_dim: int) -> dict[str, float]:
    """Operations of one training epoch by phase, and their ``total``.

    ``world_model``, ``actor`` and ``critic`` are the updates; ``interaction`` is what turns observations into
    actions and into the latents that imagination starts from. Evaluation is not part of an epoch.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    one, rollouts = traced(config, obs_dim, act_dim), imagined_rollouts(config)
    counted = {
        "world_model": float(config.alg.model_learning.wm_iterations * one.world_model),
        "actor": float(rollouts * one.actor),
        "critic": float(rollouts * one.critic),
        "interaction": float(one.interaction),
    }
    return counted | {"total": sum(counted.values())}


def warmup_flops(config: ExperimentConfig, obs_dim: int, act_dim: int) -> float:
    """Operations of the world-model updates before the first epoch; actions are random until then.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    return float(config.alg.warmup_updates * traced(config, obs_dim, act_dim).world_model)


def match_compute(
    baseline: ExperimentConfig, candidate: ExperimentConfig, obs_dim: int, act_dim: int
) -> ComputeMatch:
    """Return the world-model updates, per epoch and in warm-up, that make the arms equally costly.

    At least one iteration per epoch stays, so a candidate that is much cheaper than the baseline leaves a
    mismatch.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    before = epoch_flops(baseline, obs_dim, act_dim)
    target = epoch_flops(candidate, obs_dim, act_dim)["total"]
    one = float(traced(baseline, obs_dim, act_dim).world_model)
    other = before["total"] - before["world_model"]
    iterations = max(1, round((target - other) / one))
    warmup = round(warmup_flops(candidate, obs_dim, act_dim) / one)
    return ComputeMatch(iterations, warmup, before["total"], other + iterations * one, target)


def imagined_rollouts(config: ExperimentConfig) -> int:
    """Imagined rollouts of an epoch, each followed by an update of the actor and those of the critics."""
    return 1 if config.alg.collect == "lockstep" else config.alg.actor_critic.actor_iterations
