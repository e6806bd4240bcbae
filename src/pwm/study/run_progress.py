"""The progress of a run that trains in another process, read from the metrics it writes."""

from __future__ import annotations

import json
from pathlib import Path

from pwm.logging.monitoring import TrainingMonitor


class MetricsTail:
    """Reads what is new in a growing ``metrics.jsonl``.

    Args:
        path: the file; it need not exist yet, and a run that is continued may replace it by a shorter one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = 0
        self._offset = 0

    def read(self) -> list[dict[str, float]]:
        """Whole records that were added since the last call; all of them if the file was replaced."""
        try:
            with self.path.open("rb") as file:
                number = self.path.stat().st_ino
                if number != self._file:
                    self._file, self._offset = number, 0
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class RunProgress:
    """A bar on a terminal, or lines in a log file, for one training run.

    It appears with the run's first record, so that the time to start the process is not taken for training.

    Args:
        metrics: its ``metrics.jsonl``.
        epochs: of the whole run.
        title: shown first.
        enabled: False shows nothing.
    """

    def __init__(self, metrics: Path, epochs: int, title: str, enabled: bool) -> None:
        self._tail = MetricsTail(metrics)
        self._shown = (epochs, title, enabled)
        self._monitor: TrainingMonitor | None = None

    def refresh(self) -> None:
        """Show what the run has written since the last call."""
        latest: dict[str, float] = {}
        for record in self._tail.read():
            latest |= {key: value for key, value in record.items() if value is not None}
        if not latest:
            return
        epochs, title, enabled = self._shown
        if self._monitor is None:
            self._monitor = TrainingMonitor(epochs, int(latest["epoch"]), title, enabled)
        # A continued run repeats the epochs after its last save.
        if latest["epoch"] >= self._monitor.epoch:
            self._monitor.update(int(latest["epoch"]), latest)

    def close(self) -> None:
        """Show the last state and finish the bar."""
        self.refresh()
        if self._monitor is not None:
            self._monitor.close()
