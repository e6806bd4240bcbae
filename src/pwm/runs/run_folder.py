"""Files of one run: configuration, manifest, status, policies and the resumable state."""

from __future__ import annotations

import contextlib
import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from pwm import files
from pwm.checkpoints.policies import save_policy
from pwm.configuration.config import ExperimentConfig, diff, flatten
from pwm.errors import CheckpointError, ConfigError, DataError, StorageError
from pwm.runs.provenance import manifest, read_manifest
from pwm.runs.run_changes import EXTENDS, KEY, add_change, find_change
from pwm.runs.start import KEY as START
from pwm.runs.start import describe_start, start_changed
from pwm.runs.state_store import StateStore
from pwm.runs.status import FINISHED, RUNNING, StatusFile, ending, is_finished
from pwm.training.loop import LoopState
from pwm.training.trainer import Trainer


class RunFolder:
    """Owns the folder of one run.

    Args:
        config: the run's configuration.
        trainer: what is saved.

    Attributes:
        path: the folder.
        loop: progress of the outer loop, as loaded; the loop updates it in place.
    """

    def __init__(self, config: ExperimentConfig, trainer: Trainer) -> None:
        self.path = run_path(config, trainer.spec.name)
        self.config = config
        self.trainer = trainer
        self.loop = LoopState()
        self.states = StateStore(self.path)
        self._status = StatusFile(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder; the lock dies with the process.

        Raises:
            ConfigError: another process works on this run, or the folder cannot be made.
            StorageError: a file could not be read or written, for instance because the disk is full.
        """
        with files.locked(self.path, "general.name"):
            try:
                # A process that was killed while writing could not clean up.
                for unfinished in self.path.rglob(".*.tmp"):
                    unfinished.unlink()
                yield
            except OSError as error:
                raise StorageError(
                    f"run {self.path} failed on a file: {error}; what was saved before is intact: once the "
                    "cause is removed, the same command continues"
                ) from error

    @property
    def ended(self) -> bool:
        """True if ``status.json`` says that the run came to its end, whichever that was."""
        return self._status.ended

    @property
    def finished(self) -> bool:
        """True if all that the configuration asks for is done, see ``is_finished``."""
        return is_finished(self.path, self.config)

    @property
    def best(self) -> tuple[float, int]:
        """Best evaluated return of an ended run, and its epoch; minus infinity if none is known."""
        status = self._status.read()
        best = status.get("best_return")
        return (float("-inf"), 0) if best is None else (best, status["best_epoch"])

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Keep ``status.json`` true: running inside the block; finished, preempted or failed after it."""
        self._report(RUNNING)
        try:
            yield
        except BaseException as error:
            self._report(*ending(error))
            raise
        stopped = f"no better evaluation in general.patience={self.config.general.patience} evaluations"
        self._report(FINISHED, stopped if self.trainer.epoch < self.config.epochs else "")

    def _report(self, state: str, reason: str = "") -> None:
        best = self.loop.best_return
        progress = {
            "epoch": self.trainer.epoch,
            "epochs": self.config.epochs,
            "env_steps": self.trainer.env_steps,
            "best_return": best if math.isfinite(best) else None,
            "best_epoch": self.loop.best_epoch,
        }
        self._status.write(state, reason, progress)

    def save_policy(self, name: str, record: dict[str, float]) -> None:
        """Write ``<name>_policy.pt``."""
        self._save_policy(self.path / f"{name}_policy.pt", record)

    def save_epoch(self, epoch: int, record: dict[str, float]) -> None:
        """Every ``checkpoint_every`` epochs write ``policies/epoch<epoch>.pt``; keep the last few of them."""
        general = self.config.general
        if not general.checkpoint_every or not epoch or epoch % general.checkpoint_every:
            return
        folder, name = self.path / "policies", f"epoch{epoch:07d}.pt"
        self._save_policy(folder / name, record)
        present = sorted(folder.glob("epoch*.pt"))
        # Later ones are from before the run fell back to this epoch; they will be made again.
        wanted = [path for path in present if path.name <= name][-general.keep_checkpoints :]
        for path in set(present).difference(wanted):
            path.unlink()

    def _save_policy(self, path: Path, record: dict[str, float]) -> None:
        save_policy(path, self.trainer.learner, self.config, self.trainer.spec, record)

    def save_state(self, loop: dict[str, Any]) -> None:
        """Write ``latest.pt`` and what is new in the replay buffer; tell ``status.json`` how far that is."""
        # The state must not reach the disk before the records of the epochs it has behind it.
        with contextlib.suppress(FileNotFoundError), (self.path / "metrics.jsonl").open("rb") as metrics:
            os.fsync(metrics.fileno())
        content = {"loop": dict(loop), "trainer": self.trainer.state_dict()}
        self.states.save(content, self.trainer.replay)
        self._report(RUNNING)

    def load_state(self) -> LoopState:
        """Put the trainer where the last readable state left it; a fresh ``LoopState`` if there is none.

        Raises:
            CheckpointError: there are states and none can be read or fits, or there were and they are gone.
        """
        try:
            if self.states.exists:
                self.loop = self._loaded()
            else:
                self._start_over()
        except CheckpointError as error:
            # What ended well did end well, whatever became of its files since.
            if (before := self._status.read()) and not self.ended:
                self._status.write(*ending(error), before)
            raise
        return self.loop

    def _loaded(self) -> LoopState:
        content = self.states.load(self.trainer.replay)
        try:
            self.trainer.load_state_dict(content["trainer"])
        except (RuntimeError, KeyError, ValueError) as error:
            first = next((line for line in str(error).splitlines() if line), type(error).__name__)
            raise CheckpointError(
                f"the state saved in {self.path} does not fit this configuration ({first}); sizes cannot "
                "change within a run: use another general.name"
            ) from error
        return LoopState(**content["loop"])

    def _start_over(self) -> None:
        """Make room for a run from the beginning.

        Raises:
            CheckpointError: that would overwrite results of a run whose saved state is gone.
        """
        if not self.ended and not self.states.lost:
            # Killed before its first save: the same records come again.
            return
        if self.config.general.resume != "force":
            raise CheckpointError(
                f"{self.path} holds results, but latest.pt to continue from is gone; use another "
                "general.name, or general.resume=force to start over in this folder"
            )
        self.states.clear()
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.path / "metrics.jsonl", self.path / "metrics.before.jsonl")

    def check_same_run(self) -> None:
        """Refuse a folder that belongs to another configuration, or that must not be touched.

        Raises:
            ConfigError: the first lines of the difference, and what to do.
            CheckpointError: a state has lost the configuration it belongs to.
        """
        stored = self.path / "config.yaml"
        resume = self.config.general.resume
        if not stored.exists():
            if self.states.exists and resume != "force":
                raise CheckpointError(
                    f"{stored} is missing, so nothing tells whether latest.pt belongs to this configuration; "
                    "restore it, or use general.resume=force to continue as configured now"
                )
            return
        if resume == "never":
            raise ConfigError(
                f"{self.path} exists and general.resume=never; choose another general.name or logdir"
            )
        self._check_same_data()
        self._check_same_start()
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

    def _check_same_data(self) -> None:
        """Raise DataError if the data set is not the one that the run was started with."""
        try:
            before, now = read_manifest(self.path).get("data"), self.trainer.data_digest
        except DataError:
            # A damaged manifest cannot tell; it is written anew, with a warning.
            return
        if before != now and self.config.general.resume != "force":
            raise DataError(
                f"{self.path} was started with the data set {_shown(before)}, this is {_shown(now)}; use "
                "another general.name, or general.resume=force to continue with other data"
            )

    def _check_same_start(self) -> None:
        """Raise CheckpointError if the run began from another model than ``general.checkpoint`` holds now."""
        general = self.config.general
        if general.resume == "force" or not (self.ended or self.states.exists):
            return
        if start_changed(self.path, general.checkpoint):
            raise CheckpointError(
                f"{self.path} began from another model than general.checkpoint={general.checkpoint} holds "
                "now; remove this folder to make the run anew, use another general.name, or "
                "general.resume=force to continue with the model it began from"
            )

    def write_description(self) -> None:
        """Write ``config.yaml``, its hash, and ``manifest.json`` with what earlier sittings ran with.

        The manifest comes first: it compares this sitting's configuration with the stored one of the last.
        """
        self._write_manifest()
        files.write_text(self.path / "config.yaml", self.config.to_yaml())
        files.write_text(self.path / "config.sha256", self.config.hash() + "\n")

    def _write_manifest(self) -> None:
        networks: dict[str, nn.Module] = dict(self.trainer.networks)
        if self.trainer.model is not None:
            networks["dynamics"] = self.trainer.model.world_model.dynamics
        counts = {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}
        now = manifest(self.trainer.device, counts)
        now |= {"epochs": self.config.epochs, "task": self.trainer.spec.name}
        if self.trainer.data_digest is not None:
            now["data"] = self.trainer.data_digest
        path = self.path / "manifest.json"
        changes: list[dict[str, Any]] = []
        try:
            before = files.read_object(path) if path.exists() else {}
        except DataError:
            warnings.warn(f"{path} was damaged and is written anew", RuntimeWarning, stacklevel=3)
            before = {}
        start = before.pop(START, None)
        if not self.states.exists:
            checkpoint = self.config.general.checkpoint
            start = None if checkpoint is None else describe_start(Path(checkpoint))
        if before:
            earlier, changes = before.pop("earlier", []), before.pop(KEY, [])
            now["earlier"] = earlier if before == now else [*earlier, before]
        stored = self.path / "config.yaml"
        if stored.exists():
            change = find_change(ExperimentConfig.load(stored), self.config, self.trainer.epoch)
            changes = add_change(changes if self.trainer.epoch else [], change)
        if changes:
            now[KEY] = changes
        if start is not None:
            now[START] = start
        files.write_json(path, now)


def _shown(digest: str | None) -> str:
    return "none" if digest is None else f"with the digest {digest[:12]}..."


def run_path(config: ExperimentConfig, task: str) -> Path:
    """``logdir/<task>/<name>/seed<seed>``, with characters that file systems dislike replaced."""
    folder = re.sub(r"[^\w.-]+", "_", task)
    return Path(config.general.logdir) / folder / config.run_name / f"seed{config.general.seed}"
