"""Options of pretraining."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pwm import checks
from pwm.algorithm import model_learning, objective, updates
from pwm.envs.task_table import task_set, task_sets
from pwm.errors import ConfigError
from pwm.models import scalar_heads, world_model
from pwm.parts import PART
from pwm.training.work import UPDATES, Work

ALL = "all"


def _world_model() -> world_model.Options:
    """Sizes for several tasks: two-hot rewards of any size, observations as they are (as TD-MPC2)."""
    return world_model.Options(
        task_dim=64,
        obs_rms=False,
        predict_termination=False,
        reward_head=scalar_heads.Options(name="two_hot"),
    )


def _model_learning() -> model_learning.Options:
    return model_learning.Options(wm_iterations=100, wm_batch_size=1024, rew_rms=False)


@dataclass
class Options:
    """The training rule of the world model, and the data it learns from.

    Attributes:
        world_model, objective, model_learning, optimisation: the parts of the training rule. ``gamma`` is
            what TD-MPC2 calls rho; an epoch is ``wm_iterations`` updates.
        max_epochs: epochs of a whole run (``general.epochs`` overrides it).
        data: folder of the data set.
        tasks: ``all`` that it has data of, ``mt30``, ``mt80``, or names with commas. Of a single one the
            model has the widths and no task table.
        balanced: draw every task equally often, however much data it has.
        held_out: share of the segments of every task that is not learned from, but predicted in evaluations.
        held_out_windows: most windows of every task that an evaluation predicts, evenly spaced over its
            held-out segments. Its time is proportional to them.
        accumulate: parts of a batch whose gradients are added up one after the other, to save memory.
    """

    progress: ClassVar[str] = UPDATES

    world_model: world_model.Options = field(default_factory=_world_model, metadata=PART)
    objective: objective.Options = field(default_factory=objective.Options, metadata=PART)
    model_learning: model_learning.Options = field(default_factory=_model_learning, metadata=PART)
    optimisation: updates.Options = field(default_factory=updates.Options, metadata=PART)
    max_epochs: int = 1000
    data: str = ""
    tasks: str = ALL
    balanced: bool = False
    held_out: float = 0.02
    held_out_windows: int = 64
    accumulate: int = 1

    def __post_init__(self) -> None:
        checks.at_least_one(self, "max_epochs", "accumulate", "held_out_windows")
        if not 0.0 < self.held_out < 1.0:
            raise ConfigError(f"alg.held_out={self.held_out}; it must be above 0 and below 1")
        if self.model_learning.wm_iterations < 1:
            raise ConfigError("alg.wm_iterations=0; an epoch of pretraining has at least one update")
        if self.accumulate > self.model_learning.wm_batch_size:
            raise ConfigError(
                f"alg.accumulate={self.accumulate} parts of alg.wm_batch_size="
                f"{self.model_learning.wm_batch_size} windows; there cannot be more parts than windows"
            )

    def task_names(self) -> list[str] | None:
        """Names of the tasks; None for all that there are data of."""
        if self.tasks == ALL:
            return None
        if self.tasks in task_sets():
            return [row.name for row in task_set(self.tasks).rows]
        return [name.strip() for name in self.tasks.split(",")]

    @property
    def epoch_steps(self) -> int:
        """What an epoch counts as where evaluations are that many apart: its updates."""
        return self.model_learning.wm_iterations

    def steps(self, epochs: int) -> int:
        """Return the updates of the world model in a run of so many epochs."""
        return epochs * self.model_learning.wm_iterations

    @property
    def work(self) -> Work:
        """What an epoch computes besides updates of the world model: nothing."""
        return Work()
