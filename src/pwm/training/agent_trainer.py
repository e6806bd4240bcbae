"""What trainers of an agent have in common: updates, evaluation in an environment, diagnostics.

Where start states and training windows come from is theirs: an environment to explore, or recorded data.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pwm.algorithm.actor_critic import Examples
from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import forecast_scores, imagination_gap, latent_errors, value_calibration
from pwm.algorithm.gradient_moments import GradientMoments
from pwm.algorithm.gradient_quality import MICRO_BATCHES, actor_gradient, model_gradient, report, stretch_db
from pwm.algorithm.losses import Interrupt, Metrics, reach_weights
from pwm.algorithm.model_learning import ModelLearner
from pwm.algorithm.updates import Options, Updater
from pwm.data.batch import Batch, Recorded
from pwm.envs.base import EnvSpec, VectorEnv
from pwm.errors import ActionError, NonFiniteError
from pwm.training.evaluation import Recording, evaluate
from pwm.training.hooks import SafePoint, go_on
from pwm.training.trainer import Trainer


class AgentTrainer(Trainer):
    """Trains an agent for one task.

    Args:
        optimisation: what all optimisers share.
        agent: the agent; its generator draws everything that is random.
        spec: the task.
        device: where the agent is.
        eval_env: environment for evaluation only; without it nothing can be evaluated.
    """

    def __init__(
        self,
        optimisation: Options,
        agent: Agent,
        spec: EnvSpec,
        device: torch.device,
        eval_env: VectorEnv | None,
    ) -> None:
        super().__init__(optimisation, spec, device)
        self.agent = agent
        self.eval_env = eval_env
        self.velocity_evals = 0

    @abstractmethod
    def starts(self, generator: torch.Generator) -> Tensor:
        """Draw latents [B, L] from which the actor imagines."""

    @abstractmethod
    def windows(self, generator: torch.Generator) -> Batch | None:
        """Draw a batch of transitions for the world model; None while there are none."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """World model, actor and critics."""
        agent = self.agent
        return {"world_model": agent.world_model, "actor": agent.actor, "critic": agent.critic}

    @property
    def updaters(self) -> Mapping[str, Updater]:
        """The agent's optimisers."""
        return self.agent.updaters

    @property
    def learner(self) -> Agent:
        """The agent."""
        return self.agent

    @property
    def model(self) -> ModelLearner:
        """The world model's learner."""
        return self.agent.model

    @torch.no_grad()
    def encoded(self, obs: Tensor) -> Tensor:
        """Latents [B, L] of observations [B, obs_dim]."""
        return self.agent.world_model.encode(obs)

    def improve_policy(
        self,
        timer: Any,
        z: Tensor,
        interrupt: Interrupt | None = None,
        examples: Examples | None = None,
    ) -> Metrics:
        """Update actor and critics on rollouts from ``z`` [B, L]; see ``ActorCritic.update_actor``."""
        with timer("actor"):
            learner, model = self.agent.actor_critic, self.agent.world_model
            rollout, targets, actor = learner.update_actor(model, z, interrupt, None, examples)
        with timer("critic"):
            latents = rollout.latents.detach().flatten(0, 1)
            weights = reach_weights(rollout).flatten()
            critic = learner.update_critic(latents, targets.flatten(), weights)
        self.velocity_evals += rollout.rewards.numel() * self.agent.world_model.dynamics.velocity_evals
        return named("actor", actor) | named("critic", critic)

    def improve_model(self, timer: Any) -> Metrics:
        """Update the world model on one batch."""
        with timer("wm"):
            return named("wm", self.update_world_model())

    def update_world_model(self) -> Metrics:
        """Take one step on one batch of ``windows``."""
        batch = self.windows(self.agent.generator)
        assert batch is not None, "there are no transitions to learn from"
        return self.agent.model.update(batch)

    def evaluate(self, episodes: int, safe_point: SafePoint = go_on) -> dict[str, float]:
        """Return the policy's returns in whole ``episodes``, and how right model and critic are in them."""
        assert self.eval_env is not None, "built without an environment for evaluation"

        def act(obs: Tensor) -> Tensor:
            # An evaluation changes nothing: interrupted, it is simply repeated.
            safe_point()
            return self.agent.act(obs, deterministic=True)

        recording = Recording()
        with named_divergence():
            result = evaluate(self.eval_env, act, episodes, recording=recording)
        success = {f"eval/{name}": value for name, value in result.success.items()}
        return {
            "eval/episode_return": result.mean,
            "eval/episode_return_std": result.std,
            "eval/episode_length": result.mean_length,
            **success,
        } | self.diagnose(recording.stacked())

    def diagnose(self, recorded: Recorded) -> dict[str, float]:
        """Errors of model and critic: on training windows (``wm/``), on ``recorded`` episodes (``eval/``)."""
        found = value_calibration(self.agent, recorded) | imagination_gap(self.agent, recorded)
        record = {f"eval/{name}": value for name, value in found.items()}
        # Sampled apart from the training stream, so that diagnostics never change a run.
        generator = torch.Generator(self.device).manual_seed(self.epoch)
        batch = self.windows(generator)
        if batch is not None:
            model = self.agent.world_model
            errors = latent_errors(model, batch) | forecast_scores(model, batch, generator)
            record |= {f"wm/{name}": value for name, value in errors.items()}
        return record

    def gradient_quality(self, safe_point: SafePoint = go_on) -> dict[str, float]:
        """Signal and noise of the gradients of actor (``actor/``) and world model (``wm/``), as they stand.

        Each is taken ``MICRO_BATCHES`` times, on batches of the size that training uses. How much imagined
        rollouts stretch them is measured once. Nothing of the run changes: interrupted at a ``safe_point``,
        it is simply repeated.
        """
        # Drawn apart from the training stream, like the batches of ``diagnose``.
        generator = torch.Generator(self.device).manual_seed(self.epoch)
        record: dict[str, float] = {}
        for network, gradient in (("actor", self._actor_gradient), ("wm", self._model_gradient)):
            moments = GradientMoments()
            for _ in range(MICRO_BATCHES):
                safe_point()
                moments.add(gradient(generator))
            record |= {f"{network}/{name}": value for name, value in report(moments).items()}
        stretch = stretch_db(self.agent, self.measured_starts(generator), generator)
        return record | {"wm/stretch_db": float(stretch)}

    def measured_starts(self, generator: torch.Generator) -> Tensor:
        """Draw the latents at which the actor's gradient is measured: those of training."""
        return self.starts(generator)

    def _actor_gradient(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        return actor_gradient(self.agent, self.measured_starts(generator), generator)

    def _model_gradient(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        batch = self.windows(generator)
        assert batch is not None, "there are no transitions to take a gradient on"
        return model_gradient(self.agent.model, batch, generator)

    def close(self) -> None:
        """Close the environment of evaluations."""
        if self.eval_env is not None:
            self.eval_env.close()


@contextmanager
def named_divergence() -> Iterator[None]:
    """Say of actions that no environment can execute what made them so.

    Raises:
        NonFiniteError: the policy's actions are not finite.
    """
    try:
        yield
    except ActionError as error:
        raise NonFiniteError(
            f"training diverged, the policy no longer gives numbers: {error}; lower alg.actor_lr, "
            "alg.critic_lr or alg.model_lr"
        ) from error


def named(phase: str, metrics: Metrics) -> Metrics:
    """Return ``metrics`` under names that begin with ``phase``."""
    return {f"{phase}/{name}": value for name, value in metrics.items()}
