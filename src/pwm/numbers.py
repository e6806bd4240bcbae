"""Numbers for tables and progress, of whatever size they are."""

from __future__ import annotations


def readable(value: float, decimals: int = 1) -> str:
    """``value`` with ``decimals`` decimals, or three digits where those would show fewer than two of them.

    For example ``1203.4``, ``0.25`` and ``3e-06``; zero has no sign.
    """
    if value == 0:
        return f"{0:.{decimals}f}"
    return f"{value:.{decimals}f}" if abs(value) >= 10.0 ** (1 - decimals) else f"{value:.3g}"
