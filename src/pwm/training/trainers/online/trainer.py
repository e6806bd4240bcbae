"""Single-task online training: collect, then update actor, critic and world model.

``closed_loop`` collection acts on the encoded real observation and imagines from the visited states.
``lockstep`` (published PWM) acts from imagined latents: the actions of the imagined rollout are executed
in the environment, whose episode ends cut the rollout.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.losses import Feedback, Metrics
from pwm.data.batch import Batch
from pwm.data.offline.dataset import OfflineData
from pwm.data.replay import ReplayBuffer
from pwm.envs.base import StepResult, VectorEnv, check_observation, check_result
from pwm.errors import EnvError
from pwm.training.agent_trainer import AgentTrainer, named_divergence
from pwm.training.episode_statistics import EpisodeStatistics, episode_means
from pwm.training.hooks import SafePoint, go_on
from pwm.training.recorded import observe_data
from pwm.training.trainer import Part
from pwm.training.trainers.online.options import Options

COUNTERS = ("env_steps", "epoch", "velocity_evals", "warmup_updates", "prior_updates")


class PriorData(NamedTuple):
    """Recorded transitions of the task that the world model is fitted to first, and the updates for that."""

    data: OfflineData
    updates: int


class OnlineTrainer(AgentTrainer):
    """Owns the interaction of one agent with one environment.

    Args:
        options: the training rule.
        env: training environment with ``options.num_envs`` copies.
        agent: the agent; its generator also draws exploration and replay samples.
        eval_env: environment for evaluation only; without it nothing can be evaluated.
        prior: what the world model learns from before anything is collected.
    """

    replay: ReplayBuffer

    def __init__(
        self,
        options: Options,
        env: VectorEnv,
        agent: Agent,
        eval_env: VectorEnv | None = None,
        prior: PriorData | None = None,
    ) -> None:
        super().__init__(options.optimisation, agent, env.spec, env.device, eval_env)
        self.options = options
        self.horizon = options.objective.horizon
        self.env = env
        self.replay = ReplayBuffer(
            options.buffer_size,
            env.num_envs,
            env.spec.obs_dim,
            env.spec.act_dim,
            self.horizon,
            env.device,
            options.replay_recency,
        )
        self.episodes = EpisodeStatistics(env.num_envs, env.device)
        self.obs = env.reset()
        check_observation(env.spec.name, self.obs, "at reset")
        self.warmup_updates = 0
        self.prior, self.prior_updates = prior, 0
        self.data_digest = None if prior is None else prior.data.digest
        # Observations visited in the running epoch.
        self.visited = self.obs

    def close(self) -> None:
        """Close the environments."""
        self.env.close()
        super().close()

    def warm_up(self, safe_point: SafePoint = go_on) -> None:
        """Fit the world model to prior data, act at random, then train the world model on what was collected.

        Does what is left of it.
        """
        opts, n = self.options, self.env.num_envs
        self._learn_from_prior_data(safe_point)
        while self.env_steps < opts.warmup_env_steps:
            safe_point()
            uniform = torch.rand(n, self.env.spec.act_dim, generator=self.agent.generator, device=self.device)
            self._step(uniform * 2 - 1)
        while self.warmup_updates < opts.warmup_updates:
            safe_point()
            self.update_world_model()
            self.warmup_updates += 1
        self.check_finite()

    def _learn_from_prior_data(self, safe_point: SafePoint) -> None:
        if self.prior is None:
            return
        learner, generator, windows = self.model, self.agent.generator, self.model.options.wm_batch_size
        if not self.prior_updates:
            observe_data(learner, self.prior.data, generator)
        while self.prior_updates < self.prior.updates:
            safe_point()
            learner.update(self.prior.data.sample(windows, generator).to(self.device))
            self.prior_updates += 1

    @property
    def warm_up_share(self) -> float:
        """Share of the warm-up that is done; a step of all environments counts like an update."""
        opts, n = self.options, self.env.num_envs
        total = math.ceil(opts.warmup_env_steps / n) + opts.warmup_updates
        total += 0 if self.prior is None else self.prior.updates
        return (self.env_steps // n + self.warmup_updates + self.prior_updates) / total if total else 1.0

    def totals(self) -> dict[str, Tensor]:
        """Return sums over episodes, the age of the replay buffer, and the scale of rewards."""
        shown = {"replay/age": self.replay.mean_age, "reward_scale": self.agent.reward_scale.squeeze()}
        return self.episodes.flush() | shown

    def describe(self, totals: Mapping[str, float]) -> dict[str, float]:
        """Return counters, finished episodes, and the state of the replay buffer."""
        return episode_means(totals) | {
            "env_steps": self.env_steps,
            "velocity_evals": self.velocity_evals,
            "replay/size": len(self.replay),
            "replay/age": totals["replay/age"],
            "reward_scale": totals["reward_scale"],
        }

    def _step(self, action: Tensor) -> StepResult:
        with named_divergence():
            result = self.env.step(action)
        check_result(self.env.spec.name, result, f"after {self.env_steps} steps")
        self.replay.add(
            self.obs, action, result.reward, result.terminated, result.truncated, result.final_obs
        )
        self.agent.model.observe(self.obs, result.reward)
        self.episodes.add(result)
        self.obs = result.obs
        self.env_steps += self.env.num_envs
        return result

    def parts(self) -> list[Part]:
        """Return collection, updates of the policy, updates of the world model."""
        opts = self.options
        models = [self.improve_model] * opts.model_learning.wm_iterations
        if opts.collect == "lockstep":
            return [self._execute_imagined, *models]
        return [self._collect, *[self._improve_policy] * opts.actor_critic.actor_iterations, *models]

    def _collect(self, timer: Any) -> Metrics:
        """H steps; keeps the visited observations [H * N, obs_dim].

        In some environments, others in every epoch, the policy is shown the latents it would imagine instead
        of encoded observations. So plans are carried out that pay in imagination only, and the model sees
        what really comes of them.
        """
        model, visited = self.agent.world_model, []
        with timer("sim"), torch.no_grad():
            blind = self._open_loop_environments()
            imagined = torch.zeros(len(blind), model.latent_dim, device=blind.device)
            ended = torch.ones(self.env.num_envs, 1, dtype=torch.bool, device=blind.device)
            for _ in range(self.horizon):
                visited.append(self.obs)
                z = model.encode(self.obs)
                z[blind] = torch.where(ended[blind], z[blind], imagined)
                action = self.agent.actor_critic.explore(z)
                if len(blind):
                    imagined = model.next(z[blind], action[blind])
                result = self._step(action)
                ended = (result.terminated | result.truncated).unsqueeze(1)
        self.visited = torch.cat(visited)
        return {}

    def _open_loop_environments(self) -> Tensor:
        """Indices of the environments that act on imagined latents in this epoch."""
        count = self.options.open_loop_envs
        if not count:
            return torch.empty(0, dtype=torch.int64, device=self.device)
        order = torch.randperm(self.env.num_envs, generator=self.agent.generator, device=self.device)
        return order[:count]

    def starts(self, generator: torch.Generator) -> Tensor:
        """Latents of ``actor_batch_size`` observations: some just visited, some replayed."""
        visited = self.visited
        replayed = self.options.replayed_starts
        order = torch.randperm(len(visited), generator=generator, device=visited.device)
        obs = visited[order[: self.options.actor_batch_size - replayed]]
        if replayed:
            obs = torch.cat([obs, self.replay.sample(replayed, generator).obs[0]])
        return self.encoded(obs)

    def windows(self, generator: torch.Generator) -> Batch | None:
        """Replayed transitions; None before the first ones are collected."""
        if not len(self.replay):
            return None
        return self.replay.sample(self.options.model_learning.wm_batch_size, generator)

    def measured_starts(self, generator: torch.Generator) -> Tensor:
        """Draw the latents at which the actor's gradient is measured."""
        if self.options.collect != "lockstep":
            return self.starts(generator)
        # Training imagines from where the environments stand: one batch, which cannot be drawn again.
        return self.encoded(self.replay.sample(self.env.num_envs, generator).obs[0])

    @torch.no_grad()
    def _execute(self, _t: int, action: Tensor) -> Feedback:
        """Lockstep: execute an imagined action; tell the rollout which episodes ended."""
        result = self._step(action)
        ends = result.terminated | result.truncated
        return Feedback(ends, result.terminated, self.agent.world_model.encode(result.obs))

    def _execute_imagined(self, timer: Any) -> Metrics:
        """Lockstep: learn from the imagined rollout whose actions are executed."""
        return self.improve_policy(timer, self.encoded(self.obs), self._execute)

    def _improve_policy(self, timer: Any) -> Metrics:
        return self.improve_policy(timer, self.starts(self.agent.generator))

    def state_dict(self) -> dict[str, Any]:
        """Everything but the replay data that is needed to continue.

        On a CPU the run continues bit-identically if the environment can save its state.
        """
        try:
            env_state = self.env.state_dict()
        except EnvError:
            # Some suites cannot: a resumed run then starts new episodes.
            env_state = None
        return {
            "agent": self.agent.training_state(),
            "env": env_state,
            "episodes": self.episodes.state_dict(),
            "obs": self.obs.clone(),
            "visited": self.visited.clone(),
            "done": self.done,
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, after ``replay`` was loaded."""
        self.agent.load_training_state(state["agent"])
        for name in COUNTERS:
            # Runs of earlier releases had no prior data.
            setattr(self, name, state["counters"].get(name, 0))
        device = self.device
        self.visited = state["visited"].to(device)
        self.done = [{name: value.to(device) for name, value in part.items()} for part in state["done"]]
        if state["env"] is None:
            warnings.warn(
                f"{self.env.spec.name} cannot save its state: new episodes begin, so this run continues, "
                "but not bit by bit the one it would have been",
                RuntimeWarning,
                stacklevel=2,
            )
            self.obs = self.env.reset()
            self.replay.cut_episodes()
            return
        self.env.load_state_dict(state["env"])
        self.obs = state["obs"].to(device)
        self.episodes.load_state_dict(state["episodes"])
