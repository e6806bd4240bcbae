"""Draw the stored results of ``cpu_suite.py``: learning curves, and what model and critic were worth.

    python benchmarks/plot_study.py results/cpu_suite

Writes ``curves.png`` (evaluated return, median and range over seeds, one panel per task) and
``diagnostics.png`` (one row per task: relative latent error, imagined against real reward, value against
real return, saturation) into the folder.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pwm.analysis.visualization import COLOURS, draw_references, save

Curve = dict[str, NDArray[np.float64]]
PANELS = {
    "relative latent error, 1 step": ("eval/latent_error_k1",),
    "relative latent error, 16 steps": ("eval/latent_error_k16",),
    "reward of 16 steps: imagined (full), real (dashed)": ("eval/imagined_reward", "eval/realised_reward"),
    "value: critic (full), real (dashed)": ("eval/value", "eval/realised_value"),
    "mean |pre-tanh mean|": ("actor/saturation",),
}


def load(folder: Path) -> tuple[list[dict[str, str]], dict[tuple[str, str], list[Curve]]]:
    """Rows of ``runs.csv``, and the curves of every seed by (task, algorithm)."""
    with (folder / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    curves: dict[tuple[str, str], list[Curve]] = {}
    for row in rows:
        name = f"{row['task']}_{row['algorithm']}_seed{row['seed']}.csv"
        with (folder / "curves" / name).open(newline="") as file:
            records = list(csv.DictReader(file))
        curve = {key: np.array([float(r[key] or "nan") for r in records]) for key in records[0]}
        curves.setdefault((row["task"], row["algorithm"]), []).append(curve)
    return rows, curves


def draw(axes: Axes, curves: Iterable[Curve], key: str, colour: Any, label: str, style: str = "-") -> None:
    """Median over seeds with the range between the lowest and the highest seed."""
    runs = list(curves)
    length = min(len(run[key]) for run in runs)
    steps = runs[0]["env_steps"][:length]
    values = np.stack([run[key][:length] for run in runs])
    seen = ~np.isnan(values).all(0)
    if not seen.any():
        return
    steps, values = steps[seen], values[:, seen]
    axes.plot(steps, np.nanmedian(values, 0), style, color=colour, linewidth=1.6, label=label)
    axes.fill_between(
        steps, np.nanmin(values, 0), np.nanmax(values, 0), color=colour, alpha=0.15, linewidth=0
    )


def _grid(rows: int, columns: int, title: str) -> tuple[Figure, NDArray[np.object_]]:
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("environment steps", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def plot_study(folder: Path) -> list[Path]:
    """Draw both pictures; returns their paths."""
    rows, curves = load(folder)
    tasks = sorted({row["task"] for row in rows})
    algorithms = list(dict.fromkeys(row["algorithm"] for row in rows))
    colours = {
        a: colormaps["tab20"](i) if len(algorithms) > len(COLOURS) else COLOURS[i]
        for i, a in enumerate(algorithms)
    }
    columns = min(3, len(tasks))
    returns, panels = _grid(
        -(-len(tasks) // columns), columns, "evaluated return: median and range over seeds"
    )
    details, grid = _grid(len(tasks), len(PANELS), "on the evaluated episodes")
    for number, task in enumerate(tasks):
        axes = panels.flat[number]
        for algorithm in algorithms:
            runs = curves.get((task, algorithm), [])
            if not runs:
                continue
            colour = colours[algorithm]
            draw(axes, runs, "eval/episode_return", colour, algorithm)
            for column, keys in enumerate(PANELS.values()):
                for key, style in zip(keys, ("-", "--"), strict=False):
                    draw(grid[number, column], runs, key, colour, algorithm, style)
        first = next(row for row in rows if row["task"] == task)
        draw_references(axes, {key: float(first[key]) for key in ("zero_action", "random_action")})
        _dress(axes, task)
        axes.legend(fontsize=7)
        for column, title in enumerate(PANELS):
            _dress(grid[number, column], f"{task}: {title}")
            if "error" in title:
                grid[number, column].set_yscale("log")
    for spare in panels.flat[len(tasks) :]:
        spare.axis("off")
    return [save(returns, folder / "curves.png"), save(details, folder / "diagnostics.png")]


if __name__ == "__main__":
    for path in plot_study(Path(sys.argv[1])):
        print(path)
