"""Single-task online training: collect, then update actor, critic and world model.

``closed_loop`` collection acts on the encoded real observation and imagines from the visited states.
``lockstep`` (published PWM) acts from imagined latents: the actions of the imagined rollout are executed
in the environment, whose episode ends cut the rollout.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import imagination_gap, latent_errors, value_calibration
from pwm.algorithm.gradient_moments import GradientMoments
from pwm.algorithm.gradient_quality import MICRO_BATCHES, actor_gradient, model_gradient, report
from pwm.algorithm.losses import Feedback, Interrupt, Metrics, reach_weights
from pwm.algorithm.model_learning import ModelLearner
from pwm.algorithm.updates import Updater
from pwm.data.batch import Recorded
from pwm.data.replay import ReplayBuffer
from pwm.envs.base import StepResult, VectorEnv, check_observation, check_result
from pwm.errors import ActionError, EnvError, NonFiniteError
from pwm.training.episode_statistics import EpisodeStatistics
from pwm.training.evaluation import Recording, evaluate
from pwm.training.hooks import SafePoint, go_on
from pwm.training.trainer import Part, Trainer
from pwm.training.trainers.online.options import Options

COUNTERS = ("env_steps", "epoch", "velocity_evals", "warmup_updates")


class OnlineTrainer(Trainer):
    """Owns the interaction of one agent with one environment.

    Args:
        options: the training rule.
        env: training environment with ``options.num_envs`` copies.
        agent: the agent; its generator also draws exploration and replay samples.
        eval_env: environment for evaluation only; without it nothing can be evaluated.
    """

    replay: ReplayBuffer

    def __init__(
        self, options: Options, env: VectorEnv, agent: Agent, eval_env: VectorEnv | None = None
    ) -> None:
        super().__init__(options.optimisation, env.spec, env.device)
        self.options = options
        self.horizon = options.objective.horizon
        self.env = env
        self.agent = agent
        self.eval_env = eval_env
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
        self.velocity_evals = 0
        self.warmup_updates = 0
        # Observations visited in the running epoch.
        self.visited = self.obs

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

    def close(self) -> None:
        """Close the environments."""
        self.env.close()
        if self.eval_env is not None:
            self.eval_env.close()

    def warm_up(self, safe_point: SafePoint = go_on) -> None:
        """Act at random, then train the world model alone, as configured; does what is left of it."""
        opts, n = self.options, self.env.num_envs
        while self.env_steps < opts.warmup_env_steps:
            safe_point()
            uniform = torch.rand(n, self.env.spec.act_dim, generator=self.agent.generator, device=self.device)
            self._step(uniform * 2 - 1)
        while self.warmup_updates < opts.warmup_updates:
            safe_point()
            self._update_world_model()
            self.warmup_updates += 1
        self.check_finite()

    @property
    def warm_up_share(self) -> float:
        """Share of the warm-up that is done; a step of all environments counts like an update."""
        opts, n = self.options, self.env.num_envs
        total = math.ceil(opts.warmup_env_steps / n) + opts.warmup_updates
        return (self.env_steps // n + self.warmup_updates) / total if total else 1.0

    def describe(self) -> dict[str, float]:
        """Return counters, finished episodes, and the state of the replay buffer."""
        return self.episodes.flush() | {
            "env_steps": self.env_steps,
            "velocity_evals": self.velocity_evals,
            "replay/size": len(self.replay),
            "replay/age": self.replay.mean_age,
            "reward_scale": float(self.agent.reward_scale),
        }

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
        return {
            "eval/episode_return": result.mean,
            "eval/episode_return_std": result.std,
            "eval/episode_length": result.mean_length,
        } | self.diagnose(recording.stacked())

    def diagnose(self, recorded: Recorded) -> dict[str, float]:
        """Errors of model and critic: on replayed windows (``wm/``), on ``recorded`` episodes (``eval/``)."""
        found = value_calibration(self.agent, recorded) | imagination_gap(self.agent, recorded)
        record = {f"eval/{name}": value for name, value in found.items()}
        if len(self.replay):
            # Sampled apart from the training stream, so that diagnostics never change a run.
            generator = torch.Generator(self.device).manual_seed(self.epoch)
            batch = self.replay.sample(self.options.model_learning.wm_batch_size, generator)
            errors = latent_errors(self.agent.world_model, batch)
            record |= {f"wm/{name}": value for name, value in errors.items()}
        return record

    def gradient_quality(self, safe_point: SafePoint = go_on) -> dict[str, float]:
        """Signal and noise of the gradients of actor (``actor/``) and world model (``wm/``), as they stand.

        Each is taken ``MICRO_BATCHES`` times, on batches of the size that training uses. Nothing of the run
        changes: interrupted at a ``safe_point``, it is simply repeated.
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
        return record

    def _actor_gradient(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        if self.options.collect == "lockstep":
            # Training imagines from where the environments stand: one batch, which cannot be drawn again.
            z = self._encoded(self.replay.sample(self.env.num_envs, generator).obs[0])
        else:
            z = self._starts(generator)
        return actor_gradient(self.agent, z, generator)

    def _model_gradient(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        batch = self.replay.sample(self.options.model_learning.wm_batch_size, generator)
        return model_gradient(self.agent.model, batch, generator)

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
        models = [self._improve_model] * opts.model_learning.wm_iterations
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

    def _starts(self, generator: torch.Generator) -> Tensor:
        """Latents of ``actor_batch_size`` observations: some just visited, some replayed."""
        visited = self.visited
        replayed = self.options.replayed_starts
        order = torch.randperm(len(visited), generator=generator, device=visited.device)
        obs = visited[order[: self.options.actor_batch_size - replayed]]
        if replayed:
            obs = torch.cat([obs, self.replay.sample(replayed, generator).obs[0]])
        return self._encoded(obs)

    @torch.no_grad()
    def _encoded(self, obs: Tensor) -> Tensor:
        return self.agent.world_model.encode(obs)

    @torch.no_grad()
    def _execute(self, _t: int, action: Tensor) -> Feedback:
        """Lockstep: execute an imagined action; tell the rollout which episodes ended."""
        result = self._step(action)
        ends = result.terminated | result.truncated
        return Feedback(ends, result.terminated, self.agent.world_model.encode(result.obs))

    def _execute_imagined(self, timer: Any) -> Metrics:
        """Lockstep: learn from the imagined rollout whose actions are executed."""
        return self._update_policy(timer, self._encoded(self.obs), self._execute)

    def _improve_policy(self, timer: Any) -> Metrics:
        return self._update_policy(timer, self._starts(self.agent.generator))

    def _update_policy(self, timer: Any, z: Tensor, interrupt: Interrupt | None = None) -> Metrics:
        with timer("actor"):
            learner = self.agent.actor_critic
            rollout, targets, actor = learner.update_actor(self.agent.world_model, z, interrupt)
        with timer("critic"):
            latents = rollout.latents.detach().flatten(0, 1)
            weights = reach_weights(rollout).flatten()
            critic = learner.update_critic(latents, targets.flatten(), weights)
        self.velocity_evals += rollout.rewards.numel() * self.agent.world_model.dynamics.velocity_evals
        return _named("actor", actor) | _named("critic", critic)

    def _improve_model(self, timer: Any) -> Metrics:
        with timer("wm"):
            return _named("wm", self._update_world_model())

    def _update_world_model(self) -> Metrics:
        windows = self.options.model_learning.wm_batch_size
        return self.agent.model.update(self.replay.sample(windows, self.agent.generator))

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
            setattr(self, name, state["counters"][name])
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


def _named(phase: str, metrics: Metrics) -> Metrics:
    return {f"{phase}/{name}": value for name, value in metrics.items()}
