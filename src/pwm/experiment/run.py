"""Composition root: build everything from a configuration, own the run folder, resume, report status."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pwm import components
from pwm.algorithm.agent import Agent
from pwm.envs.base import EnvSpec, VectorEnv
from pwm.errors import CheckpointError, ConfigError
from pwm.experiment import checkpoints, reference
from pwm.experiment.config import ExperimentConfig, diff, flatten
from pwm.experiment.monitoring import PhaseTimer, TrainingMonitor, memory_usage
from pwm.experiment.reproducibility import manifest, set_seed
from pwm.experiment.sinks import open_sinks, require_services
from pwm.training.evaluation import EVALUATION_SEED
from pwm.training.loop import Hooks, LoopState, run_loop
from pwm.training.online import OnlineTrainer

# Copies of the evaluation environment; more episodes take several rounds.
EVAL_ENVS = 16


@dataclass(frozen=True)
class RunResult:
    """Outcome of ``train``.

    Attributes:
        folder: the run folder.
        best_return, best_epoch: best evaluation.
        already_finished: nothing was left to do.
    """

    folder: Path
    best_return: float
    best_epoch: int
    already_finished: bool = False


def pick_device(name: str) -> torch.device:
    """The device called ``name``.

    Raises:
        ConfigError: PyTorch does not know it, or this machine does not have it.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"general.device={name!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    return device


def build_env(config: ExperimentConfig, num_envs: int, seed: int, device: torch.device) -> VectorEnv:
    """The configured environment with ``num_envs`` copies."""
    return components.load("env", config.env_name).build(config.env, num_envs, device, seed)


def build_agent(config: ExperimentConfig, spec: EnvSpec, device: torch.device) -> Agent:
    """A fresh agent for the task ``spec``; its weights depend on the seed alone."""
    set_seed(config.general.seed)
    generator = torch.Generator(device).manual_seed(config.general.seed)
    return Agent(config.alg, config.dynamics, config.actor, spec.obs_dim, spec.act_dim, generator)


def save_policy(path: Path, agent: Agent, config: ExperimentConfig, spec: EnvSpec, progress: dict) -> None:
    """Write the agent's weights together with the configuration and task they belong to."""
    content = {
        "config": config.to_dict(),
        "spec": vars(spec),
        "modules": agent.state_dict(),
        "progress": {k: progress[k] for k in ("epoch", "env_steps", "eval/episode_return") if k in progress},
    }
    checkpoints.save(path, checkpoints.POLICY_FORMAT, content)


def load_policy(
    path: Path, device: torch.device
) -> tuple[Agent, ExperimentConfig, EnvSpec, dict[str, float]]:
    """Agent, configuration, task and progress of a policy file.

    Raises:
        CheckpointError: missing, damaged or foreign file.
    """
    content = checkpoints.load(path, checkpoints.POLICY_FORMAT, device)
    config = ExperimentConfig.from_dict(content["config"])
    spec = EnvSpec(**content["spec"])
    agent = build_agent(config, spec, device)
    agent.load_state_dict(content["modules"])
    return agent, config, spec, content["progress"]


class RunFolder:
    """Files of one run: configuration, manifest, status, metrics, policies and the resumable state.

    Args:
        path: ``logdir/<task>/<name>/seed<seed>``.
        config: the run's configuration.
        trainer: what is saved.
    """

    def __init__(self, path: Path, config: ExperimentConfig, trainer: OnlineTrainer) -> None:
        self.path = path
        self.config = config
        self.trainer = trainer

    def save_policy(self, name: str, record: dict[str, float]) -> None:
        """Write ``<name>_policy.pt``."""
        save_policy(
            self.path / f"{name}_policy.pt", self.trainer.agent, self.config, self.trainer.env.spec, record
        )

    def save_state(self, loop: dict[str, Any]) -> None:
        """Write ``latest.pt``."""
        content = {"hash": self.config.hash(), "loop": dict(loop), "trainer": self.trainer.state_dict()}
        checkpoints.save(self.path / "latest.pt", checkpoints.STATE_FORMAT, content)

    def load_state(self) -> LoopState:
        """Put the trainer where ``latest.pt`` left it."""
        content = checkpoints.load(self.path / "latest.pt", checkpoints.STATE_FORMAT, self.trainer.env.device)
        self.trainer.load_state_dict(content["trainer"])
        return LoopState(**content["loop"])

    def status(self, state: str, reason: str = "") -> None:
        """Write ``status.json``: running, finished or failed."""
        checkpoints.write_json(
            self.path / "status.json",
            {
                "state": state,
                "reason": reason,
                "epoch": self.trainer.epoch,
                "epochs": self.config.epochs,
                "env_steps": self.trainer.env_steps,
                "pid": os.getpid(),
            },
        )

    def describe(self) -> None:
        """Write ``config.yaml``, its hash and ``manifest.json``."""
        checkpoints.write_text(self.path / "config.yaml", self.config.to_yaml())
        checkpoints.write_text(self.path / "config.sha256", self.config.hash() + "\n")
        agent = self.trainer.agent
        counts = {
            name: sum(p.numel() for p in module.parameters())
            for name, module in (
                ("world_model", agent.world_model),
                ("dynamics", agent.world_model.dynamics),
                ("actor", agent.actor),
                ("critic", agent.critic),
            )
        }
        checkpoints.write_json(self.path / "manifest.json", manifest(self.trainer.env.device, counts))


def run_path(config: ExperimentConfig, spec: EnvSpec) -> Path:
    """``logdir/<task>/<name>/seed<seed>``, with characters that file systems dislike replaced."""
    task = re.sub(r"[^\w.-]+", "_", spec.name)
    return Path(config.general.logdir) / task / config.run_name / f"seed{config.general.seed}"


def check_resume(config: ExperimentConfig, path: Path) -> bool:
    """Whether the run in ``path`` is to be continued.

    Raises:
        ConfigError: the folder belongs to another configuration, or must not be touched.
    """
    stored = path / "config.yaml"
    if not stored.exists():
        return False
    if config.general.resume == "never":
        raise ConfigError(f"{path} exists and general.resume=never; choose another general.name or logdir")
    from omegaconf import OmegaConf  # only needed when a run folder exists

    before = ExperimentConfig.from_dict(OmegaConf.to_container(OmegaConf.load(stored)))  # type: ignore[arg-type]
    changes = [
        line
        for line in diff(flatten(before.identity()), flatten(config.identity()))
        # More epochs is what one asks for to continue a finished run.
        if not line.startswith("general.epochs:")
    ]
    if changes and config.general.resume != "force":
        raise ConfigError(
            f"{path} was started with another configuration:\n  "
            + "\n  ".join(changes)
            + "\nuse another general.name, or general.resume=force to continue with the new values"
        )
    return (path / "latest.pt").exists()


def train(config: ExperimentConfig) -> RunResult:
    """Run, continue or recognise as finished the experiment of ``config``.

    Raises:
        PwmError: bad configuration, checkpoint or environment, before the run folder is touched.
    """
    require_services(config)
    device = pick_device(config.general.device)
    if config.general.threads:
        torch.set_num_threads(config.general.threads)
    env = build_env(config, config.alg.num_envs, config.general.seed, device)
    eval_env = build_env(config, min(EVAL_ENVS, config.general.eval_runs), EVALUATION_SEED, device)
    agent = build_agent(config, env.spec, device)
    if config.general.checkpoint is not None:
        _start_from(agent, Path(config.general.checkpoint), env.spec, device)
    try:
        trainer = OnlineTrainer(config.alg, env, agent)
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise ConfigError(
            f"alg.buffer_size={config.alg.buffer_size} does not fit into memory: {str(error).splitlines()[0]}"
        ) from error
    folder = RunFolder(run_path(config, env.spec), config, trainer)
    resume = check_resume(config, folder.path)
    state = folder.load_state() if resume else LoopState()
    if trainer.epoch >= config.epochs:
        return RunResult(folder.path, state.best_return, state.best_epoch, already_finished=True)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.describe()
    with open_sinks(folder.path, config, trainer, state, resume) as sink, _reported(folder):
        checkpoints.write_json(folder.path / "reference.json", reference.scores(config, eval_env))
        monitor = TrainingMonitor(
            config.epochs, trainer.epoch, f"{env.spec.name} {config.run_name}", config.general.progress
        )
        with contextlib.closing(monitor):
            hooks = Hooks(sink, folder, monitor, PhaseTimer(), lambda: memory_usage(device))
            general = config.general
            run_loop(
                trainer,
                eval_env,
                hooks,
                config.epochs,
                general.eval_every,
                general.eval_runs,
                general.save_interval,
                state,
            )
    env.close()
    eval_env.close()
    return RunResult(folder.path, state.best_return, state.best_epoch)


@contextlib.contextmanager
def _reported(folder: RunFolder) -> Iterator[None]:
    """Keep ``status.json`` true: running inside the block, finished or failed (with the reason) after it."""
    folder.status("running")
    try:
        yield
    except BaseException as error:
        folder.status("failed", f"{type(error).__name__}: {error}")
        raise
    folder.status("finished")


def _start_from(agent: Agent, path: Path, spec: EnvSpec, device: torch.device) -> None:
    content = checkpoints.load(path, checkpoints.POLICY_FORMAT, device)
    found = content["spec"]["name"]
    if found != spec.name:
        raise CheckpointError(
            f"general.checkpoint={path} belongs to task {found!r}, this run trains {spec.name!r}"
        )
    try:
        agent.load_state_dict(content["modules"])
    except RuntimeError as error:
        raise CheckpointError(
            f"general.checkpoint={path} does not fit this configuration: " + str(error).replace("\n", " ")
        ) from error
