"""Options of single-task online training, checked together before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pwm.algorithm import agent
from pwm.errors import ConfigError

COLLECT_MODES = ("closed_loop", "lockstep")
# Share of the decay that is done, from the share of its time that has passed.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda passed: passed,
    "cosine": lambda passed: 0.5 - 0.5 * math.cos(math.pi * passed),
    "constant": lambda passed: 0.0,
}


@dataclass
class Options(agent.Options):
    """The training rule and the loop around it.

    Attributes:
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
        lr_schedule: ``linear`` or ``cosine`` decay that reaches ``lr_final`` as the last epoch ends, or
            ``constant``.
        lr_decay_start: when the decay begins: after this share of the run, or, above 1, after so many epochs.
            A run of fewer epochs keeps its initial rates.
        lr_final: learning rate at the end of the decay.
    """

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
    lr_schedule: str = "linear"
    lr_decay_start: float = 0.0
    lr_final: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.collect not in COLLECT_MODES:
            raise ConfigError(f"alg.collect={self.collect!r}; choose one of: {', '.join(COLLECT_MODES)}")
        if self.lr_schedule not in SCHEDULES:
            raise ConfigError(f"alg.lr_schedule={self.lr_schedule!r}; choose one of: {', '.join(SCHEDULES)}")
        start = self.lr_decay_start
        if not (0.0 <= start < 1.0 or 1.0 < start < math.inf):
            raise ConfigError(
                f"alg.lr_decay_start={start}; it must be a share of the run in [0, 1), or a number of epochs "
                "above 1"
            )
        for key in ("max_epochs", "num_envs", "actor_batch_size", "actor_iterations"):
            if getattr(self, key) < 1:
                raise ConfigError(f"alg.{key}={getattr(self, key)}; it must be at least 1")
        for key in ("warmup_env_steps", "warmup_updates", "lr_final"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"alg.{key}={getattr(self, key)}; it must be finite and not negative")
        if not 1.0 <= self.replay_recency < math.inf:
            raise ConfigError(f"alg.replay_recency={self.replay_recency}; it must be finite and at least 1")
        for key in ("replay_starts", "open_loop_share"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise ConfigError(f"alg.{key}={getattr(self, key)}; it must lie in [0, 1]")
        if self.task_dim:
            raise ConfigError(
                f"alg.task_dim={self.task_dim} needs a multi-task model; online training learns a single "
                "task, where it must be 0"
            )
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Buffer, warm-up and start states fit the number of environments and the horizon."""
        rows = self.num_envs * (self.horizon + 2)
        if self.buffer_size < rows:
            raise ConfigError(
                f"alg.buffer_size={self.buffer_size} is too small; it must be at least "
                f"num_envs * (horizon + 2) = {rows}"
            )
        steps = self.num_envs * (self.horizon + 1)
        if self.warmup_updates and self.warmup_env_steps < steps:
            raise ConfigError(
                f"alg.warmup_env_steps={self.warmup_env_steps} is too few for alg.warmup_updates="
                f"{self.warmup_updates}; it must be at least num_envs * (horizon + 1) = {steps}"
            )
        visited, needed = self.num_envs * self.horizon, self.actor_batch_size - self.replayed_starts
        if self.collect == "closed_loop" and needed > visited:
            raise ConfigError(
                f"alg.actor_batch_size={self.actor_batch_size} with alg.replay_starts={self.replay_starts} "
                f"needs {needed} states visited in one epoch; there are num_envs * horizon = {visited}"
            )
        if self.collect == "lockstep":
            self._check_lockstep()

    def _check_lockstep(self) -> None:
        """Refuse what lockstep collection has no use for, instead of ignoring it."""
        needed = {"actor_iterations": 1, "replay_starts": 0, "open_loop_share": 0}
        ignored = [
            f"alg.{key}={getattr(self, key)}" for key, value in needed.items() if getattr(self, key) != value
        ]
        if ignored:
            settings = " ".join(f"alg.{key}={value}" for key, value in needed.items())
            raise ConfigError(
                f"{', '.join(ignored)}: alg.collect=lockstep executes the one imagined rollout it learns "
                f"from, where the environments stand; set {settings}, or alg.collect=closed_loop"
            )

    def decay(self, epoch: int, epochs: int) -> float:
        """Share of the way from the initial learning rates to ``lr_final`` after ``epoch`` of ``epochs``."""
        start = self.lr_decay_start if self.lr_decay_start < 1.0 else self.lr_decay_start / epochs
        if start >= 1.0:
            return 0.0
        return SCHEDULES[self.lr_schedule](max(epoch / epochs - start, 0.0) / (1.0 - start))

    @property
    def replayed_starts(self) -> int:
        """Start states of one imagined batch that come from the replay buffer."""
        return round(self.replay_starts * self.actor_batch_size)

    @property
    def open_loop_envs(self) -> int:
        """Environments that act on imagined latents in one epoch's ``closed_loop`` collection."""
        return round(self.open_loop_share * self.num_envs)
