"""Draw the stored results of a study: learning curves, and what model and critic were worth.

    python benchmarks/plot_study.py results/cpu_suite

Writes into the folder: ``curves.png`` and ``curves_minutes.png`` (evaluated return over environment steps or
minutes of training, median and range over seeds, one panel per task) and, of algorithms with a world model,
``diagnostics.png`` (a row per task: relative latent errors, imagined against real reward, value against real
return, critic spread, saturation, gradient norms). More algorithms than curves can be told apart give
``changes.png`` instead: where every run ended.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray
from study_files import Curve, Curves, load

from pwm.analysis.plots.style import COLOURS, save_figure
from pwm.analysis.plots.visualization import draw_references

PANELS = {
    "latent error, 1 step": ("eval/latent_error_k1",),
    "latent error, 4 steps": ("eval/latent_error_k4",),
    "latent error, 16 steps": ("eval/latent_error_k16",),
    "16 rewards: imagined (full), real (dashed)": ("eval/imagined_reward", "eval/realised_reward"),
    "value: critic (full), real (dashed)": ("eval/value", "eval/realised_value"),
    "critic spread": ("eval/critic_spread",),
    "saturation, mean |pre-tanh mean|": ("actor/saturation",),
    "gradient norm, actor": ("actor/grad_norm",),
    "gradient norm, critic": ("critic/grad_norm",),
    "gradient norm, world model": ("wm/grad_norm",),
}
# Columns a curve is drawn over: label of the axis, and how many of the column's units make one of the axis.
AXES = {"env_steps": ("environment steps", 1.0), "train_time": ("minutes of training", 60.0)}
LOGARITHMIC = ("latent error", "critic spread", "gradient norm")


def draw(
    axes: Axes,
    curves: Iterable[Curve],
    key: str,
    colour: Any,
    label: str,
    style: str = "-",
    over: str = "env_steps",
) -> None:
    """Median over seeds with the range between the lowest and the highest seed, as far as all seeds go.

    Seeds that were evaluated elsewhere than the first one are interpolated; those without the columns are
    left out.
    """
    recorded = [run for run in curves if over in run and key in run]
    seen = [(run[over][known], run[key][known]) for run in recorded if (known := ~np.isnan(run[key])).any()]
    if not seen:
        return
    first = seen[0][0]
    places = first[(first >= max(x[0] for x, _ in seen)) & (first <= min(x[-1] for x, _ in seen))]
    values = np.stack([np.interp(places, x, y) for x, y in seen])
    places = places / AXES[over][1]
    axes.plot(places, np.median(values, 0), style, color=colour, linewidth=1.6, label=label)
    axes.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)


def _grid(
    rows: int, columns: int, title: str, panel: tuple[float, float]
) -> tuple[Figure, NDArray[np.object_]]:
    """Figure of ``rows`` x ``columns`` panels of the size ``panel`` [inches]."""
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _dress(axes: Axes, title: str, over: str = "env_steps") -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(AXES[over][0], fontsize=8)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_returns(
    rows: list[dict[str, str]], curves: Curves, colours: dict[str, Any], over: str = "env_steps"
) -> Figure:
    """Evaluated return beside the scores of zero and random actions, one panel per task."""
    tasks = sorted({row["task"] for row in rows})
    columns = min(3, len(tasks))
    title = "evaluated return: median and range over seeds"
    figure, panels = _grid(-(-len(tasks) // columns), columns, title, (4.2, 3.2))
    for task, axes in zip(tasks, panels.flat, strict=False):
        for algorithm, colour in colours.items():
            if runs := curves.get((task, algorithm)):
                draw(axes, runs, "eval/episode_return", colour, algorithm, over=over)
        first = next(row for row in rows if row["task"] == task)
        draw_references(axes, {key: float(first[key]) for key in ("zero_action", "random_action")})
        _dress(axes, task, over)
        axes.legend(fontsize=7)
    for spare in panels.flat[len(tasks) :]:
        spare.axis("off")
    return figure


def draw_diagnostics(curves: Curves, colours: dict[str, Any]) -> Figure:
    """``PANELS`` side by side, one row per task; a panel without data says so."""
    tasks = sorted({task for task, _ in curves})
    title = "on the evaluated episodes (gradient norms: of the last epoch): median and range over seeds"
    figure, grid = _grid(len(tasks), len(PANELS), title, (3.2, 2.5))
    for task, row in zip(tasks, grid, strict=True):
        for (name, keys), axes in zip(PANELS.items(), row, strict=True):
            for algorithm, colour in colours.items():
                for key, style in zip(keys, ("-", "--"), strict=False):
                    if runs := curves.get((task, algorithm)):
                        draw(axes, runs, key, colour, algorithm, style)
            _dress(axes, f"{task}\n{name}")
            if not axes.lines:
                axes.set(xticks=[], yticks=[], xlabel="not recorded")
            elif name.startswith(LOGARITHMIC):
                axes.set_yscale("log")
    lines = [Line2D([], [], color=colour, label=algorithm) for algorithm, colour in colours.items()]
    figure.legend(handles=lines, loc="outside upper left", ncols=min(6, len(lines)))
    return figure


def draw_changes(rows: list[dict[str, str]], algorithms: list[str]) -> Figure:
    """Peak and mean of the last ten evaluations of every run, one panel per task, one line per algorithm.

    The first algorithm is what the others change; a vertical line goes through the mean of its runs. Tasks
    with a single run have nothing to compare and are left out.
    """
    runs = Counter(row["task"] for row in rows)
    tasks = sorted(task for task, number in runs.items() if number > 1)
    title = "mean of the last ten evaluations (full), peak (hollow), every run"
    figure, panels = _grid(1, len(tasks), title, (3.4, 0.22 * len(algorithms) + 0.6))
    for task, axes in zip(tasks, panels[0], strict=True):
        of_task = [row for row in rows if row["task"] == task]
        places = [algorithms.index(row["algorithm"]) for row in of_task]
        colour = COLOURS[0]
        axes.scatter(
            [float(row["peak"]) for row in of_task], places, s=18, facecolors="none", edgecolors=colour
        )
        axes.scatter([float(row["last10"]) for row in of_task], places, s=18, color=colour)
        unchanged = [float(row["last10"]) for row in of_task if row["algorithm"] == algorithms[0]]
        if unchanged:
            axes.axvline(float(np.mean(unchanged)), color=colour, linewidth=0.8, alpha=0.6)
        _dress(axes, task)
        axes.set_xlabel("evaluated return", fontsize=8)
        axes.set_ylim(len(algorithms) - 0.5, -0.5)
        axes.set_yticks(range(len(algorithms)), algorithms if axes is panels[0][0] else [], fontsize=7)
    return figure


def changes_only(algorithms: Sequence[str]) -> bool:
    """True if there are too many algorithms to tell their curves apart: changes to the first one."""
    return len(algorithms) > len(COLOURS)


def _diagnosed(curves: Curves, algorithm: str) -> bool:
    """Whether any run of the algorithm recorded something that ``PANELS`` shows."""
    keys = {key for panel in PANELS.values() for key in panel}
    runs = [run for (_, name), seeds in curves.items() if name == algorithm for run in seeds]
    return any(not np.isnan(run[key]).all() for run in runs for key in keys & run.keys())


def plot_study(
    folder: Path, rows: list[dict[str, str]], curves: Curves, algorithms: Iterable[str]
) -> list[Path]:
    """Draw the pictures of those of the algorithms that were run into ``folder``; returns their paths."""
    known = {row["algorithm"] for row in rows}
    shown = [name for name in algorithms if name in known]
    if changes_only(shown):
        return [save_figure(draw_changes(rows, shown), folder / "changes.png")]
    colours = dict(zip(shown, COLOURS, strict=False))
    models = {name: colour for name, colour in colours.items() if _diagnosed(curves, name)}
    inner = {key: runs for key, runs in curves.items() if key[1] in models}
    pictures = {
        "curves.png": draw_returns(rows, curves, colours),
        "curves_minutes.png": draw_returns(rows, curves, colours, "train_time"),
    }
    if inner:
        pictures["diagnostics.png"] = draw_diagnostics(inner, models)
    return [save_figure(picture, folder / name) for name, picture in pictures.items()]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = load(folder)
    for path in plot_study(folder, *found, dict.fromkeys(row["algorithm"] for row in found[0])):
        print(path)
