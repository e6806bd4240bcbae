"""The agent: a world model that learns, and the actor and critics that learn in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from pwm.algorithm import actor_critic, model_learning, objective, updates
from pwm.algorithm.actor_critic import ActorCritic
from pwm.algorithm.model_learning import ModelLearner
from pwm.algorithm.updates import Updater
from pwm.envs.base import restore_generator
from pwm.models import world_model
from pwm.models.actors.base import Actor, load_actor
from pwm.models.critic import CriticEnsemble
from pwm.models.tasks import told_policy
from pwm.models.world_model import WorldModel, build_world_model


class Options(Protocol):
    """The parts of options that an agent is built from."""

    world_model: world_model.Options
    objective: objective.Options
    optimisation: updates.Options
    model_learning: model_learning.Options
    actor_critic: actor_critic.Options


class Agent:
    """Everything that learns.

    Args:
        options: sizes and training rule.
        chosen: ``Options`` of its components ``dynamics`` and ``actor``.
        obs_dim, act_dim: widths of observations and actions.
        generator: source of every random draw (noise, minibatches, flow times); None draws from the global
            one.
        device: where it lives.
        action_masks: float32 [n_tasks, act_dim] of 0 and 1, the entries of the action that each of several
            tasks has; None for a single task.

    Attributes:
        model: the world model's learner.
        actor_critic: the learner of actor and critics.
    """

    def __init__(
        self,
        options: Options,
        chosen: Mapping[str, Any],
        obs_dim: int,
        act_dim: int,
        generator: torch.Generator | None,
        device: torch.device | str = "cpu",
        action_masks: Tensor | None = None,
    ) -> None:
        self._generator = generator
        self.objective = options.objective
        shared = options.objective, options.optimisation
        sizes, n_tasks = options.world_model, 0 if action_masks is None else len(action_masks)
        model = build_world_model(sizes, chosen["dynamics"], obs_dim, act_dim, n_tasks).to(device)
        state_dim = model.latent_dim + model.told_dim
        actor = load_actor(chosen["actor"].name).build(chosen["actor"], state_dim, act_dim).to(device)
        self.model = ModelLearner(options.model_learning, *shared, model, generator)
        self.actor_critic = ActorCritic(
            options.actor_critic, *shared, actor, state_dim, generator, action_masks
        )

    @property
    def generator(self) -> torch.Generator:
        """Source of every random draw of this agent alone."""
        assert self._generator is not None, "this agent draws from the global generator"
        return self._generator

    @property
    def world_model(self) -> WorldModel:
        """The model in which the actor imagines."""
        return self.model.world_model

    @property
    def actor(self) -> Actor:
        """The policy that explores and learns."""
        return self.actor_critic.actor

    @property
    def policy(self) -> Actor:
        """The policy that is evaluated and kept: the actor, or its average."""
        return self.actor_critic.policy

    @property
    def critic(self) -> CriticEnsemble:
        """The ensemble of value functions."""
        return self.actor_critic.critic

    @property
    def updaters(self) -> dict[str, Updater]:
        """The optimisers, by the names that metrics use."""
        return {"wm": self.model.updater, **self.actor_critic.updaters}

    @torch.no_grad()
    def act(self, obs: Tensor, deterministic: bool = False, task: Tensor | None = None) -> Tensor:
        """Return actions [N, act_dim] in [-1, 1] for observations [N, obs_dim], each encoded afresh.

        ``policy`` acts if ``deterministic``, else the actor with its noise; ``task`` is int64 [N] where there
        are several.
        """
        z, inputs = self.world_model.encode(obs, task), self.actor_critic.inputs(self.world_model, task)
        return (
            told_policy(self.policy, inputs).act(z) if deterministic else self.actor_critic.explore(z, inputs)
        )

    @property
    def reward_scale(self) -> Tensor:
        """Environment reward that one unit of the model's reward is worth, shape [1]."""
        return self.model.reward_scale

    def state_dict(self) -> dict[str, Tensor]:
        """Return parameters and statistics of all modules."""
        return {**self.model.state_dict(), **self.actor_critic.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take parameters and statistics from ``state``.

        Raises:
            RuntimeError: an entry is missing, is not known, or has another shape.
        """
        left = dict(state)
        for learner in (self.model, self.actor_critic):
            own = {key: left.pop(key) for key in learner.state_dict() if key in left}
            learner.load_state_dict(own)
        if left:
            raise RuntimeError(f"unexpected entries: {', '.join(sorted(left))}")

    def training_state(self) -> dict[str, Any]:
        """Return modules, optimisers and the random stream: all that training needs to continue."""
        return {
            "modules": self.state_dict(),
            "updaters": {name: updater.state_dict() for name, updater in self.updaters.items()},
            "generator": self.generator.get_state(),
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, which may have been saved on another device."""
        self.load_state_dict(state["modules"])
        for name, updater in self.updaters.items():
            updater.load_state_dict(state["updaters"][name])
        restore_generator(self.generator, state["generator"])
