"""What was changed within a run: its length, when it was trained further, or settings, when that was forced.

Learning rates follow the planned length. A run that was extended from 100 to 200 epochs has therefore
trained its first 100 epochs otherwise than one that was to have 200 from the beginning, although both say
200 in the end. ``manifest.json`` keeps every such change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pwm.algorithm.updates import Options
from pwm.configuration.config import ExperimentConfig, diff
from pwm.errors import DataError

KEY = "changed"
NEVER = "never"
# What one changes to train a run further; everything else makes it another run.
EXTENDS = ("general.epochs:", "general.patience:")


@dataclass(frozen=True)
class Change:
    """One sitting that went on otherwise than the one before.

    Attributes:
        epoch: epochs that were done by then.
        epochs_before, epochs_after: planned epochs of the whole run.
        settings: lines ``key: before -> after`` of all else that decides the run's numbers.
    """

    epoch: int
    epochs_before: int
    epochs_after: int
    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = []
        if self.epochs_before != self.epochs_after:
            how = "extended" if self.epochs_after > self.epochs_before else "shortened"
            parts.append(
                f"{how} at epoch {self.epoch} from {self.epochs_before} to {self.epochs_after} epochs"
            )
        if self.settings:
            parts.append(f"changed at epoch {self.epoch} ({', '.join(self.settings)})")
        return " and ".join(parts)

    def decides(self, optimisation: Options) -> bool:
        """True if the epochs before it were trained otherwise than the last configuration says."""
        plans = self.epochs_before, self.epochs_after
        rates = [[optimisation.decay(epoch, epochs) for epoch in range(self.epoch)] for epochs in plans]
        return bool(self.settings) or rates[0] != rates[1]


def find_change(before: ExperimentConfig, now: ExperimentConfig, epoch: int) -> Change | None:
    """Return the change that a sitting after ``epoch`` epochs makes; None for none, or before the first."""
    lines = diff(before.identity(), now.identity())
    settings = tuple(line for line in lines if not line.startswith((*EXTENDS, "alg.max_epochs:")))
    if not epoch or (before.epochs == now.epochs and not settings):
        return None
    return Change(epoch, before.epochs, now.epochs, settings)


def add_change(changes: list[dict[str, Any]], change: Change | None) -> list[dict[str, Any]]:
    """``changes`` of the manifest with one more, unless a sitting that was killed at its start wrote it."""
    new = [] if change is None else [{**asdict(change), "settings": list(change.settings)}]
    return changes if new == changes[-1:] else [*changes, *new]


def read_changes(manifest: Mapping[str, Any]) -> list[Change]:
    """All changes that ``manifest.json`` tells of, in their order.

    Raises:
        DataError: they are not what a run writes.
    """
    found = manifest.get(KEY, [])
    try:
        return [
            Change(
                int(entry["epoch"]),
                int(entry["epochs_before"]),
                int(entry["epochs_after"]),
                tuple(map(str, entry["settings"])),
            )
            for entry in found
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"manifest.json: {KEY}={found!r} must be a list of changes") from error


def describe_changes(manifest: Mapping[str, Any], optimisation: Options) -> str:
    """The changes that decide a run's numbers, in words; ``never`` without one."""
    return (
        ", then ".join(str(change) for change in read_changes(manifest) if change.decides(optimisation))
        or NEVER
    )
