"""The only evaluator: real environment rewards, whole episodes, every observation encoded afresh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from pwm.data.batch import Recorded
from pwm.envs.base import StepResult, VectorEnv, check_observation, successes_of
from pwm.errors import ConfigError, EnvError
from pwm.training.hooks import SafePoint, go_on

Policy = Callable[[Tensor], Tensor]

# Training draws its episodes from the run's seed; evaluation starts here, so the two never share episodes.
EVALUATION_SEED = 1_000_000
# Copies of the evaluation environment; more episodes take several rounds.
EVAL_ENVS = 16


@dataclass(frozen=True)
class Evaluation:
    """Per-episode results.

    Attributes:
        returns: undiscounted return of each episode.
        lengths: control steps of each episode.
        successes: whether each episode ended in success; empty where the task does not say it.
    """

    returns: list[float]
    lengths: list[int]
    successes: list[bool] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean return."""
        return sum(self.returns) / len(self.returns)

    @property
    def std(self) -> float:
        """Standard deviation of the returns over episodes (0 for a single episode)."""
        values = torch.tensor(self.returns, dtype=torch.float64)
        return float(values.std()) if len(values) > 1 else 0.0

    @property
    def mean_length(self) -> float:
        """Mean episode length in control steps."""
        return sum(self.lengths) / len(self.lengths)

    @property
    def success(self) -> dict[str, float]:
        """Share of episodes that ended in success, as ``success``; empty where the task does not say it."""
        return {"success": sum(self.successes) / len(self.successes)} if self.successes else {}

    def summary(self) -> dict[str, Any]:
        """Mean, spread and per-episode values, ready for JSON."""
        successes = {**self.success, "successes": self.successes} if self.successes else {}
        return {
            "episodes": len(self.returns),
            "mean": self.mean,
            "std": self.std,
            "min": min(self.returns),
            "max": max(self.returns),
            "mean_length": self.mean_length,
            "returns": self.returns,
            "lengths": self.lengths,
            **successes,
        }


class Recorder(Protocol):
    """Sees every step of the first round of ``evaluate``."""

    def add(self, obs: Tensor, action: Tensor, result: StepResult, running: Tensor) -> None:
        """One step: ``obs`` [N, obs_dim] before it, and which copies [N] were still running then."""
        ...


class Recording:
    """The first episode of every copy of an environment, step by step (one round of ``evaluate``)."""

    def __init__(self) -> None:
        self._first: list[Tensor] = []
        self._steps: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, obs: Tensor, action: Tensor, result: StepResult, running: Tensor) -> None:
        """Keep one step; see ``Recorder``."""
        if not self._first:
            self._first.append(obs)
        self._steps.append((result.final_obs, action, result.reward, result.terminated, running.clone()))

    def stacked(self) -> Recorded:
        """Everything recorded, time first."""
        obs, *rest = zip(*self._steps, strict=True)
        return Recorded(torch.stack([*self._first, *obs]), *(torch.stack(column) for column in rest))


@torch.no_grad()
def evaluate(
    env: VectorEnv,
    policy: Policy,
    episodes: int,
    seed: int = EVALUATION_SEED,
    recording: Recorder | None = None,
) -> Evaluation:
    """Run ``policy`` for ``episodes`` whole episodes.

    Each round starts all copies of ``env`` afresh and counts the first episode of every copy, so that
    short episodes are not over-represented. Round r is seeded with ``seed + r``: the same call meets the
    same initial states.

    Args:
        env: environment; it is reset.
        policy: maps observations [N, obs_dim] to actions [N, act_dim].
        episodes: number of episodes, at least 1.
        seed: seed of the first round.
        recording: is told of the first round, if given.

    Raises:
        ConfigError: ``episodes`` is smaller than 1.
        EnvError: a return or an observation is not finite.
    """
    if episodes < 1:
        raise ConfigError(f"episodes={episodes}; it must be at least 1")
    returns: list[float] = []
    lengths: list[int] = []
    rounds = -(-episodes // env.num_envs)
    # What was left by whoever used the environment before is not this policy's.
    successes_of(env, 0)
    for r in range(rounds):
        obs = env.reset(seed + r)
        check_observation(env.spec.name, obs, "at reset")
        running = torch.ones(env.num_envs, dtype=torch.bool, device=obs.device)
        total = torch.zeros(env.num_envs, dtype=torch.float64, device=obs.device)
        steps = torch.zeros(env.num_envs, dtype=torch.int64, device=obs.device)
        while bool(running.any()):
            action = policy(obs)
            result = env.step(action)
            if recording is not None and r == 0:
                recording.add(obs, action, result, running)
            total += torch.where(running, result.reward, 0.0)
            steps += running
            running &= ~(result.terminated | result.truncated)
            obs = result.obs
            check_observation(env.spec.name, obs, "in an evaluation")
        if bad := (~torch.isfinite(total)).nonzero().flatten().tolist():
            raise EnvError(
                f"{env.spec.name}: the return of an evaluation episode is not finite (environments {bad}): "
                "the environment gave a reward that is NaN or infinite"
            )
        returns += total.tolist()
        lengths += steps.tolist()
    return Evaluation(returns[:episodes], lengths[:episodes], successes_of(env, episodes))


def zero_policy(act_dim: int) -> Policy:
    """Policy that always returns the zero action: what doing nothing scores."""
    return lambda obs: obs.new_zeros(len(obs), act_dim)


def random_policy(act_dim: int, seed: int = 0) -> Policy:
    """Policy of uniform random actions in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return lambda obs: (torch.rand(len(obs), act_dim, generator=generator) * 2 - 1).to(obs)


def reference_scores(
    env: VectorEnv, episodes: int, seed: int = EVALUATION_SEED, safe_point: SafePoint = go_on
) -> dict[str, float]:
    """Mean returns of the zero-action and the random-action policy, by the same evaluator."""

    def mean(policy: Policy) -> float:
        def act(obs: Tensor) -> Tensor:
            safe_point()
            return policy(obs)

        return evaluate(env, act, episodes, seed).mean

    act_dim = env.spec.act_dim
    return {"zero_action": mean(zero_policy(act_dim)), "random_action": mean(random_policy(act_dim))}
