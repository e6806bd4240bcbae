"""What a person sees while a run goes on, and where its time goes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch
from tqdm import tqdm

from pwm.numbers import readable

# Metric, what it is called while training, and its unit.
SHOWN = (
    ("eval/episode_return", "eval", ""),
    ("train/episode_return", "train", ""),
    ("train/reward", "reward", "/step"),
    ("fps", "fps", ""),
    ("memory/rss", "rss", " MB"),
)
# Seconds between two states of a bar.
BAR_INTERVAL = 0.5


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


class EpochTime:
    """Moving average of the time an epoch takes, and the time left that follows from it.

    Bias-corrected: the average of few epochs is their weighted mean, so that a slow first epoch does not
    weigh more than any other.

    Args:
        rate: weight of the newest epoch. The default remembers about 20 epochs, one evaluation included.
    """

    def __init__(self, rate: float = 0.05) -> None:
        self.rate = rate
        self._sum = 0.0
        self._weight = 0.0

    def add(self, seconds: float) -> None:
        """Count one epoch."""
        self._sum += self.rate * (seconds - self._sum)
        self._weight += self.rate * (1.0 - self._weight)

    def left(self, epochs: int) -> float | None:
        """Seconds that ``epochs`` more epochs take; None before the first epoch."""
        return epochs * self._sum / self._weight if self._weight else None


class TrainingMonitor:
    """Shows on stderr how far training is: a bar on a terminal, else a line every ``interval`` seconds.

    Both show the latest returns (the mean reward per step as long as no episode of training has ended),
    environment steps per second, resident memory and the time left; before the first epoch, how much of the
    warm-up is done.

    Args:
        epochs: epochs of the whole run.
        initial: epochs already done.
        title: shown first.
        enabled: False shows nothing.
        interval: seconds between lines where stderr is no terminal (log files of batch jobs).
    """

    def __init__(
        self,
        epochs: int,
        initial: int = 0,
        title: str = "",
        enabled: bool = True,
        interval: float = 30.0,
    ) -> None:
        self.epochs = epochs
        self.epoch = initial
        self.title = title
        self._enabled = enabled
        self._interval = interval
        self._time = EpochTime()
        self._updated = time.monotonic()
        self._latest: dict[str, float] = {}
        self._lines = not sys.stderr.isatty()
        self._printed: tuple[int, float] | None = None
        self._warm_up_shown = self._updated
        self._bar = tqdm(
            total=epochs,
            initial=initial,
            desc=title,
            disable=not enabled or self._lines,
            dynamic_ncols=True,
            mininterval=BAR_INTERVAL,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )

    def start(self) -> None:
        """Begin to measure time now; without this it begins when the monitor is made."""
        self._updated = time.monotonic()

    def update(self, epoch: int, record: Mapping[str, float]) -> None:
        """Advance to ``epoch``; returns, speed and memory are taken from ``record`` where it has them."""
        if not self._enabled:
            return
        now = time.monotonic()
        done = epoch - self.epoch
        # Warm-up comes once, in the record of the first epoch.
        elapsed = now - self._updated - record.get("time/warmup", 0.0)
        for _ in range(done):
            self._time.add(elapsed / done)
        self.epoch, self._updated = epoch, now
        self._latest |= record
        with self._while_someone_reads():
            if not self._lines:
                self._bar.set_postfix(self._figures(), refresh=False)
                self._bar.update(done)
            elif self._printed is None or now - self._printed[1] >= self._interval:
                self._print(now)

    def warm_up(self, share: float) -> None:
        """Show that so much of the warm-up is done."""
        now = time.monotonic()
        if not self._enabled or now - self._warm_up_shown < (self._interval if self._lines else BAR_INTERVAL):
            return
        self._warm_up_shown = now
        done = f"{100 * share:.0f} %"
        with self._while_someone_reads():
            if self._lines:
                print("  ".join(filter(None, (self.title, "warm-up", done))), file=sys.stderr, flush=True)
            else:
                self._bar.set_postfix(self._figures() | {"warm-up": done})

    @contextmanager
    def _while_someone_reads(self) -> Iterator[None]:
        """Go silent for good where stderr leads nowhere any more, as after ``2>&1 | head``."""
        try:
            yield
        except OSError:
            self._enabled = False

    def _figures(self) -> dict[str, str]:
        """Return the figures that are shown behind the epoch, by label."""
        known = dict(self._latest)
        if "train/episode_return" in known:
            known.pop("train/reward", None)
        figures = {label: f"{readable(known[key], 0)}{unit}" for key, label, unit in SHOWN if key in known}
        left = self._time.left(self.epochs - self.epoch)
        return figures if left is None else figures | {"eta": tqdm.format_interval(round(left))}

    def _print(self, now: float) -> None:
        self._printed = (self.epoch, now)
        parts = [self.title] if self.title else []
        parts += [f"epoch {self.epoch}/{self.epochs}", f"{100 * self.epoch // self.epochs} %"]
        parts += [f"{label} {value}" for label, value in self._figures().items()]
        print("  ".join(parts), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Finish the bar, or print where training ended."""
        if not self._enabled:
            return
        with self._while_someone_reads():
            if self._lines and (self._printed is None or self._printed[0] != self.epoch):
                self._print(time.monotonic())
            self._bar.close()


def memory_usage(device: torch.device) -> dict[str, float]:
    """Resident memory of this process and allocated GPU memory, each now and its peak, in 10^6 bytes."""
    # Linux reports kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    record = {
        "memory/rss": psutil.Process().memory_info().rss / 1e6,
        "memory/rss_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
    }
    if device.type == "cuda":
        record["memory/device"] = torch.cuda.memory_allocated(device) / 1e6
        record["memory/device_peak"] = torch.cuda.max_memory_allocated(device) / 1e6
    return record
