"""What every trainer provides to the loop, the run folder and the loggers, and what it is built from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from pwm import components
from pwm.algorithm import updates
from pwm.algorithm.losses import Metrics
from pwm.algorithm.model_learning import ModelLearner
from pwm.algorithm.ranks import ALONE, Ranks
from pwm.algorithm.updates import Updater
from pwm.data.replay import ReplayBuffer
from pwm.envs.base import EnvSpec, VectorEnv
from pwm.errors import ConfigError
from pwm.training.hooks import SafePoint, go_on

# What trains where a configuration does not say it.
DEFAULT = "online"
# A part of an epoch: does its work under a phase timer ``timer(name)`` and returns what it measured.
Part = Callable[[Any], Metrics]


class Learner(Protocol):
    """Networks that can be kept in a file."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return parameters and statistics."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> Any:
        """Take parameters and statistics from ``state``; RuntimeError if they do not fit."""
        ...


class Trainer(ABC):
    """Trains something epoch by epoch, of parts between which a run can be interrupted and continued.

    Args:
        optimisation: what all optimisers share.
        spec: the task.
        device: where the networks are.

    Attributes:
        epoch: epochs that are done.
        env_steps: environment steps that are done.
        done: metrics of every part of the running epoch that is done.
        replay: collected transitions, saved beside the state; None where nothing is collected.
        data_digest: what tells the data set that is learned from from all others; None where there is none.
        eval_env: environment for evaluation only; None where nothing is evaluated in one.
    """

    # True if several processes can train it together (``Setting.ranks``).
    shared = False
    # The metric of an evaluation by which policies are compared: the higher the better.
    score = "eval/episode_return"

    def __init__(self, optimisation: updates.Options, spec: EnvSpec, device: torch.device) -> None:
        self.optimisation, self.spec, self.device = optimisation, spec, device
        self.epoch = 0
        self.env_steps = 0
        self.done: list[Metrics] = []
        self.replay: ReplayBuffer | None = None
        self.data_digest: str | None = None
        self.eval_env: VectorEnv | None = None

    @property
    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The networks that learn, by the names under which they are reported."""

    @property
    @abstractmethod
    def updaters(self) -> Mapping[str, Updater]:
        """Their optimisers, by the names that metrics use."""

    @property
    @abstractmethod
    def learner(self) -> Learner:
        """The object that is trained; its state is what a file of the trained networks holds."""

    @property
    def model(self) -> ModelLearner | None:
        """The world model's learner; None where no world model is trained."""
        return None

    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """Return the parts of an epoch in order; the same number in every epoch."""

    @abstractmethod
    def evaluate(self, episodes: int, safe_point: SafePoint = go_on) -> dict[str, float]:
        """Return how good the trained networks are, ``score`` among it; changes nothing."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything but the replay data that is needed to continue."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, after ``replay`` was loaded."""

    def warm_up(self, safe_point: SafePoint = go_on) -> None:
        """Do what is left of what comes before the first epoch; here nothing."""
        return

    @property
    def processed(self) -> int:
        """What the metric ``fps`` counts per second: here environment steps."""
        return self.env_steps

    @property
    def warm_up_share(self) -> float:
        """Share of the warm-up that is done."""
        return 1.0

    def gradient_quality(self, safe_point: SafePoint = go_on) -> dict[str, float]:
        """Return signal and noise of the gradients as they stand; changes nothing."""
        return {}

    def totals(self) -> dict[str, Tensor]:
        """Return what ``describe`` needs from the device, as scalars; here nothing."""
        return {}

    def describe(self, totals: Mapping[str, float]) -> dict[str, float]:
        """Return the numbers of an epoch's record that no part measured, given those of ``totals``."""
        return {}

    def close(self) -> None:
        """Free threads, processes and simulators; here there are none."""
        return

    def run_epoch(self, decay: float, timer: Any, safe_point: SafePoint = go_on) -> dict[str, float]:
        """Do what is left of one epoch.

        Args:
            decay: share of the way from the initial learning rates to the final one
                (``updates.Options.decay``).
            timer: context-manager factory ``timer(name)`` for the phases.
            safe_point: called before every part.

        Returns:
            Flat record of metrics.
        """
        final = self.optimisation.lr_final
        rates = {name: u.decay_lr(decay, final) for name, u in self.updaters.items() if u.decays}
        for part in self.parts()[len(self.done) :]:
            safe_point()
            self.done.append(part(timer))
        # All that the host wants to know of an epoch crosses over at once: a device waits for every question.
        counts = {f"in_row/{name}": u.skipped_in_row for name, u in self.updaters.items()}
        counts |= {f"skipped/{name}": u.skipped for name, u in self.updaters.items()}
        measured, totals, found = numbers(average(self.done), self.totals(), counts)
        for name, updater in self.updaters.items():
            updater.check_finite(int(found[f"in_row/{name}"]))
        self.epoch += 1
        self.done = []
        record = {f"lr/{name}": rate for name, rate in rates.items()} | measured | self.describe(totals)
        skipped = sum(found[f"skipped/{name}"] for name in self.updaters)
        return record | {"epoch": self.epoch, "skipped_updates": skipped}

    def check_finite(self) -> None:
        """Raise NonFiniteError if any network's updates keep failing."""
        for updater in self.updaters.values():
            updater.check_finite(int(updater.skipped_in_row))


def average(parts: Sequence[Metrics]) -> Metrics:
    """Return the mean of each metric over the parts of an epoch that measured it."""
    groups: dict[str, list[Tensor]] = {}
    for metrics in parts:
        for name, value in metrics.items():
            groups.setdefault(name, []).append(value)
    return {name: torch.stack(values).float().mean() for name, values in groups.items()}


def numbers(*groups: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Return the scalars of every group as numbers, in one transfer from their device."""
    scalars = [value.double() for group in groups for value in group.values()]
    found = iter(torch.stack(scalars).tolist() if scalars else [])
    return [{name: next(found) for name in group} for group in groups]


@dataclass(frozen=True)
class Setting:
    """Everything that a trainer is built from.

    Attributes:
        options: its own ``Options``.
        chosen: options of the components it is composed of, by kind (``dynamics``, ``actor``).
        seed: seed of the run; ``pwm.training.seeding`` derives streams from it.
        device: where everything lives.
        make_env: ``(num_envs, seed)`` -> the configured environment.
        eval_episodes: episodes of one evaluation.
        prior_data, prior_updates: data set that the world model is fitted to before anything else, and the
            updates for that; None where there is none.
        ranks: the processes that train together.
    """

    options: Any
    chosen: Mapping[str, Any]
    seed: int
    device: torch.device
    make_env: Callable[[int, int], VectorEnv]
    eval_episodes: int
    prior_data: str | None = None
    prior_updates: int = 0
    ranks: Ranks = ALONE

    def refuse_prior_data(self, trainer: str) -> None:
        """Raise ConfigError if data are given that ``trainer`` has no use for."""
        if self.prior_data is not None:
            raise ConfigError(
                f"general.pretrain={self.prior_data}: alg.trainer={trainer} learns from alg.data alone"
            )


class TrainerComponent(Protocol):
    """Contract of a module of ``pwm.training.trainers``.

    Attributes:
        Options: dataclass of its configuration; parts (``pwm.parts``) share the group of keys ``alg``.
        COMPONENTS: kinds of components that it is composed of, each with a group of keys below ``alg``, but
            for ``env``, whose group stands beside it.
    """

    Options: type[Any]
    COMPONENTS: tuple[str, ...]

    def build(self, setting: Setting) -> Trainer:
        """Return the trainer that ``setting`` describes."""
        ...


def load_trainer(name: str) -> TrainerComponent:
    """Module of the trainer called ``name``.

    Raises:
        UnknownComponentError: there is none; the message lists the names.
    """
    return cast("TrainerComponent", components.load("trainer", name))
