"""Files of one run: configuration, manifest, status, policies and the resumable state."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pwm.errors import ConfigError, StorageError
from pwm.experiment import checkpoints
from pwm.experiment.config import ExperimentConfig, diff, flatten
from pwm.experiment.policies import save_policy
from pwm.experiment.reproducibility import manifest
from pwm.experiment.state_store import StateStore
from pwm.training.hooks import Preempted
from pwm.training.loop import LoopState
from pwm.training.online import OnlineTrainer

# What one changes to train a run further; everything else makes it another run.
EXTENDS = ("general.epochs:", "general.patience:")


class RunFolder:
    """Owns the folder of one run.

    Args:
        config: the run's configuration.
        trainer: what is saved.
    """

    def __init__(self, config: ExperimentConfig, trainer: OnlineTrainer) -> None:
        self.path = run_path(config, trainer.env.spec.name)
        self.config = config
        self.trainer = trainer
        self.states = StateStore(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder; the lock dies with the process.

        Raises:
            ConfigError: another process works on this run, or the folder cannot be made.
            StorageError: a file could not be read or written, for instance because the disk is full.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"another process is working on {self.path}; wait for it, or choose another general.name"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written: {error.strerror}; choose another general.logdir"
            ) from error
        try:
            # A process that was killed while writing could not clean up.
            for unfinished in self.path.rglob(".*.tmp"):
                unfinished.unlink()
            yield
        except OSError as error:
            raise StorageError(f"run {self.path} failed on a file: {error}") from error
        finally:
            lock.release()

    @property
    def finished(self) -> bool:
        """Whether ``status.json`` says that the run is finished."""
        path = self.path / "status.json"
        return path.exists() and json.loads(path.read_text(encoding="utf-8"))["state"] == "finished"

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Keep ``status.json`` true: running inside the block; finished, preempted or failed after it."""
        self.status("running")
        try:
            yield
        except Preempted as error:
            self.status("preempted", str(error))
            raise
        except BaseException as error:
            # Where nothing can be written the status cannot either; the error itself matters more.
            with contextlib.suppress(OSError):
                self.status("failed", f"{type(error).__name__}: {error}")
            raise
        self.status("finished")

    def save_policy(self, name: str, record: dict[str, float]) -> None:
        """Write ``<name>_policy.pt``."""
        self._save_policy(self.path / f"{name}_policy.pt", record)

    def save_epoch(self, epoch: int, record: dict[str, float]) -> None:
        """Every ``checkpoint_every`` epochs write ``policies/epoch<epoch>.pt``; keep the last few of them."""
        general = self.config.general
        if not general.checkpoint_every or not epoch or epoch % general.checkpoint_every:
            return
        folder = self.path / "policies"
        self._save_policy(folder / f"epoch{epoch:07d}.pt", record)
        for old in sorted(folder.glob("epoch*.pt"))[: -general.keep_checkpoints]:
            old.unlink()

    def _save_policy(self, path: Path, record: dict[str, float]) -> None:
        save_policy(path, self.trainer.agent, self.config, self.trainer.env.spec, record)

    def save_state(self, loop: dict[str, Any]) -> None:
        """Write ``latest.pt`` and what is new in the replay buffer."""
        # The state must not reach the disk before the records of the epochs it has behind it.
        with contextlib.suppress(FileNotFoundError), (self.path / "metrics.jsonl").open("rb") as metrics:
            os.fsync(metrics.fileno())
        content = {"hash": self.config.hash(), "loop": dict(loop), "trainer": self.trainer.state_dict()}
        self.states.save(content, self.trainer.replay)

    def load_state(self) -> LoopState:
        """Put the trainer where the last readable state left it; a fresh ``LoopState`` if there is none.

        Raises:
            ConfigError: the folder belongs to another configuration, or must not be touched.
            CheckpointError: there are states and none can be read.
        """
        self._check_same_run()
        if not self.states.exists:
            return LoopState()
        content = self.states.load(self.trainer.replay)
        self.trainer.load_state_dict(content["trainer"])
        return LoopState(**content["loop"])

    def _check_same_run(self) -> None:
        stored = self.path / "config.yaml"
        resume = self.config.general.resume
        if not stored.exists():
            return
        if resume == "never":
            raise ConfigError(
                f"{self.path} exists and general.resume=never; choose another general.name or logdir"
            )
        before = ExperimentConfig.load(stored)
        changes = [
            line
            for line in diff(flatten(before.identity()), flatten(self.config.identity()))
            if not line.startswith(EXTENDS)
        ]
        if changes and resume != "force":
            raise ConfigError(
                f"{self.path} was started with another configuration:\n  "
                + "\n  ".join(changes)
                + "\nuse another general.name, or general.resume=force to continue with the new values"
            )

    def status(self, state: str, reason: str = "") -> None:
        """Write ``status.json``: running, finished, preempted or failed."""
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
        """Write ``config.yaml``, its hash, and ``manifest.json`` with what earlier sittings ran with."""
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
        now = manifest(self.trainer.env.device, counts)
        path = self.path / "manifest.json"
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            earlier = before.pop("earlier", [])
            now["earlier"] = earlier if before == now else [*earlier, before]
        checkpoints.write_json(path, now)


def run_path(config: ExperimentConfig, task: str) -> Path:
    """``logdir/<task>/<name>/seed<seed>``, with characters that file systems dislike replaced."""
    folder = re.sub(r"[^\w.-]+", "_", task)
    return Path(config.general.logdir) / folder / config.run_name / f"seed{config.general.seed}"
