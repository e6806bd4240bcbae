"""What actor and critics are told where one model serves several tasks.

Networks that know tasks read the task's embedding behind the latent. Observations and actions are padded to
the widest task; entries of the action that a task does not have are zero and have no density.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pwm.models.actors.base import Actor, Decision
from pwm.models.critic import CriticEnsemble
from pwm.models.layers import concat_inputs


@dataclass(frozen=True)
class TaskInputs:
    """The task of each of B states.

    Attributes:
        task: ids, int64 [B].
        embedding: their rows of the task table [B, E]; gradient does not reach the table.
        action_mask: [B, act_dim] float32, 1 for the entries of the action that the task has.
    """

    task: Tensor
    embedding: Tensor
    action_mask: Tensor


class TaskPolicy:
    """An actor that is told of which task every state is.

    Args:
        actor: reads [..., L + E].
        inputs: tasks of the states on the last axis but one.
    """

    def __init__(self, actor: Actor, inputs: TaskInputs) -> None:
        self.actor, self.inputs = actor, inputs

    def decide(self, z: Tensor, noise: Tensor | None = None) -> Decision:
        """Return the decision at latents z [..., B, L], restricted to the entries that the tasks have."""
        action, location, log_prob = self.actor.decide(concat_inputs(z, self.inputs.embedding), noise)
        mask = self.inputs.action_mask
        return Decision(action * mask, location * mask, None if log_prob is None else log_prob * mask)

    def act(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the actions [..., B, act_dim] of ``decide``."""
        return self.decide(z, noise).action


class TaskCritic:
    """Critics that are told of which task every state is.

    Args:
        critic: reads [..., L + E].
        inputs: tasks of the states on the last axis but one.
    """

    def __init__(self, critic: CriticEnsemble, inputs: TaskInputs) -> None:
        self.critic, self.inputs = critic, inputs

    def __call__(self, z: Tensor) -> Tensor:
        """Return values [M, ..., B] of latents z [..., B, L]."""
        values: Tensor = self.critic(concat_inputs(z, self.inputs.embedding), self.inputs.task)
        return values

    def minimum(self, z: Tensor) -> Tensor:
        """Return the smallest member value [..., B] of latents z [..., B, L]."""
        return self(z).amin(0)


def told_policy(actor: Actor, inputs: TaskInputs | None) -> Actor | TaskPolicy:
    """Return ``actor`` as it acts on states of the tasks in ``inputs``, or as it is without tasks."""
    return actor if inputs is None else TaskPolicy(actor, inputs)


def told_critic(critic: CriticEnsemble, inputs: TaskInputs | None) -> CriticEnsemble | TaskCritic:
    """Return ``critic`` as it values states of the tasks in ``inputs``, or as it is without tasks."""
    return critic if inputs is None else TaskCritic(critic, inputs)
