"""Composition root: build everything from a configuration and run, continue or recognise an experiment."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pwm.algorithm.ranks import Ranks, gathered
from pwm.configuration.building import build_trainer, pick_device
from pwm.configuration.config import ExperimentConfig
from pwm.logging.monitoring import PhaseTimer, TrainingMonitor, memory_usage
from pwm.models import fused
from pwm.models.precision import warn_if_slow
from pwm.runs import reference
from pwm.runs.preemption import PreemptionGuard
from pwm.runs.run_folder import RunFolder, run_path
from pwm.runs.sinks import open_sinks, require_services
from pwm.runs.state_store import StateStore
from pwm.training.hooks import Preempted, Quiet, SafePoint
from pwm.training.loop import Hooks, LoopState, Plan, TrainingLoop
from pwm.training.seeding import set_seed
from pwm.training.trainer import Trainer

# Networks below that are no faster with two threads than with one, or slower (docs/performance.md).
FEW_PARAMETERS = 1_000_000


@dataclass(frozen=True)
class RunResult:
    """Outcome of ``train``.

    Attributes:
        folder: the run folder.
        outcome: ``finished``, ``preempted`` (the same command continues), or ``already finished``.
        best_return, best_epoch: best evaluation.
        leads: of several processes that trained together, this is the one that wrote the files.
    """

    folder: Path
    outcome: str
    best_return: float
    best_epoch: int
    leads: bool = True


def train(config: ExperimentConfig) -> RunResult:
    """Run, continue or recognise as finished the experiment of ``config``.

    SIGTERM, SIGINT and SIGUSR1 end it between two updates, with everything saved.

    Raises:
        PwmError: bad configuration, checkpoint or environment, before the run folder is touched; or a
            failure while training, with what was saved before intact.
    """
    require_services(config)
    _warn_of_no_decay(config)
    with PreemptionGuard() as guard, gathered() as ranks:
        device = pick_device(config.general.device, ranks)
        warn_if_slow(config.general.precision, device)
        set_seed(config.general.seed, config.general.deterministic)
        with contextlib.closing(build_trainer(config, device, ranks)) as trainer:
            # A run that continues has long left what it started from.
            start = config.general.checkpoint
            if start is not None and not StateStore(run_path(config, trainer.spec.name)).exists:
                from pwm.checkpoints.starting_point import start_from

                start_from(trainer, Path(start), config)
            folder = RunFolder(config, trainer)
            with _threads(config.general.threads, trainer), fused.enabled(config.general.kernels):
                if not ranks.leads:
                    return _follow(folder, ranks, guard)
                with folder.locked():
                    return _train(folder, ranks, guard)


@contextlib.contextmanager
def _threads(asked: int, trainer: Trainer) -> Iterator[None]:
    """Let PyTorch use so many threads inside the block; 0 asks for one where networks are small."""
    before = torch.get_num_threads()
    sizes = [sum(p.numel() for p in network.parameters()) for network in trainer.networks.values()]
    small = max(sizes) < FEW_PARAMETERS and trainer.device.type == "cpu"
    torch.set_num_threads(asked or (1 if small else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _train(folder: RunFolder, ranks: Ranks, guard: PreemptionGuard) -> RunResult:
    config, trainer = folder.config, folder.trainer
    folder.check_same_run()
    if folder.finished:
        ranks.told(None)
        return RunResult(folder.path, "already finished", *folder.best)
    state = folder.load_state()
    plan = plan_of(config)
    outcome, safe_point = "finished", agreed(guard, ranks)
    if folder.ended and plan.fulfilled(trainer.epoch, state):
        ranks.told(None)
        outcome = "already finished"
    else:
        ranks.told({"loop": vars(state), "trainer": trainer.state_dict()})
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


def _follow(folder: RunFolder, ranks: Ranks, guard: PreemptionGuard) -> RunResult:
    """Train beside the process that leads, from where it begins, without writing anything."""
    outcome, state = "finished", LoopState()
    if (start := ranks.told(None)) is None:
        outcome = "already finished"
    else:
        folder.trainer.load_state_dict(start["trainer"])
        state = LoopState(**start["loop"])
        quiet, memory = Quiet(), functools.partial(memory_usage, folder.trainer.device)
        hooks = Hooks(quiet, quiet, quiet, PhaseTimer(), memory, agreed(guard, ranks))
        try:
            TrainingLoop(folder.trainer, hooks, plan_of(folder.config), state).run()
        except Preempted:
            outcome = "preempted"
    return RunResult(folder.path, outcome, state.best_return, state.best_epoch, leads=False)


def agreed(guard: PreemptionGuard, ranks: Ranks) -> SafePoint:
    """Return the safe point at which all processes stop if a signal has reached one of them."""
    if ranks.size == 1:
        return guard.safe_point

    def safe_point() -> None:
        if ranks.any(guard.received is not None):
            raise Preempted(f"received {guard.received or 'a signal in another process'}")

    return safe_point


def plan_of(config: ExperimentConfig) -> Plan:
    """Return length and intervals of the run that ``config`` describes."""
    general = config.general
    return Plan(
        config.epochs,
        config.eval_every,
        general.eval_runs,
        general.patience,
        general.save_interval,
        general.esnr_every,
        general.precision,
    )


def _monitor(folder: RunFolder) -> TrainingMonitor:
    config, trainer = folder.config, folder.trainer
    title = f"{trainer.spec.name} {config.run_name}"
    return TrainingMonitor(config.epochs, trainer.epoch, title, config.general.progress)
