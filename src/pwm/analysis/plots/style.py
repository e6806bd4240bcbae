"""One look for all figures: colours, panels, lines and bands, axes, notes, and how a figure is written.

Every figure has a canvas of its own, so that no global backend or list of figures is touched and none has to
be closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogFormatter, StrMethodFormatter
from numpy.typing import ArrayLike

from pwm.errors import DataError
from pwm.files import write_atomically
from pwm.training.work import ENV_STEPS, UPDATES, in_words

# Okabe and Ito's palette: the colours stay apart for every common kind of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#666666"
# What happened and what was imagined; a third curve beside them.
REAL, IMAGINED, OTHER = "black", COLOURS[1], COLOURS[0]
DASHED, DOTTED = (0, (5, 1.5)), (0, (1, 1))
LINE_STYLES = ("-", DASHED, DOTTED)
# Points.
SMALL = 8
MINUTES = "wall time (minutes)"
# Axes of large numbers.
STEPS = (in_words(ENV_STEPS), in_words(UPDATES))
# Seconds.
MINUTE = 60.0
DPI = 120


def colour(number: int) -> str:
    """Return the colour of the curve or arm of that number."""
    return COLOURS[number % len(COLOURS)]


def arm_style(number: int) -> dict[str, Any]:
    """Return colour and line style of the arm of that number, different for the first 21 arms."""
    return {"color": colour(number), "linestyle": LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)]}


def new_figure(size: tuple[float, float], title: str = "") -> Figure:
    """Return an empty figure of that size [inches]."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=SMALL + 3)
    return figure


def panel_grid(
    count: int, columns: int, panel: tuple[float, float], title: str = "", share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels of that size [inches], at most ``columns`` in a row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure((max(panel[0] * columns, 4.6), panel[1] * rows + 0.6), title)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)
    for spare in panels[count:]:
        spare.axis("off")
    return figure, panels[:count]


def draw_line(axes: Axes, xs: ArrayLike, ys: Sequence[float | None] | ArrayLike, **options: Any) -> None:
    """Draw ``ys`` over ``xs`` [points]; None and NaN leave gaps, and fewer than three points get markers."""
    values = np.asarray(ys, dtype=float)
    marker = "o" if len(values) < 3 else None
    axes.plot(xs, values, **{"linewidth": 1.5, "marker": marker, "markersize": 4} | options)


def draw_band(axes: Axes, xs: ArrayLike, low: ArrayLike, high: ArrayLike, color: str, **options: Any) -> None:
    """Fill the area from ``low`` to ``high`` [points]; one point, whose band has no area, gets a bar."""
    if np.isnan(np.asarray(low, dtype=float)).all():
        return
    if np.size(xs) == 1:
        axes.vlines(xs, low, high, color=color, linewidth=1.5)
    else:
        axes.fill_between(xs, low, high, color=color, alpha=0.18, linewidth=0, **options)


def draw_level(axes: Axes, level: float, label: str = "", **options: Any) -> None:
    """Draw a horizontal line, with a label for the legend."""
    look: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": DOTTED, "label": label}
    axes.axhline(level, **look | options)


def note(axes: Axes, text: str = "not logged") -> None:
    """Say in an empty panel why nothing is drawn there."""
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=SMALL + 1
    )
    axes.set_xticks([])
    axes.set_yticks([])


def dress(
    axes: Axes, title: str, x: str = "", y: str = "", logarithmic: bool = False, legend: bool = True
) -> None:
    """Give a panel its title, labels, grid and legend, once everything is drawn.

    Args:
        axes: the panel.
        title, x, y: texts.
        logarithmic: the y axis is, if all lines are positive and span more than a decade.
        legend: show one, if anything has a label.
    """
    axes.set_title(title, fontsize=SMALL + 1)
    axes.set_xlabel(x, fontsize=SMALL)
    axes.set_ylabel(y, fontsize=SMALL)
    if x in STEPS:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if logarithmic:
        _scale_if_wide(axes)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=SMALL)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=SMALL, framealpha=0.85, edgecolor="none")


def scale_logarithmically(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers, also between decades where there are few of these."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))


def _scale_if_wide(axes: Axes) -> None:
    drawn = np.array([y for line in axes.lines for y in np.asarray(line.get_ydata(), dtype=float)])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) and drawn.max() > 10 * drawn.min() > 0:
        scale_logarithmically(axes)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as PNG, atomically; returns ``path``.

    Raises:
        DataError: the folder cannot be written to.
    """
    try:
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error
    return path
