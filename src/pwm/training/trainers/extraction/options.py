"""Options of extraction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pwm import checks
from pwm.algorithm import actor_critic, model_learning, objective, updates
from pwm.models import world_model
from pwm.parts import PART
from pwm.training.work import UPDATES, Work


def _model_learning() -> model_learning.Options:
    # The world model is used as it is, unless asked otherwise.
    return model_learning.Options(wm_iterations=0)


@dataclass
class Options:
    """The training rule, and the data whose observations imagination starts from.

    Attributes:
        world_model, objective, model_learning, actor_critic, optimisation: the parts of the training rule. An
            epoch is ``actor_iterations`` updates of the policy and ``wm_iterations`` of the world model; 0 of
            the latter keep it frozen.
        max_epochs: epochs of a whole run (``general.epochs`` overrides it).
        data: folder of the data set.
        actor_batch_size: observations from which one update of the policy imagines.
        max_model_error: largest error of the world model on the data, ``horizon`` steps ahead and relative to
            "no change" (which is 1), with which a run begins. A model of another task, or one whose inputs
            are in another order, is far above it.
    """

    progress: ClassVar[str] = UPDATES

    world_model: world_model.Options = field(default_factory=world_model.Options, metadata=PART)
    objective: objective.Options = field(default_factory=objective.Options, metadata=PART)
    model_learning: model_learning.Options = field(default_factory=_model_learning, metadata=PART)
    actor_critic: actor_critic.Options = field(default_factory=actor_critic.Options, metadata=PART)
    optimisation: updates.Options = field(default_factory=updates.Options, metadata=PART)
    max_epochs: int = 1000
    data: str = ""
    actor_batch_size: int = 512
    max_model_error: float = 1.0

    def __post_init__(self) -> None:
        checks.at_least_one(self, "max_epochs", "actor_batch_size")
        checks.positive(self, "max_model_error")

    @property
    def starts(self) -> int:
        """Start states of one imagined rollout, the batch of the actor's gradient."""
        return self.actor_batch_size

    @property
    def epoch_steps(self) -> int:
        """What an epoch counts as where evaluations are that many apart: its updates, times 50."""
        return 50 * self.actor_critic.actor_iterations

    def steps(self, epochs: int) -> int:
        """Return the updates of the policy in a run of so many epochs."""
        return epochs * self.actor_critic.actor_iterations

    @property
    def work(self) -> Work:
        """What an epoch computes besides updates of the world model."""
        rollouts = self.actor_critic.actor_iterations
        return Work(rollouts=rollouts, encoded=rollouts * self.starts)
