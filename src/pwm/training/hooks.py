"""What the training loop needs from the outside: small protocols, no implementations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

# Called between two updates, where a run can be interrupted and continued bit-identically; raises
# Preempted when the run has to give way.
SafePoint = Callable[[], None]


class Preempted(Exception):
    """The run was asked to stop; it did so between two updates."""


def go_on() -> None:
    """The safe point of a run that never has to give way."""


class MetricSink(Protocol):
    """Receives one flat record of numbers per epoch."""

    def write(self, record: dict[str, float]) -> None:
        """Store ``record``; names are those of the metrics table."""
        ...


class CheckpointStore(Protocol):
    """Keeps policies and the resumable state."""

    def save_policy(self, name: str, record: dict[str, float]) -> None:
        """Store the current policy under ``name`` (``best`` or ``final``)."""
        ...

    def save_epoch(self, epoch: int, record: dict[str, float]) -> None:
        """Store the current policy as that of ``epoch``, if policies of that epoch are to be kept."""
        ...

    def save_state(self, loop: dict[str, Any]) -> None:
        """Store everything needed to continue; ``loop`` is the loop's own progress."""
        ...


class Progress(Protocol):
    """Shows progress to a person."""

    def warm_up(self, share: float) -> None:
        """So much of the warm-up before the first epoch is done; called between two of its updates."""
        ...

    def update(self, epoch: int, record: dict[str, float]) -> None:
        """Epoch ``epoch`` is finished."""
        ...


class Quiet:
    """A sink, a store and a progress display that do nothing, for processes that only help another one."""

    def write(self, record: dict[str, float]) -> None:
        """Do nothing."""

    def save_policy(self, name: str, record: dict[str, float]) -> None:
        """Do nothing."""

    def save_epoch(self, epoch: int, record: dict[str, float]) -> None:
        """Do nothing."""

    def save_state(self, loop: dict[str, Any]) -> None:
        """Do nothing."""

    def warm_up(self, share: float) -> None:
        """Do nothing."""

    def update(self, epoch: int, record: dict[str, float]) -> None:
        """Do nothing."""
