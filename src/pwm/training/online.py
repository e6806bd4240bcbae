"""Single-task online training: collect, then update actor, critic and world model.

``closed_loop`` collection acts on the encoded real observation and imagines from the visited states.
``lockstep`` (published PWM) acts from imagined latents: the actions of the imagined rollout are executed
in the environment, whose episode ends cut the rollout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pwm.algorithm import agent as agent_module
from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import checked_steps, imagination_gap, open_loop_error, value_calibration
from pwm.algorithm.losses import Feedback, Metrics, reach_weights
from pwm.data.batch import Recorded
from pwm.data.replay import ReplayBuffer
from pwm.envs.base import StepResult, VectorEnv
from pwm.errors import ConfigError, EnvError

COLLECT_MODES = ("closed_loop", "lockstep")


@dataclass
class Options(agent_module.Options):
    """The training rule and the loop around it.

    Attributes:
        max_epochs: epochs of a whole run (``general.epochs`` overrides it).
        num_envs: environments in lockstep; one epoch is ``num_envs * horizon`` environment steps.
        buffer_size: transitions kept for replay.
        collect: ``closed_loop`` or ``lockstep``.
        actor_batch_size: start states of one imagined batch under ``closed_loop``.
        replay_starts: share of those start states that comes from the replay buffer; the rest was visited
            in the same epoch.
        warmup_env_steps: environment steps with uniform random actions before the first epoch.
        warmup_updates: world-model updates after them, before the policy learns.
        lr_final: learning rate that the linear schedule reaches at the last epoch.
    """

    max_epochs: int = 1000
    num_envs: int = 128
    buffer_size: int = 1_000_000
    collect: str = "closed_loop"
    actor_batch_size: int = 128
    replay_starts: float = 0.0
    warmup_env_steps: int = 0
    warmup_updates: int = 0
    lr_final: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.collect not in COLLECT_MODES:
            raise ConfigError(f"alg.collect={self.collect!r}; choose one of: {', '.join(COLLECT_MODES)}")
        for key in ("max_epochs", "num_envs", "actor_batch_size", "actor_iterations"):
            if getattr(self, key) < 1:
                raise ConfigError(f"alg.{key}={getattr(self, key)}; it must be at least 1")
        for key in ("warmup_env_steps", "warmup_updates", "lr_final"):
            if getattr(self, key) < 0:
                raise ConfigError(f"alg.{key}={getattr(self, key)}; it must not be negative")
        if not 0.0 <= self.replay_starts <= 1.0:
            raise ConfigError(f"alg.replay_starts={self.replay_starts}; it must lie in [0, 1]")
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
        if self.collect == "lockstep" and self.actor_iterations != 1:
            raise ConfigError(
                f"alg.actor_iterations={self.actor_iterations} needs alg.collect=closed_loop: "
                "lockstep executes the one imagined rollout it learns from"
            )


class EpisodeStatistics:
    """Return and length of finished training episodes, accumulated without host synchronisation."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.running_return = torch.zeros(num_envs, device=device)
        self.running_length = torch.zeros(num_envs, device=device)
        self.sums = torch.zeros(3, device=device)

    def add(self, result: StepResult) -> None:
        """Count one step of every environment."""
        done = result.terminated | result.truncated
        self.running_return += result.reward
        self.running_length += 1
        finished = done.to(self.sums.dtype)
        self.sums += torch.stack(
            [finished @ self.running_return, finished @ self.running_length, finished.sum()]
        )
        self.running_return.masked_fill_(done, 0.0)
        self.running_length.masked_fill_(done, 0.0)

    def flush(self) -> dict[str, float]:
        """Means over the episodes finished since the last call; empty if none finished."""
        total_return, total_length, count = self.sums.tolist()
        self.sums.zero_()
        if not count:
            return {}
        return {
            "train/episode_return": total_return / count,
            "train/episode_length": total_length / count,
            "train/episodes": count,
        }


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
        )
        self.episodes = EpisodeStatistics(env.num_envs, env.device)
        self.obs = env.reset()
        self.env_steps = 0
        self.epoch = 0
        self.velocity_evals = 0

    def warm_up(self) -> None:
        """Act at random, then train the world model alone, as configured; does nothing a second time."""
        opts, n = self.options, self.env.num_envs
        while self.env_steps < opts.warmup_env_steps:
            uniform = torch.rand(
                n, self.env.spec.act_dim, generator=self.agent.generator, device=self.env.device
            )
            self._step(uniform * 2 - 1)
        if self.epoch == 0:
            for _ in range(opts.warmup_updates):
                self._update_world_model()
            self.agent.check_finite()

    def run_epoch(self, lr_fraction: float, timer: Any) -> dict[str, float]:
        """One epoch: ``horizon`` steps of every environment and all updates.

        Args:
            lr_fraction: position in the learning-rate schedule, 0 at the start and 1 at the end.
            timer: context-manager factory ``timer(name)`` for the phases sim, wm, actor and critic.

        Returns:
            Flat record of metrics.
        """
        record = {
            f"lr/{k}": v for k, v in self.agent.set_lr_fraction(lr_fraction, self.options.lr_final).items()
        }
        phases: list[tuple[str, Metrics]] = []
        if self.options.collect == "lockstep":
            self._policy_update(phases, timer, self.agent.world_model.encode(self.obs), self._execute)
        else:
            with timer("sim"):
                visited = self._collect()
            for _ in range(self.options.actor_iterations):
                self._policy_update(phases, timer, self._starts(visited))
        with timer("wm"):
            phases += [("wm", self._update_world_model()) for _ in range(self.options.wm_iterations)]
        self.epoch += 1
        self.agent.check_finite()
        record |= average(phases)
        record |= self.episodes.flush()
        record |= {
            "epoch": self.epoch,
            "env_steps": self.env_steps,
            "velocity_evals": self.velocity_evals,
            "reward_scale": float(self.agent.reward_scale),
            "skipped_updates": float(sum(int(u.skipped) for u in self.agent.updaters.values())),
        }
        return record

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

    def _step(self, action: Tensor) -> StepResult:
        result = self.env.step(action)
        self.replay.add(
            self.obs, action, result.reward, result.terminated, result.truncated, result.final_obs
        )
        self.agent.observe(self.obs, result.reward)
        self.episodes.add(result)
        self.obs = result.obs
        self.env_steps += self.env.num_envs
        return result

    def _collect(self) -> Tensor:
        """H closed-loop steps; returns the visited observations [H * N, obs_dim]."""
        visited = []
        for _ in range(self.options.horizon):
            visited.append(self.obs)
            self._step(self.agent.act(self.obs))
        return torch.cat(visited)

    def _starts(self, visited: Tensor) -> Tensor:
        """Latents of ``actor_batch_size`` observations: some just visited, some replayed."""
        total = self.options.actor_batch_size
        replayed = round(self.options.replay_starts * total)
        order = torch.randperm(len(visited), generator=self.agent.generator, device=visited.device)
        obs = visited[order[: total - replayed]]
        if replayed:
            obs = torch.cat([obs, self.replay.sample(replayed, self.agent.generator).obs[0]])
        with torch.no_grad():
            return self.agent.world_model.encode(obs)

    @torch.no_grad()
    def _execute(self, _t: int, action: Tensor) -> Feedback:
        """Lockstep: execute an imagined action; tell the rollout which episodes ended."""
        result = self._step(action)
        ends = result.terminated | result.truncated
        return Feedback(ends, result.terminated, self.agent.world_model.encode(result.obs))

    def _policy_update(
        self, phases: list[tuple[str, Metrics]], timer: Any, z: Tensor, interrupt: Any = None
    ) -> None:
        with timer("actor"):
            rollout, targets, metrics = self.agent.update_actor(z.detach(), interrupt)
            phases.append(("actor", metrics))
        with timer("critic"):
            latents = rollout.latents.detach().flatten(0, 1)
            weights = reach_weights(rollout).flatten()
            phases.append(("critic", self.agent.update_critic(latents, targets.flatten(), weights)))
        self.velocity_evals += rollout.rewards.numel() * self.agent.world_model.dynamics.velocity_evals

    def _update_world_model(self) -> Metrics:
        return self.agent.update_world_model(
            self.replay.sample(self.options.wm_batch_size, self.agent.generator)
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, bit-identically on CPU if the environment can save its state."""
        try:
            env_state = self.env.state_dict()
        except EnvError:
            # Some suites cannot: a resumed run then starts new episodes.
            env_state = None
        return {
            "agent": self.agent.training_state(),
            "env": env_state,
            "replay": self.replay.state_dict(),
            "episodes": [
                self.episodes.running_return.clone(),
                self.episodes.running_length.clone(),
                self.episodes.sums.clone(),
            ],
            "obs": self.obs.clone(),
            "counters": [self.env_steps, self.epoch, self.velocity_evals],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.agent.load_training_state(state["agent"])
        self.replay.load_state_dict(state["replay"])
        self.env_steps, self.epoch, self.velocity_evals = state["counters"]
        if state["env"] is None:
            self.obs = self.env.reset()
            self.replay.cut_episodes()
            return
        self.env.load_state_dict(state["env"])
        self.obs = state["obs"]
        episodes = self.episodes
        episodes.running_return, episodes.running_length, episodes.sums = state["episodes"]


def average(phases: list[tuple[str, Metrics]]) -> dict[str, float]:
    """Mean of each metric over an epoch's updates, named ``<phase>/<metric>``; one host transfer."""
    groups: dict[str, list[Tensor]] = {}
    for phase, metrics in phases:
        for name, value in metrics.items():
            groups.setdefault(f"{phase}/{name}", []).append(value)
    if not groups:
        return {}
    means = torch.stack([torch.stack(values).float().mean() for values in groups.values()])
    return dict(zip(groups, means.tolist(), strict=True))
