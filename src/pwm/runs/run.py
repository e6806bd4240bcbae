"""Composition root: build everything from a configuration and run, continue or recognise an experiment."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from pwm.checkpoints.starting_point import start_from
from pwm.configuration.building import EVAL_ENVS, build_agent, build_env, pick_device
from pwm.configuration.config import ExperimentConfig
from pwm.envs.base import VectorEnv
from pwm.errors import ConfigError
from pwm.logging.monitoring import PhaseTimer, TrainingMonitor, memory_usage
from pwm.runs import reference
from pwm.runs.memory import check_memory
from pwm.runs.preemption import PreemptionGuard
from pwm.runs.run_folder import RunFolder, run_path
from pwm.runs.sinks import open_sinks, require_services
from pwm.runs.state_store import StateStore
from pwm.training.evaluation import EVALUATION_SEED
from pwm.training.hooks import Preempted, SafePoint
from pwm.training.loop import Hooks, Plan, TrainingLoop
from pwm.training.online import OnlineTrainer
from pwm.training.seeding import set_seed, stream_seed


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
        seed = config.general.seed
        set_seed(seed, config.general.deterministic)
        env = build_env(config, config.alg.num_envs, stream_seed(seed, "env"), device)
        eval_env = build_env(config, min(EVAL_ENVS, config.general.eval_runs), EVALUATION_SEED, device)
        with contextlib.closing(env), contextlib.closing(eval_env):
            check_memory(config, env, eval_env)
            folder = RunFolder(config, _build_trainer(config, env, device))
            with folder.locked():
                return _train(folder, eval_env, guard.safe_point)


def _warn_of_no_decay(config: ExperimentConfig) -> None:
    start, epochs = config.alg.lr_decay_start, config.epochs
    if start >= epochs > 1 and config.alg.lr_schedule != "constant":
        warnings.warn(
            f"alg.lr_decay_start={start} epochs lies beyond the run's {epochs} epochs: learning rates keep "
            "their initial values",
            RuntimeWarning,
            stacklevel=3,
        )


def _build_trainer(config: ExperimentConfig, env: VectorEnv, device: torch.device) -> OnlineTrainer:
    agent = build_agent(config, env.spec, device)
    # A run that continues has long left what it started from.
    if config.general.checkpoint is not None and not StateStore(run_path(config, env.spec.name)).exists:
        start_from(agent, Path(config.general.checkpoint), config, env.spec)
    try:
        return OnlineTrainer(config.alg, env, agent)
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise ConfigError(
            f"alg.buffer_size={config.alg.buffer_size} does not fit into memory: {str(error).splitlines()[0]}"
        ) from error


def _train(folder: RunFolder, eval_env: VectorEnv, safe_point: SafePoint) -> RunResult:
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
                reference.provide(folder.path, config, eval_env, safe_point)
                with contextlib.closing(_monitor(folder)) as monitor:
                    device = trainer.env.device
                    hooks = Hooks(
                        sink, folder, monitor, PhaseTimer(), lambda: memory_usage(device), safe_point
                    )
                    TrainingLoop(trainer, eval_env, hooks, plan, state).run()
        except Preempted:
            outcome = "preempted"
    return RunResult(folder.path, outcome, state.best_return, state.best_epoch)


def _monitor(folder: RunFolder) -> TrainingMonitor:
    config, trainer = folder.config, folder.trainer
    title = f"{trainer.env.spec.name} {config.run_name}"
    return TrainingMonitor(config.epochs, trainer.epoch, title, config.general.progress)
