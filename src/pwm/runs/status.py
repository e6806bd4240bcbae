"""``status.json``: what a run is doing, or how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pwm.configuration.config import ExperimentConfig
from pwm.errors import DataError
from pwm.files import read_object, write_text
from pwm.training.hooks import Preempted

# What a run is doing, or how it ended.
RUN_STATES = RUNNING, FINISHED, PREEMPTED, FAILED = "running", "finished", "preempted", "failed"


def is_finished(folder: Path, config: ExperimentConfig) -> bool:
    """True if the run in ``folder`` has done all that ``config`` asks for, as far as its small files tell.

    It says so itself, and has as many epochs as planned now. A run that stopped early has fewer; it is
    finished only under the configuration, and so the patience, that it stopped with.
    """
    status = StatusFile(folder)
    if not status.ended:
        return False
    stored = folder / "config.yaml"
    return status.epoch >= config.epochs or (
        stored.exists() and ExperimentConfig.load(stored).identity() == config.identity()
    )


def ending(error: BaseException | None) -> tuple[str, str]:
    """State and reason of a run that ``error`` ended; None is a run that came to its end."""
    if error is None:
        return FINISHED, ""
    if isinstance(error, Preempted):
        return PREEMPTED, str(error)
    return FAILED, f"{type(error).__name__}: {error}"


class StatusFile:
    """Reads and replaces the ``status.json`` of one run folder.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "status.json"

    def read(self) -> dict[str, Any]:
        """Return the content of the file; empty if it is missing, or damaged and to be written anew."""
        with contextlib.suppress(DataError):
            return read_object(self.path)
        return {}

    @property
    def ended(self) -> bool:
        """True if the file says that the run came to its end, whichever that was."""
        return self.read().get("state") == FINISHED

    @property
    def epoch(self) -> int:
        """Epochs done, as last written; 0 where the file does not say."""
        epoch = self.read().get("epoch")
        return epoch if isinstance(epoch, int) else 0

    def write(self, state: str, reason: str, progress: dict[str, Any]) -> None:
        """Replace the file: ``state``, ``reason``, ``progress``, who writes and when (UTC).

        Raises:
            OSError: a run that begins or goes on cannot say so. For one that failed, the file is then
                overwritten in place, which needs no space; if even that fails, it stays as it was.
        """
        text = _text(state, reason, progress)
        try:
            write_text(self.path, text)
        except OSError:
            if state != FAILED:
                raise
            with contextlib.suppress(OSError), self.path.open("r+", encoding="utf-8") as file:
                file.write(text)
                file.truncate()


def _text(state: str, reason: str, progress: dict[str, Any]) -> str:
    said = {"state": state, "reason": reason}
    writer = {
        "pid": os.getpid(),
        "host": platform.node(),
        "updated": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Progress may be that of an earlier status, with what it said; what is said now comes first and counts.
    return json.dumps(said | progress | writer | said, indent=2, allow_nan=False) + "\n"
