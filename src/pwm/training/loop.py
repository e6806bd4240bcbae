"""The outer loop: epochs, evaluations, best policy, early stopping, resumable state.

Services come in as hooks. Everything the loop remembers is in ``LoopState``, so a run that was interrupted
between any two updates continues where it stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pwm.models.precision import products_in
from pwm.training.hooks import CheckpointStore, MetricSink, Preempted, Progress, SafePoint
from pwm.training.trainer import Trainer


@dataclass
class LoopState:
    """Progress of the outer loop.

    Attributes:
        best_return: best evaluation so far, by the trainer's ``score``.
        best_epoch: its epoch.
        evaluations_since_best: evaluations after it.
        wall_time: seconds spent on this run, over all sittings.
        cpu_time: seconds that processor cores worked for its training, warm-up included and evaluations left
            out, summed over cores and sittings. Where several runs share a machine, this is what one costs.
        pending: record of an epoch that is trained but neither evaluated nor written yet; at first that of
            the untrained policy.
    """

    best_return: float = float("-inf")
    best_epoch: int = 0
    evaluations_since_best: int = 0
    wall_time: float = 0.0
    cpu_time: float = 0.0
    pending: dict[str, float] | None = field(default_factory=lambda: {"epoch": 0.0, "env_steps": 0.0})


@dataclass
class Hooks:
    """Services of a run.

    Attributes:
        sink: receives one record per epoch.
        store: keeps policies and the resumable state.
        progress: shows progress.
        timer: phase timer with ``flush``.
        memory: returns memory metrics.
        safe_point: raises Preempted when the run has to give way.
    """

    sink: MetricSink
    store: CheckpointStore
    progress: Progress
    timer: Any
    memory: Callable[[], dict[str, float]]
    safe_point: SafePoint


@dataclass(frozen=True)
class Plan:
    """Length of a run and the intervals of evaluation and saving.

    Attributes:
        epochs: epochs of the whole run.
        eval_every: epochs between evaluations; the untrained and the final policy are always evaluated.
        eval_runs: episodes per evaluation.
        patience: stop after this many evaluations without a new best return; None trains to the end.
        save_interval: seconds between saves of the resumable state.
        esnr_every: epochs between measurements of the gradients; 0 measures none.
        precision: of the matrix products of training.
    """

    epochs: int
    eval_every: int
    eval_runs: int
    patience: int | None = None
    save_interval: float = 300.0
    esnr_every: int = 0
    precision: str = "float32"

    def fulfilled(self, epoch: int, state: LoopState) -> bool:
        """True if nothing is left to do after ``epoch`` epochs."""
        stopped_early = self.patience is not None and state.evaluations_since_best >= self.patience
        return state.pending is None and (epoch >= self.epochs or stopped_early)


class TrainingLoop:
    """Trains, evaluates, records and saves until the plan is fulfilled.

    Args:
        trainer: may already have done some epochs (resume).
        hooks: services.
        plan: what to do.
        state: progress so far; updated in place.
    """

    def __init__(self, trainer: Trainer, hooks: Hooks, plan: Plan, state: LoopState) -> None:
        self.trainer, self.hooks, self.plan, self.state = trainer, hooks, plan, state
        self._before = state.wall_time
        self._started = self._saved = time.monotonic()

    def run(self) -> None:
        """Do what is left of the plan.

        Raises:
            Preempted: the run was asked to stop; its state is saved.
        """
        try:
            while not self.plan.fulfilled(self.trainer.epoch, self.state):
                if self.state.pending is None:
                    with self._counting_cpu_time():
                        self.state.pending = self._train_epoch()
                record = self.state.pending | self._evaluate_if_due() | self._measure_gradients_if_due()
                record |= self.hooks.timer.flush() | self.hooks.memory()
                self._write(record | {"wall_time": self._wall_time(), "cpu_time": self.state.cpu_time})
                self.state.pending = None
                self._save_if_due()
        except Preempted:
            self._save()
            raise
        progress: dict[str, float] = {"epoch": self.trainer.epoch, "env_steps": self.trainer.env_steps}
        self.hooks.store.save_policy("final", progress)
        self._save()

    @contextlib.contextmanager
    def _counting_cpu_time(self) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.state.cpu_time += time.process_time() - start

    def _wall_time(self) -> float:
        return self._before + time.monotonic() - self._started

    def _save(self) -> None:
        self.state.wall_time = self._wall_time()
        self.hooks.store.save_state(vars(self.state))
        self._saved = time.monotonic()

    def _save_if_due(self) -> None:
        if time.monotonic() - self._saved >= self.plan.save_interval:
            with self.hooks.timer("save"):
                self._save()

    def _between_warm_up_updates(self) -> None:
        # The warm-up of a large model takes hours, all of them before the end of the first epoch.
        self.hooks.safe_point()
        self.hooks.progress.warm_up(self.trainer.warm_up_share)
        self._save_if_due()

    def _train_epoch(self) -> dict[str, float]:
        trainer, hooks = self.trainer, self.hooks
        if trainer.epoch == 0:
            with hooks.timer("warmup"), products_in(self.plan.precision):
                trainer.warm_up(self._between_warm_up_updates)
        start, before, whole = time.monotonic(), trainer.processed, not trainer.done
        decay = trainer.optimisation.decay(trainer.epoch, self.plan.epochs)
        with products_in(self.plan.precision):
            record = trainer.run_epoch(decay, hooks.timer, hooks.safe_point)
        # An epoch that was interrupted has lost its beginning, and with it its duration.
        if whole:
            record["fps"] = (trainer.processed - before) / (time.monotonic() - start)
        phases: dict[str, float] = hooks.timer.flush()
        return record | phases

    def _evaluate_if_due(self) -> dict[str, float]:
        epoch, plan = self.trainer.epoch, self.plan
        if epoch % plan.eval_every and epoch != plan.epochs:
            return {}
        with self.hooks.timer("eval"):
            return self.trainer.evaluate(plan.eval_runs, self.hooks.safe_point)

    def _measure_gradients_if_due(self) -> dict[str, float]:
        epoch, every = self.trainer.epoch, self.plan.esnr_every
        # Before the first epoch there are no data to take a gradient on.
        if not every or not epoch or epoch % every:
            return {}
        with self.hooks.timer("gradients"):
            return self.trainer.gradient_quality(self.hooks.safe_point)

    def _write(self, record: dict[str, float]) -> None:
        epoch, state = self.trainer.epoch, self.state
        if (found := record.get(self.trainer.score)) is not None:
            state.evaluations_since_best += 1
            if found > state.best_return:
                state.best_return, state.best_epoch, state.evaluations_since_best = found, epoch, 0
                self.hooks.store.save_policy("best", record)
        self.hooks.store.save_epoch(epoch, record)
        self.hooks.sink.write(record)
        self.hooks.progress.update(epoch, record)
