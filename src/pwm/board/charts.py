"""Line charts as SVG, small enough for a page that shows many of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.ticker import EngFormatter, MaxNLocator

from pwm.analysis.plots.style import GREY

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 26, 56
# More points than pixels would show nothing more.
MOST_POINTS = 400
# Entries that a legend has room for.
LEGEND = 4


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        label: shown where the mouse rests on it.
        colour: of the curve.
        xs, ys: its points.
        kind: what the colour stands for, in the legend.
    """

    label: str
    colour: str
    xs: Sequence[float]
    ys: Sequence[float]
    kind: str = ""


def chart(title: str, x_label: str, lines: Sequence[Line], logarithmic: bool = False) -> str:
    """Return an SVG element with all ``lines``; points that are not finite are left out.

    Args:
        title: above it.
        x_label: below it.
        lines: the curves.
        logarithmic: powers of ten upwards; points that are not positive are left out, too.
    """
    curves = [(line, _points(line, logarithmic)) for line in lines]
    points = [point for _, found in curves for point in found]
    head = (
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>"
        f'<text x="{LEFT}" y="16" class="title">{escape(title)}</text>'
    )
    if not points:
        return f'{head}<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">nothing yet</text></svg>'
    x_ticks, y_ticks = (_ticks([point[axis] for point in points]) for axis in (0, 1))
    place_x = _scale(x_ticks, LEFT, WIDTH - RIGHT)
    place_y = _scale(y_ticks, HEIGHT - BOTTOM, TOP)
    body = []
    for value in y_ticks:
        y = place_y(value)
        body.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        tick = f"{10**value:.2g}" if logarithmic else _number(value)
        body.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    for value in x_ticks:
        x = place_x(value)
        body.append(f'<text x="{x:.1f}" y="{HEIGHT - 40}" text-anchor="middle">{_number(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    body.append(
        f'<text x="{middle}" y="{HEIGHT - 24}" text-anchor="middle" fill="{GREY}">{escape(x_label)}</text>'
    )
    kinds = {line.kind: line.colour for line, found in curves if found and line.kind}
    for number, (kind, colour) in enumerate(list(kinds.items())[:LEGEND]):
        x = LEFT + number * (WIDTH - LEFT) / min(len(kinds), LEGEND)
        body.append(f'<text x="{x:.0f}" y="{HEIGHT - 6}" fill="{colour}">{escape(kind)}</text>')
    for line, found in curves:
        label = f"<title>{escape(line.label)}</title>"
        if len(found) == 1:
            x, y = place_x(found[0][0]), place_y(found[0][1])
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}">{label}</circle>')
        elif found:
            path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in found)
            look = f'fill="none" stroke="{line.colour}" class="curve"'
            body.append(f'<polyline points="{path}" {look}>{label}</polyline>')
    return head + "".join(body) + "</svg>"


def _points(line: Line, logarithmic: bool) -> list[tuple[float, float]]:
    pairs = zip(line.xs, line.ys, strict=True)
    found = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    if logarithmic:
        found = [(x, math.log10(y)) for x, y in found if y > 0]
    step = math.ceil(len(found) / MOST_POINTS) or 1
    # The last point is what is looked for first.
    return found if step == 1 else [*found[:-1:step], found[-1]]


def _ticks(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    return [float(value) for value in MaxNLocator(5).tick_values(low, high)]


def _scale(ticks: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = ticks[0], ticks[-1]
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _number(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.0e}"
    return EngFormatter(sep="")(value) if abs(value) >= 1e4 else f"{value:g}"
