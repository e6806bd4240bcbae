"""What a person sees while a run goes on, and where its time goes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm import tqdm


class PhaseTimer:
    """Seconds per named phase: ``with timer("wm"): ...``.

    On a GPU the phases measure launch times, because waiting for the device would slow training down.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the block's duration to ``phase``."""
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def flush(self) -> dict[str, float]:
        """``time/<phase>`` since the last call."""
        record = {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        self.seconds.clear()
        return record


class TrainingMonitor:
    """Progress bar with the estimated time left and the latest returns.

    Args:
        epochs: epochs of the whole run.
        initial: epochs already done.
        title: shown before the bar.
        enabled: False shows nothing.
    """

    def __init__(self, epochs: int, initial: int = 0, title: str = "", enabled: bool = True) -> None:
        self._bar = tqdm(
            total=epochs,
            initial=initial,
            desc=title,
            unit="epoch",
            disable=not enabled,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
        )
        self._shown: dict[str, str] = {}

    def update(self, epoch: int, record: dict[str, float]) -> None:
        """Advance to ``epoch``; show returns and speed where ``record`` has them."""
        for key, label in (
            ("eval/episode_return", "eval"),
            ("train/episode_return", "train"),
            ("fps", "fps"),
        ):
            if key in record:
                self._shown[label] = f"{record[key]:.0f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(epoch - self._bar.n)

    def close(self) -> None:
        """Finish the bar."""
        self._bar.close()


def memory_usage(device: torch.device) -> dict[str, float]:
    """``memory/rss``: peak resident set in MB; ``memory/device``: allocated GPU memory in MB."""
    # Linux reports kilobytes, macOS bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    record = {"memory/rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if device.type == "cuda":
        record["memory/device"] = torch.cuda.memory_allocated(device) / 1e6
    return record
