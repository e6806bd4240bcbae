"""Composition root: build everything from a configuration and run, continue or recognise an experiment."""

from __future__ import annotations

import contextlib
import functools
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from pwm.configuration.building import build_trainer, pick_device
from pwm.configuration.config import ExperimentConfig
from pwm.logging.monitoring import PhaseTimer, TrainingMonitor, memory_usage
from pwm.models import fused
from pwm.runs import reference
from pwm.runs.preemption import PreemptionGuard
from pwm.runs.run_folder import RunFolder, run_path
from pwm.runs.sinks import open_sinks, require_services
from pwm.runs.state_store import StateStore
from pwm.training.hooks import Preempted, SafePoint
from pwm.training.loop import Hooks, Plan, TrainingLoop
from pwm.training.seeding import set_seed


@dataclass(frozen=True)
class RunResult:
    """Outcome of ``train``.

    Attributes:
        folder: the run folder.
        outcome: ``finished``, ``preempted`` (the same command continues), or ``already finished``.
        best_return, best_epoch: best evaluation.
    """

    folder: Path
    outcome: str
    best_return: float
    best_epoch: int


def train(config: ExperimentConfig) -> RunResult:
    """Run, continue or recognise as finished the experiment of ``config``.

    SIGTERM, SIGINT and SIGUSR1 end it between two updates, with everything saved.

    Raises:
        PwmError: bad configuration, checkpoint or environment, before the run folder is touched; or a
            failure while training, with what was saved before intact.
    """
    require_services(config)
    _warn_of_no_decay(config)
    with PreemptionGuard() as guard:
        device = pick_device(config.general.device)
        if config.general.threads:
            torch.set_num_threads(config.general.threads)
        set_seed(config.general.seed, config.general.deterministic)
        with contextlib.closing(build_trainer(config, device)) as trainer:
            # A run that continues has long left what it started from.
            start = config.general.checkpoint
            if start is not None and not StateStore(run_path(config, trainer.spec.name)).exists:
                from pwm.checkpoints.starting_point import start_from

                start_from(trainer, Path(start), config)
            folder = RunFolder(config, trainer)
            with folder.locked(), fused.enabled(config.general.kernels):
                return _train(folder, guard.safe_point)


def _warn_of_no_decay(config: ExperimentConfig) -> None:
    schedule, epochs = config.alg.optimisation, config.epochs
    start = schedule.lr_decay_start
    if start >= epochs > 1 and schedule.lr_schedule != "constant":
        warnings.warn(
            f"alg.lr_decay_start={start} epochs lies beyond the run's {epochs} epochs: learning rates keep "
            "their initial values",
            RuntimeWarning,
            stacklevel=3,
        )


def _train(folder: RunFolder, safe_point: SafePoint) -> RunResult:
    config, trainer, general = folder.config, folder.trainer, folder.config.general
    folder.check_same_run()
    if folder.finished:
        return RunResult(folder.path, "already finished", *folder.best)
    state = folder.load_state()
    plan = Plan(
        config.epochs,
        config.eval_every,
        general.eval_runs,
        general.patience,
        general.save_interval,
        general.esnr_every,
    )
    outcome = "finished"
    if folder.ended and plan.fulfilled(trainer.epoch, state):
        outcome = "already finished"
    else:
        folder.write_description()
        try:
            with folder.reported(), open_sinks(folder.path, config, trainer, state) as sink:
                if trainer.eval_env is not None:
                    reference.provide(folder.path, config, trainer.eval_env, safe_point)
                with contextlib.closing(_monitor(folder)) as monitor:
                    memory = functools.partial(memory_usage, trainer.device)
                    hooks = Hooks(sink, folder, monitor, PhaseTimer(), memory, safe_point)
                    TrainingLoop(trainer, hooks, plan, state).run()
        except Preempted:
            outcome = "preempted"
    return RunResult(folder.path, outcome, state.best_return, state.best_epoch)


def _monitor(folder: RunFolder) -> TrainingMonitor:
    config, trainer = folder.config, folder.trainer
    title = f"{trainer.spec.name} {config.run_name}"
    return TrainingMonitor(config.epochs, trainer.epoch, title, config.general.progress)
