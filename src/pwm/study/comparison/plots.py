"""Pictures that compare arms; each function returns a figure and touches no file and no global state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullFormatter

from pwm.analysis.plots.visualization import COLOURS, GREY, LINE_STYLES, MINUTE, REFERENCE_STYLES
from pwm.analysis.statistics.comparison import normalise
from pwm.analysis.statistics.curves import (
    Array,
    check_smoothing,
    mean_curve,
    on_common_grid,
    smooth,
)
from pwm.analysis.statistics.estimates import performance_profile, summarise
from pwm.analysis.tables.records import REFERENCES, load_records, series
from pwm.analysis.tables.run_measures import MEASURES
from pwm.analysis.tables.runs import Run
from pwm.errors import DataError
from pwm.numbers import readable
from pwm.parts import flat_values
from pwm.study.comparison.arms import Arm, reference_scale, zero_action

# Inches; two panels in a row are still readable on a phone held upright.
PANEL = (3.7, 2.8)
SMALL = 8
BINS = 40
THRESHOLDS = 101
NETWORKS = {"wm": "world model", "actor": "actor", "critic": "critic"}
BAND = (
    "mean over seeds, where all of them have data; band: its 95 % Student interval at each point\n"
    "(a wide one leaves the panel); thin lines: single runs"
)
NO_BAND = "one seed per arm: no mean and no band"

# Positions and values of one run.
Points = tuple[Array, Array]


def learning_curves(
    arms: Sequence[Arm], x: Literal["env_steps", "wall_time"] = "env_steps", smoothing: float = 0.0
) -> Figure:
    """Evaluated return, one panel per task: mean over seeds, its 95 % interval and the single runs.

    Runs are averaged where all seeds of the arm have data. Smoothing applies to each run before it is
    averaged; the single runs stay raw.

    Args:
        arms: at least one.
        x: axis; wall time is that of training on the machine of the run.
        smoothing: weight of the past in the moving average, 0 for none.

    Raises:
        ConfigError: impossible smoothing.
        DataError: no arm.
    """
    check_smoothing(smoothing)
    tasks = _tasks(arms)
    figure, panels = _grid(len(tasks), 2)
    scale = MINUTE if x == "wall_time" else 1.0

    def evaluated(run: Run) -> Points:
        at = np.array([getattr(e, x) for e in run.evaluations], dtype=float) / scale
        return at, np.array([e.episode_return for e in run.evaluations])

    banded = False
    for task, axes in zip(tasks, panels):
        for arm, style in _styled(arms):
            drawn = _draw_runs(axes, [evaluated(run) for run in arm.runs(task)], style, smoothing)
            banded |= _draw_band(axes, drawn, style["color"])
        _draw_zero_action(axes, arms, task)
        _limit_bands(axes)
        _dress(axes, task, "wall time (minutes)" if x == "wall_time" else "environment steps")
    caption = (BAND if banded else NO_BAND) + _smoothed(smoothing)
    return _finish(figure, arms, "evaluated return", caption)


def task_bars(arms: Sequence[Arm], measure: str = "final") -> Figure:
    """A measure of ``RunTable.rows``, one panel per task: mean over seeds, 95 % interval, single runs.

    Bars start at what doing nothing scores where this is known, else at zero: their length is what was
    learned.

    Raises:
        DataError: no arm, or a run has no value for the measure.
    """
    tasks = _tasks(arms)
    scores = [arm.scores(measure) for arm in arms]
    figure, panels = _grid(len(tasks), 2)
    for task, axes in zip(tasks, panels):
        floor = zero_action(arms, task)
        for place, (_, style) in enumerate(_styled(arms)):
            values = scores[place].get(task)
            if values is None:
                axes.text(place, floor or 0.0, "no run", ha="center", va="bottom", fontsize=SMALL, color=GREY)
                continue
            mean = summarise(values).mean
            bottom = floor or 0.0
            axes.bar(
                place, mean.value - bottom, 0.6, bottom=bottom, color=style["color"], alpha=0.55, linewidth=0
            )
            if len(values) > 1:
                below, above = mean.value - mean.low, mean.high - mean.value
                axes.errorbar(place, mean.value, [[below], [above]], color="black", capsize=4, linewidth=1.2)
            spread = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1)
            axes.scatter(place + spread, values, s=14, color=style["color"], edgecolor="black", linewidth=0.5)
        if floor is not None:
            axes.axhline(floor, color="black", linestyle=REFERENCE_STYLES["zero_action"], linewidth=1)
        _dress(axes, task, "" if floor is None else f"dashed: zero action {readable(floor)}")
        axes.set_xlim(-0.6, len(arms) - 0.4)
        axes.set_xticks(range(len(arms)), [""] * len(arms))
    caption = "bars: mean over seeds; dots: single runs"
    if any(len(values) > 1 for found in scores for values in found.values()):
        caption += "; whiskers: 95 % Student interval of the mean"
    return _finish(figure, arms, MEASURES.get(measure, measure), caption)


def gradient_norms(arms: Sequence[Arm]) -> Figure:
    """Histograms of the gradient norms before clipping, a row per task, a panel per network.

    Raises:
        DataError: no arm, or ``metrics.jsonl`` of a run cannot be read.
    """
    tasks = _tasks(arms)
    figure, panels = _grid(3 * len(tasks), 3, width=2.7)
    places = iter(panels)
    for task in tasks:
        records = [[_records(run) for run in arm.runs(task)] for arm in arms]
        for phase, name in NETWORKS.items():
            axes = next(places)
            key = f"{phase}/grad_norm"
            norms = [[series(r, "env_steps", key)[1] for r in runs] for runs in records]
            clips = {flat_values(r.config.alg)[f"{phase}_grad_norm"] for a in arms for r in a.runs(task)}
            _draw_histograms(axes, norms, clips, arms)
            lost = sum(key in r and r[key] is None for runs in records for run in runs for r in run)
            _dress(axes, f"{task}\n{name}" + (f" ({lost} not finite)" if lost else ""), "norm")
            if axes is panels[3 * tasks.index(task)]:
                axes.set_ylabel("% of epochs", fontsize=SMALL)
    caption = "mean norm of each epoch, every run counts the same; dotted: the clip"
    return _finish(figure, arms, "gradient norms before clipping", caption)


def losses(arms: Sequence[Arm], smoothing: float = 0.0) -> Figure:
    """Losses and open-loop latent errors during training: mean over seeds and single runs, panels by task.

    A flow and an MLP minimise different dynamics losses; the latent errors can be compared.

    Args:
        arms: at least one.
        smoothing: as in ``learning_curves``.

    Raises:
        ConfigError: impossible smoothing.
        DataError: no arm, or ``metrics.jsonl`` of a run cannot be read.
    """
    check_smoothing(smoothing)
    tasks = _tasks(arms)
    wanted = [(task, *panel) for task in tasks for panel in _loss_panels(arms, task)]
    figure, panels = _grid(max(1, len(wanted)), 2, height=2.3)
    if not wanted:
        _not_logged(panels[0])
    for (task, title, key, runs), axes in zip(wanted, panels):
        for found, (_, style) in zip(runs, _styled(arms)):
            curves = [
                (np.array(a), np.array(b)) for a, b in (series(r, "env_steps", key) for r in found) if a
            ]
            _draw_runs(axes, curves, style, smoothing)
        if axes.lines and all((np.asarray(line.get_ydata()) > 0).all() for line in axes.lines):
            axes.set_yscale("log")
        _dress(axes, f"{task}: {title}", "environment steps")
    caption = f"mean over seeds; thin lines: single runs{_smoothed(smoothing)}\n"
    caption += "dynamics losses of a flow and of an MLP measure different things, latent errors the same"
    return _finish(figure, arms, "losses and model errors in training", caption)


def performance_profiles(arms: Sequence[Arm], measure: str = "final") -> Figure | None:
    """Share of the runs of all tasks above each normalised score, with bootstrap bands.

    Returns:
        None with fewer than two tasks, without zero-action scores to normalise with, or where an arm lacks a
        task or has not the same number of seeds on every task.

    Raises:
        DataError: no arm, or a run has no value for the measure.
    """
    tasks = _tasks(arms)
    scores = [arm.scores(measure) for arm in arms]
    scale = reference_scale(arms, measure)
    complete = all(set(s) == set(tasks) and len({len(v) for v in s.values()}) == 1 for s in scores)
    if len(tasks) < 2 or scale is None or not complete:
        return None
    matrices = [normalise(np.stack([s[task] for task in tasks], axis=1), tasks, scale) for s in scores]
    thresholds = np.linspace(min(m.min() for m in matrices), max(m.max() for m in matrices), THRESHOLDS)
    figure, (axes,) = _grid(1, 1, width=5.6, height=3.4)
    for matrix, (_, style) in zip(matrices, _styled(arms)):
        profile = performance_profile(matrix, thresholds)
        axes.step(thresholds, profile.value, where="post", linewidth=1.8, **style)
        if len(matrix) > 1:
            axes.fill_between(
                thresholds,
                profile.low,
                profile.high,
                step="post",
                color=style["color"],
                alpha=0.18,
                linewidth=0,
            )
    _dress(axes, f"{len(tasks)} tasks", "normalised score s: 0 = doing nothing, 1 = best run of the task")
    axes.set_ylabel("share of runs above s", fontsize=SMALL)
    axes.set_ylim(0, 1.02)
    banded = any(len(matrix) > 1 for matrix in matrices)
    caption = "bands: 95 % stratified bootstrap intervals, too narrow for few seeds"
    title = f"performance profile: {MEASURES.get(measure, measure)}"
    return _finish(figure, arms, title, caption if banded else "one seed per task has no band")


def _smoothed(weight: float) -> str:
    return f"\nsmoothed by {weight:g}, thin lines raw" if weight else ""


def _tasks(arms: Sequence[Arm]) -> list[str]:
    if not arms:
        raise DataError("no arms to draw")
    return sorted({task for arm in arms for task in arm.tasks})


def _styled(arms: Sequence[Arm]) -> Iterator[tuple[Arm, dict[str, Any]]]:
    """Every arm with its colour and line style."""
    for number, arm in enumerate(arms):
        line = LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)]
        yield arm, {"color": COLOURS[number % len(COLOURS)], "linestyle": line}


def _records(run: Run) -> list[dict[str, float]]:
    """Records of the run up to its last evaluation, after which nothing of it is compared."""
    return [r for r in load_records(run.path) if r["env_steps"] <= run.evaluations[-1].env_steps]


def _loss_panels(arms: Sequence[Arm], task: str) -> list[tuple[str, str, list[list[Any]]]]:
    """Title, metric and the records of each arm's runs, of the panels one task has something to show in."""
    records = [[_records(run) for run in arm.runs(task)] for arm in arms]
    keys = {key for runs in records for run in runs for record in run for key in record}
    names = {
        "wm/dynamics_loss": "dynamics loss",
        "wm/reward_loss": "reward loss",
        "actor/loss": "actor loss",
        "critic/loss": "critic loss",
    }
    prefix = "wm/latent_error_k"
    depths = sorted(int(key.removeprefix(prefix)) for key in keys if key.startswith(prefix))
    for depth in dict.fromkeys([*depths[:1], *depths[-1:]]):
        names[f"{prefix}{depth}"] = f"latent error, {depth} step{'s' if depth > 1 else ''}"
    return [(title, key, records) for key, title in names.items() if key in keys]


def _draw_runs(axes: Axes, curves: Sequence[Points], style: dict[str, Any], smoothing: float) -> list[Points]:
    """Draw single runs thin and raw, and the mean of the smoothed ones; returns these."""
    smoothed = [(x, smooth(y, smoothing)) for x, y in curves]
    if not curves:
        return smoothed
    for x, y in curves:
        axes.plot(x, y, linewidth=0.7, alpha=0.45, marker=_marker(x), markersize=2, **style)
    grid, values = on_common_grid(smoothed)
    axes.plot(grid, values.mean(0), linewidth=1.9, marker=_marker(grid), markersize=4, **style)
    return smoothed


def _marker(x: Array) -> str | None:
    """One or two points make no line that could be seen."""
    return "o" if len(x) < 3 else None


def _draw_band(axes: Axes, curves: Sequence[Points], color: str) -> bool:
    """Draw the interval of the mean over runs; returns whether there are enough runs for one."""
    if len(curves) < 2:
        return False
    grid, mean = mean_curve(curves)
    if len(grid) == 1:
        # A band of one point has no area.
        around = [mean.value - mean.low, mean.high - mean.value]
        axes.errorbar(grid, mean.value, around, color=color, capsize=4, linewidth=1)
    axes.fill_between(grid, mean.low, mean.high, color=color, alpha=0.18, linewidth=0)
    return True


def _draw_zero_action(axes: Axes, arms: Sequence[Arm], task: str) -> None:
    if (score := zero_action(arms, task)) is None:
        return
    axes.axhline(score, color="black", linestyle=REFERENCE_STYLES["zero_action"], linewidth=1)
    axes.annotate(
        f"{REFERENCES['zero_action']} {readable(score)}",
        (1, score),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        fontsize=SMALL - 1,
        bbox={"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 1},
    )


def _limit_bands(axes: Axes) -> None:
    """Keep bands of few seeds, which can be many times as wide as the data, from flattening the curves."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    low, high = float(drawn.min()), float(drawn.max())
    margin = 0.4 * (high - low)
    bottom, top = axes.get_ylim()
    if margin:
        axes.set_ylim(max(bottom, low - margin), min(top, high + margin))


def _draw_histograms(
    axes: Axes, norms: Sequence[Sequence[Sequence[float]]], clips: Collection[float], arms: Sequence[Arm]
) -> None:
    """Draw norms by arm and run as shares of their epochs, on a logarithmic axis, and the clips."""
    # A norm of zero has no place on this axis: the network was not trained in that epoch.
    kept = [[[n for n in run if n > 0] for run in runs] for runs in norms]
    everything = [n for runs in kept for run in runs for n in run]
    if not everything:
        _not_logged(axes)
        return
    low, high = min(everything), max(everything)
    edges = np.geomspace(low, high if high > low else 2 * low, BINS + 1)
    axes.set_xscale("log")
    # Whole decades, so that their labels are enough.
    ends = np.log10([min(low, *clips), max(edges[-1], *clips)])
    axes.set_xlim(10.0 ** np.floor(ends[0]), 10.0 ** np.ceil(ends[1]))
    for clip in clips:
        axes.axvline(clip, color="black", linestyle=":", linewidth=1)
    axes.xaxis.set_minor_formatter(NullFormatter())
    for runs, (_, style) in zip(kept, _styled(arms)):
        shares = [np.histogram(run, edges)[0] / len(run) for run in runs if run]
        if shares:
            share = 100 * np.mean(shares, axis=0)
            axes.stairs(share, edges, fill=True, color=style["color"], alpha=0.2)
            axes.stairs(share, edges, linewidth=1.3, **style)


def _not_logged(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=GREY, fontsize=SMALL)


def _grid(
    count: int, columns: int, width: float = PANEL[0], height: float = PANEL[1]
) -> tuple[Figure, list[Axes]]:
    """Figure with ``count`` panels, at most ``columns`` in a row, and a canvas of its own."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(width * columns, 4.6), height * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[count:]:
        spare.axis("off")
    return figure, panels[:count]


def _dress(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, fontsize=SMALL + 1)
    axes.set_xlabel(x, fontsize=SMALL)
    if x == "environment steps":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(which="both", labelsize=SMALL)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(figure: Figure, arms: Sequence[Arm], title: str, caption: str) -> Figure:
    """Above all panels the title and the arms with their seeds, below them how to read what is drawn."""
    handles = []
    for arm, style in _styled(arms):
        counts = sorted({len(arm.runs(task)) for task in arm.tasks})
        seeds = "-".join(str(n) for n in dict.fromkeys([counts[0], counts[-1]]))
        # A dollar sign would start a formula.
        name = arm.label.replace("$", r"\$")
        label = f"{name} ({seeds} seed{'' if seeds == '1' else 's'})"
        handles.append(Line2D([], [], linewidth=2.5, label=label, **style))
    figure.legend(
        handles=handles,
        title=title,
        title_fontsize=SMALL + 3,
        loc="outside upper center",
        ncols=min(3, len(handles)),
        fontsize=SMALL + 1,
        frameon=False,
    )
    figure.supxlabel(caption, fontsize=SMALL - 0.5, color=GREY)
    return figure
