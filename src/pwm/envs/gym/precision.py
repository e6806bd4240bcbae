"""Entries of observations that arrive at the model without their changes."""

from __future__ import annotations

import numpy as np

# Beyond it float32 skips whole numbers.
EXACT = 2.0**24
# Below it differences that float32 loses are taken for rounding, not for a message.
LARGE = 1e4
# So many values should lie between the smallest and the largest one met.
RESOLVED = 1000
# Calls before widths are judged: what has only begun to move has not shown how far it goes.
FIRST_LOOK = 32
# The normalisation of observations divides by sqrt(variance + 1e-5), at least 0.003: of changes below a
# tenth of it little is left. What is smaller than the lower limit is taken for rounding.
FAINT, ROUNDING = 3e-4, 1e-9
# Calls before changes are judged as too small.
SETTLED = 256


class PrecisionWatch:
    """Finds entries of observations whose changes are lost when they become float32.

    An entry is found once numbers beyond 2^24 come, or numbers beyond 10^4 of which float32 tells fewer than
    a thousand apart between the smallest and the largest one.

    Args:
        dim: width of one observation.
    """

    def __init__(self, dim: int) -> None:
        self._low, self._high = np.full(dim, np.inf), np.full(dim, -np.inf)
        self._seen, self._due = 0, FIRST_LOOK

    def lost(self, obs: np.ndarray) -> np.ndarray | None:
        """Which entries [dim] are found after ``obs`` [N, dim] float64; None if none is.

        Sizes are looked at in every call, widths after 32, 64, 128, ... of them.
        """
        np.minimum(self._low, obs.min(0), out=self._low)
        np.maximum(self._high, obs.max(0), out=self._high)
        self._seen += 1
        if self._seen < self._due and max(self._high.max(), -self._low.min()) <= EXACT:
            return None
        size = np.maximum(np.abs(self._low), np.abs(self._high))
        found = size > EXACT
        if self._seen >= self._due:
            self._due *= 2
            width, step = self._high - self._low, np.spacing(size.astype(np.float32))
            found |= (size > LARGE) & (width > 0) & (width < RESOLVED * step)
        return found if found.any() else None


class FaintWatch:
    """Finds entries of observations that change, but so little that the model hardly sees it.

    Args:
        dim: width of one observation.
    """

    def __init__(self, dim: int) -> None:
        self._low, self._high = np.full(dim, np.inf), np.full(dim, -np.inf)
        self._seen = 0

    def found(self, obs: np.ndarray) -> np.ndarray | None:
        """Which entries [dim] are faint, told once, in the call in which it is known; before that None.

        Args:
            obs: [N, dim], floating-point numbers.
        """
        np.minimum(self._low, obs.min(0), out=self._low)
        np.maximum(self._high, obs.max(0), out=self._high)
        self._seen += 1
        if self._seen < SETTLED:
            return None
        width, size = self._high - self._low, np.maximum(np.abs(self._low), np.abs(self._high))
        return (width < FAINT) & (width > ROUNDING) & (width > 1e-6 * size)
