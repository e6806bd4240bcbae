"""Learns a policy in a given world model and evaluates it in the real task (Georgiev et al. 2024, 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pwm.algorithm.actor_critic import Examples
from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import open_loop_error
from pwm.algorithm.losses import Metrics
from pwm.algorithm.returns import window_return
from pwm.data.batch import Batch
from pwm.data.offline.dataset import OfflineData
from pwm.envs.base import VectorEnv
from pwm.errors import DataError
from pwm.training.agent_trainer import AgentTrainer
from pwm.training.hooks import SafePoint, go_on
from pwm.training.trainer import Part
from pwm.training.trainers.extraction.options import Options

# Transitions on which the world model is judged before it is used.
JUDGED = 2048
COUNTERS = ("epoch", "updates", "velocity_evals")


class ExtractionTrainer(AgentTrainer):
    """Imagines from recorded observations of one task.

    Args:
        options: the training rule.
        agent: the agent, whose world model somebody else trained.
        data: recorded transitions of the task, in its own widths.
        eval_env: environment for evaluations.

    Attributes:
        updates: updates of the policy that are done.
    """

    def __init__(self, options: Options, agent: Agent, data: OfflineData, eval_env: VectorEnv) -> None:
        super().__init__(options.optimisation, agent, eval_env.spec, eval_env.device, eval_env)
        self.options, self.data = options, data
        self.data_digest = data.digest
        self.updates = 0

    @property
    def processed(self) -> int:
        """Transitions that were imagined."""
        return self.updates * self.options.actor_batch_size * self.data.horizon

    def warm_up(self, safe_point: SafePoint = go_on) -> None:
        """See that the world model is one of this task.

        Raises:
            DataError: it predicts the recorded transitions worse than allowed.
        """
        model, most = self.agent.world_model, self.options.max_model_error
        steps = self.data.horizon
        judged = self.data.spread(self.data.tasks[0], JUDGED).to(self.device)
        found = float(open_loop_error(model, judged, [steps]))
        if not found <= most:
            raise DataError(
                f"the world model does not fit {self.options.data}: {steps} steps ahead its error "
                f"on {self.spec.name} is {found:.3g} times that of predicting no change (allowed: {most:g}, "
                "alg.max_model_error). It may be one of another task, its inputs may be in another order "
                "(`pwm convert --from` names the project), or it may not be trained"
            )

    def parts(self) -> list[Part]:
        """Return updates of the policy, then of the world model."""
        opts = self.options
        policies = [self._improve_policy] * opts.actor_critic.actor_iterations
        return [*policies, *[self.improve_model] * opts.model_learning.wm_iterations]

    def _improve_policy(self, timer: Any) -> Metrics:
        self.updates += 1
        batch = self._transitions(self.agent.generator)
        z = self.encoded(batch.obs[0])
        examples = better_half(self.agent, z, batch) if self.options.actor_critic.behaviour_coef else None
        return self.improve_policy(timer, z, None, examples)

    def _transitions(self, generator: torch.Generator) -> Batch:
        return self.data.sample(self.options.actor_batch_size, generator).to(self.device)

    def starts(self, generator: torch.Generator) -> Tensor:
        """Latents of recorded observations."""
        return self.encoded(self._transitions(generator).obs[0])

    def windows(self, generator: torch.Generator) -> Batch:
        """Recorded transitions."""
        count = self.options.model_learning.wm_batch_size
        return self.data.sample(count, generator).to(self.device)

    def totals(self) -> dict[str, Tensor]:
        """Return the scale of rewards."""
        return {"reward_scale": self.agent.reward_scale.squeeze()}

    def describe(self, totals: Mapping[str, float]) -> dict[str, float]:
        """Return counters."""
        return {
            "env_steps": 0,
            "updates": self.updates,
            "velocity_evals": self.velocity_evals,
            "reward_scale": totals["reward_scale"],
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the data that is needed to continue."""
        return {
            "agent": self.agent.training_state(),
            "done": self.done,
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.agent.load_training_state(state["agent"])
        self.done = [{k: v.to(self.device) for k, v in part.items()} for part in state["done"]]
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])


@torch.no_grad()
def better_half(agent: Agent, z: Tensor, batch: Batch) -> Examples:
    """The recorded actions of windows that begin at latents ``z`` [B, L]; the better half of them counts.

    Better is a higher advantage: what was earned in the window, and the value behind it, over the value of
    its start. Data of several policies hold several ways of doing a thing, and their mean may be none. Wang
    et al. (2020, CRR) learn from actions with a positive advantage; the critics here learn in the model and
    may be wrong by any amount, alike in all states, so the median of the batch takes the place of zero.
    """
    learner = agent.actor_critic
    values = learner.target_critic(torch.stack([z, agent.world_model.encode(batch.obs[-1])])).mean(0)
    after = values[1] * ~(batch.terminated & batch.valid).any(0)
    earned = window_return(batch.reward / agent.reward_scale, batch.valid, after, learner.objective.gamma)
    advantage = earned - values[0]
    return Examples(batch.action[0], (advantage > advantage.median()).float())
