"""Options of single-task online training, checked together before anything is built."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from pwm import checks
from pwm.algorithm import actor_critic, model_learning, objective, updates
from pwm.errors import ConfigError
from pwm.models import world_model
from pwm.parts import PART, flat_values
from pwm.training.work import ENV_STEPS, Work

COLLECT_MODES = ("closed_loop", "lockstep")


@dataclass
class Options:
    """The training rule and the loop around it.

    Attributes:
        world_model, objective, model_learning, actor_critic, optimisation: the parts of the training rule.
        max_epochs: epochs of a whole run (``general.epochs`` overrides it).
        num_envs: environments in lockstep; one epoch is ``num_envs * horizon`` environment steps.
        buffer_size: transitions kept for replay.
        replay_recency: how much samples lean to recent data: they are u^replay_recency of the way from the
            newest to the oldest transition, u uniform. 1 draws all alike, 2 half from the newest quarter.
        collect: ``closed_loop`` or ``lockstep``.
        open_loop_share: share of the environments, others in every epoch, in which ``closed_loop`` collection
            shows the policy latents imagined from the epoch's first observation, not encoded ones; where an
            episode ends, imagination starts again.
        actor_batch_size: start states of one imagined batch under ``closed_loop``.
        replay_starts: share of those start states that comes from the replay buffer; the rest are different
            ones of the ``num_envs * horizon`` states visited in the same epoch.
        warmup_env_steps: environment steps with uniform random actions before the first epoch.
        warmup_updates: world-model updates after them, before the policy learns.
    """

    progress: ClassVar[str] = ENV_STEPS

    world_model: world_model.Options = field(default_factory=world_model.Options, metadata=PART)
    objective: objective.Options = field(default_factory=objective.Options, metadata=PART)
    model_learning: model_learning.Options = field(default_factory=model_learning.Options, metadata=PART)
    actor_critic: actor_critic.Options = field(default_factory=actor_critic.Options, metadata=PART)
    optimisation: updates.Options = field(default_factory=updates.Options, metadata=PART)
    max_epochs: int = 1000
    num_envs: int = 128
    buffer_size: int = 1_000_000
    replay_recency: float = 1.0
    collect: str = "closed_loop"
    open_loop_share: float = 0.0
    actor_batch_size: int = 128
    replay_starts: float = 0.0
    warmup_env_steps: int = 0
    warmup_updates: int = 0

    def __post_init__(self) -> None:
        checks.one_of(self, "collect", COLLECT_MODES)
        checks.at_least_one(self, "max_epochs", "num_envs", "actor_batch_size")
        checks.not_negative(self, "warmup_env_steps", "warmup_updates")
        checks.share(self, "replay_starts", "open_loop_share")
        if not 1.0 <= self.replay_recency < float("inf"):
            raise ConfigError(f"alg.replay_recency={self.replay_recency}; it must be finite and at least 1")
        if task_dim := self.world_model.task_dim:
            raise ConfigError(
                f"alg.task_dim={task_dim} needs a multi-task model; online training learns a single task, "
                "where it must be 0"
            )
        if coef := self.actor_critic.behaviour_coef:
            raise ConfigError(
                f"alg.behaviour_coef={coef} needs recorded actions; online training has none, it must be 0"
            )
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Buffer, warm-up and start states fit the number of environments and the horizon."""
        horizon = self.objective.horizon
        rows = self.num_envs * (horizon + 2)
        if self.buffer_size < rows:
            raise ConfigError(
                f"alg.buffer_size={self.buffer_size} is too small; it must be at least "
                f"num_envs * (horizon + 2) = {rows}"
            )
        steps = self.num_envs * (horizon + 1)
        if self.warmup_updates and self.warmup_env_steps < steps:
            raise ConfigError(
                f"alg.warmup_env_steps={self.warmup_env_steps} is too few for alg.warmup_updates="
                f"{self.warmup_updates}; it must be at least num_envs * (horizon + 1) = {steps}"
            )
        visited, needed = self.num_envs * horizon, self.actor_batch_size - self.replayed_starts
        if self.collect == "closed_loop" and needed > visited:
            least = math.ceil(1e4 * (1 - visited / self.actor_batch_size)) / 1e4
            copies = math.ceil(needed / horizon)
            raise ConfigError(
                f"alg.actor_batch_size={self.actor_batch_size} with alg.replay_starts={self.replay_starts} "
                f"needs {needed} states visited in one epoch; there are num_envs * horizon = {visited}; "
                f"set alg.replay_starts to {least:g} or more, or alg.num_envs to {copies}"
            )
        if self.collect == "lockstep":
            self._check_lockstep()

    def _check_lockstep(self) -> None:
        """Refuse what lockstep collection has no use for, instead of ignoring it."""
        needed = {"actor_iterations": 1, "replay_starts": 0, "open_loop_share": 0}
        now = flat_values(self)
        ignored = [f"alg.{key}={now[key]}" for key, value in needed.items() if now[key] != value]
        if ignored:
            settings = " ".join(f"alg.{key}={value}" for key, value in needed.items())
            raise ConfigError(
                f"{', '.join(ignored)}: alg.collect=lockstep executes the one imagined rollout it learns "
                f"from, where the environments stand; set {settings}, or alg.collect=closed_loop"
            )

    @property
    def epoch_steps(self) -> int:
        """Environment steps of one epoch."""
        return self.num_envs * self.objective.horizon

    def steps(self, epochs: int) -> int:
        """Return the environment steps of a run of so many epochs."""
        return self.num_envs * self._warmup_steps + epochs * self.epoch_steps

    @property
    def work(self) -> Work:
        """What an epoch computes besides updates of the world model."""
        lockstep = self.collect == "lockstep"
        rollouts = 1 if lockstep else self.actor_critic.actor_iterations
        # The actions that lockstep executes are those of the rollout.
        acted = 0 if lockstep else self.epoch_steps
        return Work(
            rollouts=rollouts,
            encoded=self.epoch_steps + rollouts * self.starts,
            acted=acted,
            predicted=self.objective.horizon * self.open_loop_envs,
            interrupted=lockstep,
            collecting=self.num_envs,
            warmup_steps=self._warmup_steps,
            warmup_updates=self.warmup_updates,
        )

    @property
    def _warmup_steps(self) -> int:
        """Steps of all environments before the first epoch."""
        return math.ceil(self.warmup_env_steps / self.num_envs)

    @property
    def starts(self) -> int:
        """Start states of one imagined rollout, the batch of the actor's gradient."""
        return self.num_envs if self.collect == "lockstep" else self.actor_batch_size

    @property
    def replayed_starts(self) -> int:
        """Start states of one imagined batch that come from the replay buffer."""
        return round(self.replay_starts * self.actor_batch_size)

    @property
    def open_loop_envs(self) -> int:
        """Environments that act on imagined latents in one epoch's ``closed_loop`` collection."""
        return round(self.open_loop_share * self.num_envs)
