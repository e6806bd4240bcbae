"""Single-task online training: collect, then update actor, critic and world model.

``closed_loop`` collection acts on the encoded real observation and imagines from the visited states.
``lockstep`` (published PWM) acts from imagined latents: the actions of the imagined rollout are executed
in the environment, whose episode ends cut the rollout.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import checked_steps, imagination_gap, open_loop_error, value_calibration
from pwm.algorithm.gradient_moments import GradientMoments
from pwm.algorithm.gradient_quality import MICRO_BATCHES, actor_gradient, model_gradient, report
from pwm.algorithm.losses import Feedback, Interrupt, Metrics, reach_weights
from pwm.data.batch import Recorded
from pwm.data.replay import ReplayBuffer
from pwm.envs.base import StepResult, VectorEnv, check_observation, check_result
from pwm.errors import ActionError, EnvError, NonFiniteError
from pwm.training.episode_statistics import EpisodeStatistics
from pwm.training.hooks import SafePoint, go_on
from pwm.training.options import Options

COUNTERS = ("env_steps", "epoch", "velocity_evals", "warmup_updates")


class OnlineTrainer:
    """Owns the interaction of one agent with one environment.

    Args:
        options: the training rule.
        env: training environment with ``options.num_envs`` copies.
        agent: the agent; its generator also draws exploration and replay samples.
    """

    def __init__(self, options: Options, env: VectorEnv, agent: Agent) -> None:
        self.options = options
        self.env = env
        self.agent = agent
        self.replay = ReplayBuffer(
            options.buffer_size,
            env.num_envs,
            env.spec.obs_dim,
            env.spec.act_dim,
            options.horizon,
            env.device,
            options.replay_recency,
        )
        self.episodes = EpisodeStatistics(env.num_envs, env.device)
        self.obs = env.reset()
        check_observation(env.spec.name, self.obs, "at reset")
        self.env_steps = 0
        self.epoch = 0
        self.velocity_evals = 0
        self.warmup_updates = 0
        # Where the running epoch is: metrics of every part of it that is done, observations visited in it.
        self.done: list[Metrics] = []
        self.visited = self.obs

    def warm_up(self, safe_point: SafePoint = go_on) -> None:
        """Act at random, then train the world model alone, as configured; does what is left of it."""
        opts, n = self.options, self.env.num_envs
        while self.env_steps < opts.warmup_env_steps:
            safe_point()
            uniform = torch.rand(
                n, self.env.spec.act_dim, generator=self.agent.generator, device=self.env.device
            )
            self._step(uniform * 2 - 1)
        while self.warmup_updates < opts.warmup_updates:
            safe_point()
            self._update_world_model()
            self.warmup_updates += 1
        self.agent.check_finite()

    @property
    def warm_up_share(self) -> float:
        """Share of the warm-up that is done; a step of all environments counts like an update."""
        opts, n = self.options, self.env.num_envs
        total = math.ceil(opts.warmup_env_steps / n) + opts.warmup_updates
        return (self.env_steps // n + self.warmup_updates) / total if total else 1.0

    def run_epoch(self, decay: float, timer: Any, safe_point: SafePoint = go_on) -> dict[str, float]:
        """One epoch: ``horizon`` steps of every environment and all updates; does what is left of it.

        Args:
            decay: share of the way from the initial learning rates to the final one, see ``Options.decay``.
            timer: context-manager factory ``timer(name)`` for the phases sim, wm, actor and critic.
            safe_point: called before every update.

        Returns:
            Flat record of metrics.
        """
        rates = self.agent.set_lr_fraction(decay, self.options.lr_final)
        for part in self._parts()[len(self.done) :]:
            safe_point()
            self.done.append(part(timer))
        self.agent.check_finite()
        self.epoch += 1
        record = {f"lr/{name}": rate for name, rate in rates.items()}
        record |= average(self.done)
        record |= self.episodes.flush()
        self.done = []
        return record | {
            "epoch": self.epoch,
            "env_steps": self.env_steps,
            "velocity_evals": self.velocity_evals,
            "replay/size": len(self.replay),
            "replay/age": self.replay.mean_age,
            "reward_scale": float(self.agent.reward_scale),
            "skipped_updates": float(sum(int(u.skipped) for u in self.agent.updaters.values())),
        }

    def diagnose(self, recorded: Recorded) -> dict[str, float]:
        """Errors of model and critic: on replayed windows (``wm/``), on ``recorded`` episodes (``eval/``)."""
        found = value_calibration(self.agent, recorded) | imagination_gap(self.agent, recorded)
        record = {f"eval/{name}": value for name, value in found.items()}
        if len(self.replay):
            # Sampled apart from the training stream, so that diagnostics never change a run.
            generator = torch.Generator(self.env.device).manual_seed(self.epoch)
            batch = self.replay.sample(self.options.wm_batch_size, generator)
            steps = checked_steps(self.options.horizon)
            errors = open_loop_error(self.agent.world_model, batch, steps)
            record |= {f"wm/latent_error_k{k}": float(v) for k, v in zip(steps, errors, strict=True)}
        return record

    def gradient_quality(self, safe_point: SafePoint = go_on) -> dict[str, float]:
        """Signal and noise of the gradients of actor (``actor/``) and world model (``wm/``), as they stand.

        Each is taken ``MICRO_BATCHES`` times, on batches of the size that training uses. Nothing of the run
        changes: interrupted at a ``safe_point``, it is simply repeated.
        """
        # Drawn apart from the training stream, like the batches of ``diagnose``.
        generator = torch.Generator(self.env.device).manual_seed(self.epoch)
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
        batch = self.replay.sample(self.options.wm_batch_size, generator)
        return model_gradient(self.agent, batch, generator)

    def _step(self, action: Tensor) -> StepResult:
        with named_divergence():
            result = self.env.step(action)
        check_result(self.env.spec.name, result, f"after {self.env_steps} steps")
        self.replay.add(
            self.obs, action, result.reward, result.terminated, result.truncated, result.final_obs
        )
        self.agent.observe(self.obs, result.reward)
        self.episodes.add(result)
        self.obs = result.obs
        self.env_steps += self.env.num_envs
        return result

    def _parts(self) -> list[Callable[[Any], Metrics]]:
        """The parts of an epoch in order; between two of them a run can be interrupted."""
        opts = self.options
        models = [self._improve_model] * opts.wm_iterations
        if opts.collect == "lockstep":
            return [self._execute_imagined, *models]
        return [self._collect, *[self._improve_policy] * opts.actor_iterations, *models]

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
            for _ in range(self.options.horizon):
                visited.append(self.obs)
                z = model.encode(self.obs)
                z[blind] = torch.where(ended[blind], z[blind], imagined)
                action = self.agent.explore(z)
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
            return torch.empty(0, dtype=torch.int64, device=self.env.device)
        order = torch.randperm(self.env.num_envs, generator=self.agent.generator, device=self.env.device)
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
            rollout, targets, actor = self.agent.update_actor(z, interrupt)
        with timer("critic"):
            latents = rollout.latents.detach().flatten(0, 1)
            weights = reach_weights(rollout).flatten()
            critic = self.agent.update_critic(latents, targets.flatten(), weights)
        self.velocity_evals += rollout.rewards.numel() * self.agent.world_model.dynamics.velocity_evals
        return _named("actor", actor) | _named("critic", critic)

    def _improve_model(self, timer: Any) -> Metrics:
        with timer("wm"):
            return _named("wm", self._update_world_model())

    def _update_world_model(self) -> Metrics:
        return self.agent.update_world_model(
            self.replay.sample(self.options.wm_batch_size, self.agent.generator)
        )

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
        device = self.env.device
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


def average(parts: Sequence[Metrics]) -> dict[str, float]:
    """Mean of each metric over the parts of an epoch that measured it; one host transfer."""
    groups: dict[str, list[Tensor]] = {}
    for metrics in parts:
        for name, value in metrics.items():
            groups.setdefault(name, []).append(value)
    if not groups:
        return {}
    means = torch.stack([torch.stack(values).float().mean() for values in groups.values()])
    return dict(zip(groups, means.tolist(), strict=True))
