"""Give way when the machine is needed: SIGTERM, SIGINT and SIGUSR1 end a run at its next safe point."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from pwm.training.hooks import Preempted

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
# sysexits.h EX_TEMPFAIL: the same command again will succeed. Batch systems can requeue on it.
EXIT_CODE = 75


class PreemptionGuard:
    """While active, the first signal asks the run to stop; a second SIGINT interrupts it at once.

    Signals reach only the main thread; used in another one, the guard leaves them alone.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> PreemptionGuard:
        """Take over the signals this platform has."""
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def safe_point(self) -> None:
        """Raise Preempted if a signal has come."""
        if self.received is not None:
            raise Preempted(f"received {self.received}")
