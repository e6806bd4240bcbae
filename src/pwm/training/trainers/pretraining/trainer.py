"""Fits a world model to recorded transitions and measures it on held-out ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pwm.algorithm.diagnostics import fit_of_groups
from pwm.algorithm.losses import Metrics
from pwm.algorithm.model_learning import ModelLearner
from pwm.algorithm.updates import Updater
from pwm.data.batch import joined
from pwm.data.offline.dataset import OfflineData
from pwm.envs.base import EnvSpec, restore_generator
from pwm.training.agent_trainer import named
from pwm.training.hooks import SafePoint, go_on
from pwm.training.recorded import observe_data
from pwm.training.trainer import Part, Trainer
from pwm.training.trainers.pretraining.options import Options

# Held-out windows that a model predicts at once, of whole tasks.
AT_ONCE = 1024
COUNTERS = ("epoch", "updates", "transitions")


@dataclass(frozen=True)
class PretrainedSpec(EnvSpec):
    """The tasks of a world model, in the place of a single one.

    Attributes:
        tasks: ``name``, ``obs_dim`` and ``action_dim`` of each, in the order of the task table.
    """

    tasks: list[dict[str, Any]]

    @property
    def table(self) -> tuple[str, ...]:
        """Names of the tasks that an embedding tells apart; empty for a single one."""
        return tuple(task["name"] for task in self.tasks) if len(self.tasks) > 1 else ()


class PretrainingTrainer(Trainer):
    """Learns a world model from a data set.

    Args:
        options: the training rule.
        learner: the world model's learner.
        data: what it learns from.
        held_out: what it is measured on.
        spec: the tasks.
        generator: draws windows, and whatever the losses draw; on the learner's device.

    Attributes:
        updates: gradient steps that are done.
        transitions: transitions of all windows that were learned from.
    """

    shared = True
    # The share of the change of latents, H steps ahead, that the model predicts.
    score = "heldout/fit"

    def __init__(
        self,
        options: Options,
        learner: ModelLearner,
        data: OfflineData,
        held_out: OfflineData,
        spec: PretrainedSpec,
        generator: torch.Generator,
    ) -> None:
        super().__init__(options.optimisation, spec, generator.device)
        self.options, self._learner, self._generator = options, learner, generator
        self.data, self.held_out = data, held_out
        self.data_digest = data.digest
        self.updates = self.transitions = 0

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The world model."""
        return {"world_model": self._learner.world_model}

    @property
    def updaters(self) -> Mapping[str, Updater]:
        """Its optimiser."""
        return {"wm": self._learner.updater}

    @property
    def learner(self) -> ModelLearner:
        """The world model's learner."""
        return self._learner

    @property
    def model(self) -> ModelLearner:
        """The world model's learner."""
        return self._learner

    @property
    def processed(self) -> int:
        """Transitions that were learned from."""
        return self.transitions

    def warm_up(self, safe_point: SafePoint = go_on) -> None:
        """Take the statistics of observations and rewards from the data."""
        if not self.updates:
            observe_data(self._learner, self.data, self._generator)

    def parts(self) -> list[Part]:
        """Return the updates of the world model."""
        return [self._update] * self.options.model_learning.wm_iterations

    def _update(self, timer: Any) -> Metrics:
        windows, ranks = self.options.model_learning.wm_batch_size, self._learner.ranks
        mine = ranks.share(windows)
        with timer("data"):
            batch = self.data.sample(windows, self._generator, mine)
            self.transitions += int(ranks.sum(batch.valid.sum()))
        with timer("wm"):
            draws = self._learner.draw((self.data.horizon, windows), self._generator)
            draws = None if draws is None else draws[:, mine]
            metrics = self._learner.update(batch.to(self.device), self.options.accumulate, draws)
        self.updates += 1
        return named("wm", metrics)

    def evaluate(self, episodes: int, safe_point: SafePoint = go_on) -> dict[str, float]:
        """Return errors on held-out windows, of every task and their means over tasks."""
        found: dict[str, list[float]] = {}
        record: dict[str, float] = {}
        tasks, windows = self.held_out.tasks, self.options.held_out_windows
        together = max(1, AT_ONCE // windows)
        for first in range(0, len(tasks), together):
            safe_point()
            numbers = tasks[first : first + together]
            parts = [self.held_out.spread(number, windows) for number in numbers]
            batch = joined(parts).to(self.device)
            groups = fit_of_groups(self._learner, batch, [part.reward.shape[1] for part in parts])
            for number, errors in zip(numbers, groups, strict=True):
                for name, value in errors.items():
                    found.setdefault(name, []).append(value)
                    if len(tasks) > 1:
                        record[f"heldout/{name}/{self.data.layout.tasks[number].name}"] = value
        means = {name: sum(values) / len(values) for name, values in found.items()}
        horizon = self.options.objective.horizon
        record |= {f"heldout/{name}": value for name, value in means.items()}
        record[self.score] = 1.0 - means[f"latent_error_k{horizon}"]
        # Decisions that follow from it must be the same everywhere.
        return self._learner.ranks.told(record)

    def describe(self, totals: Mapping[str, float]) -> dict[str, float]:
        """Return counters."""
        return {"env_steps": 0, "updates": self.updates, "transitions": self.transitions}

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the data that is needed to continue."""
        return {
            "model": self._learner.state_dict(),
            "updater": self._learner.updater.state_dict(),
            "generator": self._generator.get_state(),
            "done": self.done,
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._learner.load_state_dict(state["model"])
        self._learner.updater.load_state_dict(state["updater"])
        restore_generator(self._generator, state["generator"])
        self.done = [{k: v.to(self.device) for k, v in part.items()} for part in state["done"]]
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])
