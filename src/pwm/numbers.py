"""Numbers as text, of whatever size they are, and tables of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def readable(value: float, decimals: int = 1) -> str:
    """``value`` with ``decimals`` decimals, or three digits where those would show fewer than two of them.

    For example ``1203.4``, ``0.25`` and ``3e-06``; zero has no sign.
    """
    if value == 0:
        return f"{0:.{decimals}f}"
    return f"{value:.{decimals}f}" if abs(value) >= 10.0 ** (1 - decimals) else f"{value:.3g}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str]) -> str:
    """Return a plain-text table; the columns titled as one of ``words`` are flush left, all others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if title in words else cell.rjust(width)
            for title, cell, width in zip(header, row, widths, strict=True)
        ).rstrip()
        for row in [header, *rows]
    )
