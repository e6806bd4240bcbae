"""The outer loop: epochs, evaluations, best policy, resumable state. Services come in as hooks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pwm.data.batch import Recorded
from pwm.envs.base import VectorEnv
from pwm.training.evaluation import Evaluation, Recording, evaluate
from pwm.training.hooks import CheckpointStore, MetricSink, Progress
from pwm.training.online import OnlineTrainer


@dataclass
class LoopState:
    """Progress of the outer loop.

    Attributes:
        best_return: best evaluated return so far.
        best_epoch: its epoch.
        wall_time: seconds spent in earlier sittings of this run.
    """

    best_return: float = float("-inf")
    best_epoch: int = 0
    wall_time: float = 0.0


@dataclass
class Hooks:
    """Services of a run.

    Attributes:
        sink: receives one record per epoch.
        store: keeps policies and the resumable state.
        progress: shows progress.
        timer: phase timer with ``flush``.
        memory: returns memory metrics.
    """

    sink: MetricSink
    store: CheckpointStore
    progress: Progress
    timer: Any
    memory: Callable[[], dict[str, float]]


def run_loop(
    trainer: OnlineTrainer,
    eval_env: VectorEnv,
    hooks: Hooks,
    epochs: int,
    eval_every: int,
    eval_runs: int,
    save_interval: float,
    state: LoopState,
) -> LoopState:
    """Train until ``epochs``; evaluates the untrained policy first, and the final one last.

    Args:
        trainer: may already have done some epochs (resume).
        eval_env: environment for evaluation only.
        hooks: services.
        epochs: epochs of the whole run.
        eval_every: epochs between evaluations.
        eval_runs: episodes per evaluation.
        save_interval: seconds between saves of the resumable state.
        state: progress so far; updated in place.

    Returns:
        ``state``.
    """
    started, saved = time.monotonic(), time.monotonic()
    before = state.wall_time

    def finish_epoch(record: dict[str, float], evaluation: tuple[Evaluation, Recorded] | None) -> None:
        state.wall_time = before + time.monotonic() - started
        record["wall_time"] = state.wall_time
        if evaluation is not None:
            evaluated, recorded = evaluation
            record |= {
                "eval/episode_return": evaluated.mean,
                "eval/episode_return_std": evaluated.std,
                "eval/episode_length": evaluated.mean_length,
            }
            with hooks.timer("eval"):
                record |= trainer.diagnose(recorded)
            if evaluated.mean > state.best_return:
                state.best_return, state.best_epoch = evaluated.mean, trainer.epoch
                hooks.store.save_policy("best", record)
        hooks.sink.write(record)
        hooks.progress.update(trainer.epoch, record)

    def evaluate_now() -> tuple[Evaluation, Recorded]:
        recording = Recording()
        with hooks.timer("eval"):
            act = partial(trainer.agent.act, deterministic=True)
            return evaluate(eval_env, act, eval_runs, recording=recording), recording.stacked()

    if trainer.epoch == 0:
        with hooks.timer("warmup"):
            untrained = evaluate_now()
            trainer.warm_up()
        finish_epoch({"epoch": 0, "env_steps": trainer.env_steps}, untrained)
    while trainer.epoch < epochs:
        epoch_start, steps_before = time.monotonic(), trainer.env_steps
        record = trainer.run_epoch(trainer.epoch / epochs, hooks.timer)
        due = trainer.epoch % eval_every == 0 or trainer.epoch == epochs
        record["fps"] = (trainer.env_steps - steps_before) / (time.monotonic() - epoch_start)
        evaluated = evaluate_now() if due else None
        finish_epoch(record | hooks.timer.flush() | hooks.memory(), evaluated)
        if time.monotonic() - saved >= save_interval and trainer.epoch < epochs:
            hooks.store.save_state(vars(state))
            saved = time.monotonic()
    hooks.store.save_policy("final", {"epoch": trainer.epoch, "env_steps": trainer.env_steps})
    hooks.store.save_state(vars(state))
    return state
