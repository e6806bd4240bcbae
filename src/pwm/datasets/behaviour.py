"""Who acts while a data set is collected: a mixture of random actions, noise and saved policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pwm.checkpoints import storage
from pwm.checkpoints.policies import load_policy
from pwm.checkpoints.policy_evaluation import policy_digest
from pwm.checkpoints.policy_files import checkpoint_name, select_policies
from pwm.errors import ConfigError

Policy = Callable[[Tensor], Tensor]
NOISE = ("random", "ou")
# Ornstein-Uhlenbeck noise of DDPG (Lillicrap et al., 2016), wider, so that it reaches the bounds.
OU_RETURN, OU_SPREAD = 0.15, 0.4


@dataclass(frozen=True)
class Term:
    """A part of a mixture.

    Attributes:
        weight: share of the episodes, relative to the other terms.
        source: ``random``, ``ou``, or a run folder, a folder of runs, or a policy file.
    """

    weight: float
    source: str


@dataclass(frozen=True)
class Actor:
    """One that acts in some episodes.

    Attributes:
        name: ``random``, ``ou``, or which checkpoint of a run.
        path: policy file; None for noise.
        sha256: of the file.
    """

    name: str
    path: Path | None = None
    sha256: str | None = None


def parse_mixture(text: str) -> list[Term]:
    """Return the terms of ``WEIGHT*SOURCE+WEIGHT*SOURCE``, for example ``0.5*random+0.5*logs/run``.

    Raises:
        ConfigError: it is written in another way, or a weight is not positive.
    """
    terms = []
    for part in text.split("+"):
        weight, star, source = part.strip().partition("*")
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not star or not source.strip() or not 0 < value < math.inf:
            raise ConfigError(
                f"mix={text}: {part.strip()!r} is not WEIGHT*SOURCE with a positive weight, as in "
                "0.5*random+0.5*logs/dmc_walker-walk; a source is random, ou, or a run"
            )
        terms.append(Term(value, source.strip()))
    return terms


class PolicyFiles:
    """The policy files of runs by the task they belong to; every file is read once.

    Args:
        which: ``best``, ``final`` or ``all`` of each run.
    """

    def __init__(self, which: str) -> None:
        self._which = which
        self._found: dict[str, list[tuple[str, Actor]]] = {}

    def of(self, source: str, task: str) -> list[Actor]:
        """Return the policies of ``source`` for the environment called ``task``.

        Raises:
            CheckpointError: a file is missing or damaged.
            ConfigError: there is none for this task.
        """
        if source not in self._found:
            self._found[source] = [
                (
                    str(storage.load(path, storage.POLICY_FORMAT)["spec"]["name"]),
                    Actor(checkpoint_name(path), path, policy_digest(path)),
                )
                for path in select_policies([source], self._which)
            ]
        actors = [actor for name, actor in self._found[source] if name == task]
        if not actors:
            there = ", ".join(sorted({name for name, _ in self._found[source]}))
            raise ConfigError(f"{source} has no policy of {task}, but of {there}")
        return actors


def divide(episodes: int, weights: Sequence[float]) -> list[int]:
    """Return how many of ``episodes`` each weight gets; largest remainders are rounded up."""
    exact = [episodes * weight / sum(weights) for weight in weights]
    counts = [math.floor(value) for value in exact]
    order = sorted(range(len(weights)), key=lambda i: counts[i] - exact[i])
    for i in order[: episodes - sum(counts)]:
        counts[i] += 1
    return counts


def make_policy(actor: Actor, act_dim: int, noise: float | None, generator: torch.Generator) -> Policy:
    """Return what maps observations [N, obs_dim] of running episodes to actions [N, act_dim].

    Args:
        actor: who acts.
        act_dim: width of an action.
        noise: standard deviation of Gaussian noise on the best action of a saved policy; None lets it draw
            its actions as in training.
        generator: source of all randomness.
    """
    if actor.path is not None:
        agent, *_ = load_policy(actor.path, torch.device("cpu"))
        agent.generator.set_state(generator.get_state())
        if noise is None:
            return agent.act

        def noisy(obs: Tensor) -> Tensor:
            best = agent.act(obs, deterministic=True)
            return (best + noise * torch.randn(best.shape, generator=generator)).clamp(-1, 1)

        return noisy
    if actor.name == "ou":
        return _OrnsteinUhlenbeck(act_dim, generator)
    return lambda obs: 2 * torch.rand(len(obs), act_dim, generator=generator) - 1


class _OrnsteinUhlenbeck:
    """Correlated noise that returns to zero; it goes on over the ends of episodes."""

    def __init__(self, act_dim: int, generator: torch.Generator) -> None:
        self._act_dim, self._generator = act_dim, generator
        self._state: Tensor | None = None

    def __call__(self, obs: Tensor) -> Tensor:
        shape = len(obs), self._act_dim
        state = torch.zeros(shape) if self._state is None else self._state
        drawn = torch.randn(shape, generator=self._generator)
        self._state = state - OU_RETURN * state + OU_SPREAD * drawn
        return self._state.clamp(-1, 1)
