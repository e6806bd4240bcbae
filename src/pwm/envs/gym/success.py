"""Which episodes ended in success, where the environment says it."""

from __future__ import annotations

import numpy as np


class SuccessTally:
    """Keeps whether the first episode of every copy since each reset ended in success.

    Args:
        count: copies.
    """

    def __init__(self, count: int) -> None:
        self._complete: list[bool] = []
        self._round = np.full(count, np.nan)
        self._running = np.ones(count, dtype=bool)

    def begin(self) -> None:
        """All copies were reset: their next episodes are counted."""
        self._round[:], self._running[:] = np.nan, True

    def add(self, success: np.ndarray, done: np.ndarray) -> None:
        """Note the episodes that ended.

        Args:
            success: [n] float64, 0 or 1, NaN where the environment does not say it.
            done: [n] bool, where an episode ended.
        """
        first = self._running & done
        self._round[first] = success[first]
        self._running &= ~done
        if first.any() and not self._running.any() and not np.isnan(self._round).any():
            self._complete += (self._round > 0.0).tolist()

    def take(self) -> list[bool]:
        """Return what is complete since the last call; see ``pwm.envs.base.JudgesSuccess``."""
        taken, self._complete = self._complete, []
        return taken
