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
from pwm.algorithm.model_learning import ModelLearner
from pwm.algorithm.updates import Updater
from pwm.configuration.config import ExperimentConfig
from pwm.data.batch import Batch
from pwm.errors import ConfigError
from pwm.models.world_model import build_world_model

PHASES = ("world_model", "actor", "critic", "interaction")


class Updates(NamedTuple):
    """Operations of one update of each network, and of an epoch's interaction with the environment."""

    world_model: int
    actor: int
    critic: int
    interaction: int


# What was traced: by algorithm, widths and number of tasks.
TRACED: dict[tuple[str, int, int, int], Updates] = {}


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


class ModelTracer:
    """A world model without entries, whose computations can be counted.

    Args:
        config: the run's configuration.
        obs_dim, act_dim: widths of observations and actions.
        n_tasks: tasks of its table; 0 for a single one.
    """

    def __init__(self, config: ExperimentConfig, obs_dim: int, act_dim: int, n_tasks: int) -> None:
        options = config.alg
        self.options, self.obs_dim, self.act_dim, self.n_tasks = options, obs_dim, act_dim, n_tasks
        self.horizon = options.objective.horizon
        with torch.device("meta"):
            model = build_world_model(
                options.world_model, config.chosen["dynamics"], obs_dim, act_dim, n_tasks
            )
            parts = options.model_learning, options.objective, options.optimisation
            self.learner = ModelLearner(*parts, model, None)

    def model_update(self) -> int:
        """Return the operations of one update of the world model; everything in it learns."""
        steps, windows = self.horizon, self.options.model_learning.wm_batch_size
        batch = Batch(
            zeros(steps + 1, windows, self.obs_dim),
            zeros(steps, windows, self.act_dim),
            zeros(steps, windows),
            zeros(steps, windows).bool(),
            zeros(steps, windows).bool(),
            zeros(windows).long() if self.n_tasks else None,
        )
        return flops(lambda: back(self.learner.updater, self.learner.loss(batch, None)[0]))


class AgentTracer:
    """An agent without entries, whose computations can be counted.

    Args:
        config: the run's configuration.
        obs_dim, act_dim: widths of observations and actions.
    """

    def __init__(self, config: ExperimentConfig, obs_dim: int, act_dim: int) -> None:
        self.options, self.obs_dim, self.act_dim = config.alg, obs_dim, act_dim
        self.horizon = config.alg.objective.horizon
        self.starts, self.work = config.alg.starts, config.alg.work
        with torch.device("meta"):
            self.agent = Agent(config.alg, config.chosen, obs_dim, act_dim, None, "meta")

    def actor_update(self) -> int:
        """Return the operations of one actor update, its rollout included."""
        learner = self.agent.actor_critic

        def update() -> None:
            rollout = self.imagine()
            result = actor_loss(rollout, learner.target_critic, self.options.objective.gamma)
            back(learner.updaters["actor"], learner.loss(rollout, result.per_entry))

        return flops(update)

    def imagine(self) -> Imagined:
        """Return an imagined rollout, which real episode ends may interrupt."""
        latent_dim = self.agent.world_model.latent_dim
        ends = zeros(self.starts).bool()
        feedback = Feedback(ends, ends, zeros(self.starts, latent_dim))
        interrupt = (lambda _t, _action: feedback) if self.work.interrupted else None
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
        work, model, actor = self.work, self.agent.world_model, self.agent.actor_critic
        with torch.no_grad():
            z = zeros(1, model.latent_dim)
            encode = flops(lambda: model.encode(zeros(1, self.obs_dim)))
            act = flops(lambda: actor.explore(z))
            predict = flops(lambda: model.next(z, zeros(1, self.act_dim)))
        return work.encoded * encode + work.acted * act + work.predicted * predict


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


def traced(config: ExperimentConfig, obs_dim: int, act_dim: int, n_tasks: int = 0) -> Updates:
    """Return the operations of single updates; runs that differ in their seed alone are traced once.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    if obs_dim < 1 or act_dim < 1:
        raise ConfigError(f"obs_dim={obs_dim} and act_dim={act_dim} must be at least 1")
    key = (json.dumps(config.to_dict()["alg"], sort_keys=True), obs_dim, act_dim, n_tasks)
    if key not in TRACED:
        model = ModelTracer(config, obs_dim, act_dim, n_tasks).model_update()
        policy = (0, 0, 0)
        if config.alg.work.rollouts:
            agent = AgentTracer(config, obs_dim, act_dim)
            policy = agent.actor_update(), agent.critic_update(), agent.interaction()
        TRACED[key] = Updates(model, *policy)
    return TRACED[key]


def epoch_flops(config: ExperimentConfig, obs_dim: int, act_dim: int, n_tasks: int = 0) -> dict[str, float]:
    """Operations of one training epoch by phase, and their ``total``.

    ``world_model``, ``actor`` and ``critic`` are the updates; ``interaction`` is what turns observations into
    actions and into the latents that imagination starts from. Evaluation is not part of an epoch.

    Args:
        config: the run's configuration.
        obs_dim, act_dim: widths of observations and actions.
        n_tasks: tasks of a world model that learns several; 0 for a single one.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    one, rollouts = traced(config, obs_dim, act_dim, n_tasks), config.alg.work.rollouts
    counted = {
        "world_model": float(config.alg.model_learning.wm_iterations * one.world_model),
        "actor": float(rollouts * one.actor),
        "critic": float(rollouts * one.critic),
        "interaction": float(one.interaction),
    }
    return counted | {"total": sum(counted.values())}


def warmup_flops(config: ExperimentConfig, obs_dim: int, act_dim: int, n_tasks: int = 0) -> float:
    """Operations of the world-model updates before the first epoch; actions are random until then.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    return float(config.alg.work.warmup_updates * traced(config, obs_dim, act_dim, n_tasks).world_model)


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
