"""Pictures that compare arms; each function returns a figure and touches no file and no global state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from pwm.analysis.plots import style
from pwm.analysis.statistics.curves import Array, check_smoothing, mean_curve, on_common_grid, smooth
from pwm.analysis.statistics.estimates import performance_profile, summarise
from pwm.analysis.tables.records import load_records, series
from pwm.analysis.tables.run_measures import floor_of
from pwm.analysis.tables.runs import Run
from pwm.errors import DataError
from pwm.parts import flat_values
from pwm.study.comparison.arm_comparison import StudyComparison
from pwm.study.comparison.arms import Arm, references_of, steps_in_words
from pwm.study.comparison.wording import count, counts, number

# Inches; two panels in a row are still readable on a phone held upright.
PANEL = (3.7, 2.8)
BINS = 40
THRESHOLDS = 101
NETWORKS = {"wm": "world model", "actor": "actor", "critic": "critic"}
FLOOR = "dashed: the floor, the better one of zero and random actions"
BAND = (
    "mean over seeds, where all of them have data; band: its 95 % Student interval at each point\n"
    "(a wide one leaves the panel); thin lines: single runs"
)
NO_BAND = "one seed per arm: no mean and no band"

# Positions and values of one run.
Points = tuple[Array, Array]


def draw_study(study: StudyComparison, smoothing: float = 0.0) -> dict[str, Figure]:
    """All figures of a study by name; ``performance_profile`` only where the runs at hand allow it.

    Args:
        study: what was compared.
        smoothing: of learning curves and losses, see ``learning_curves``.

    Raises:
        ConfigError: impossible smoothing.
        DataError: metrics of a run cannot be read.
    """
    arms, profiles = study.arms, performance_profiles(study)
    figures = {
        "returns_by_steps": learning_curves(arms, "steps", smoothing),
        "returns_by_time": learning_curves(arms, "wall_time", smoothing),
        "final_returns": task_bars(study),
        "gradient_norms": gradient_norms(arms),
        "losses": losses(arms, smoothing),
    }
    return figures if profiles is None else figures | {"performance_profile": profiles}


def learning_curves(
    arms: Sequence[Arm], x: Literal["steps", "wall_time"] = "steps", smoothing: float = 0.0
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
    figure, panels = style.panel_grid(len(tasks), 2, PANEL)
    scale = style.MINUTE if x == "wall_time" else 1.0

    def evaluated(run: Run) -> Points:
        at = np.array([getattr(e, x) for e in run.evaluations], dtype=float) / scale
        return at, np.array([e.episode_return for e in run.evaluations])

    banded = False
    for task, axes in zip(tasks, panels):
        for arm, look in _styled(arms):
            smoothed = _draw_runs(axes, [evaluated(run) for run in arm.runs(task)], look, smoothing)
            if len(smoothed) > 1:
                grid, mean = mean_curve(smoothed)
                style.draw_band(axes, grid, mean.low, mean.high, look["color"])
                banded = True
        _draw_floor(axes, floor_of(references_of(arms, task)))
        _limit_bands(axes)
        style.dress(axes, task, style.MINUTES if x == "wall_time" else steps_in_words(arms))
    caption = f"{BAND if banded else NO_BAND}; {FLOOR}{_smoothed(smoothing)}"
    return _finish(figure, arms, "evaluated return", caption)


def task_bars(study: StudyComparison) -> Figure:
    """The scores that are compared, one panel per task: mean over seeds, 95 % interval, single runs.

    Bars start at the floor where this is known, else at zero: their length is what was learned.
    """
    figure, panels = style.panel_grid(len(study.tasks), 2, PANEL)
    for task, axes in zip(study.tasks, panels):
        floor = study.floor(task)
        bottom = float(np.nan_to_num(floor))
        for place, (arm, look) in enumerate(_styled(study.arms)):
            colour, values = look["color"], study.scores[arm.label].get(task)
            if values is None:
                axes.text(
                    place, bottom, "no run", ha="center", va="bottom", fontsize=style.SMALL, color=style.GREY
                )
                continue
            mean = summarise(values).mean
            axes.bar(place, mean.value - bottom, 0.6, bottom=bottom, color=colour, alpha=0.55, linewidth=0)
            if len(values) > 1:
                below, above = mean.value - mean.low, mean.high - mean.value
                axes.errorbar(place, mean.value, [[below], [above]], color="black", capsize=4, linewidth=1.2)
            places = place + (np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1))
            axes.scatter(places, values, s=14, color=colour, edgecolor="black", linewidth=0.5)
        _draw_floor(axes, floor)
        axes.set_xlim(-0.6, len(study.arms) - 0.4)
        axes.set_xticks(range(len(study.arms)), [""] * len(study.arms))
        style.dress(axes, task)
    caption = "bars: mean over seeds; dots: single runs"
    if any(len(values) > 1 for found in study.scores.values() for values in found.values()):
        caption += "; whiskers: 95 % Student interval of the mean"
    return _finish(figure, study.arms, study.measure, f"{caption}\n{FLOOR}")


def gradient_norms(arms: Sequence[Arm]) -> Figure:
    """Histograms of the gradient norms before clipping, a row per task, a panel per network.

    Raises:
        DataError: no arm, or ``metrics.jsonl`` of a run cannot be read.
    """
    tasks = _tasks(arms)
    figure, panels = style.panel_grid(3 * len(tasks), 3, (2.7, PANEL[1]))
    places = iter(panels)
    for task in tasks:
        records = [[_records(run) for run in arm.runs(task)] for arm in arms]
        for phase, name in NETWORKS.items():
            axes = next(places)
            key = f"{phase}/grad_norm"
            norms = [[series(r, "epoch", key)[1] for r in runs] for runs in records]
            clips = {flat_values(r.config.alg)[f"{phase}_grad_norm"] for a in arms for r in a.runs(task)}
            _draw_histograms(axes, norms, clips, arms)
            lost = sum(key in r and r[key] is None for runs in records for run in runs for r in run)
            title = f"{task}\n{name}" + (f" ({lost} not finite)" if lost else "")
            style.dress(axes, title, "norm", "% of epochs" if phase == "wm" else "")
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
    figure, panels = style.panel_grid(max(1, len(wanted)), 2, (PANEL[0], 2.3))
    if not wanted:
        style.note(panels[0])
    for (task, title, key, runs), axes in zip(wanted, panels):
        for found, (arm, look) in zip(runs, _styled(arms)):
            drawn = zip(found, arm.runs(task), strict=True)
            pairs = (series(records, run.progress, key) for records, run in drawn)
            curves = [(np.array(a), np.array(b)) for a, b in pairs if a]
            _draw_runs(axes, curves, look, smoothing)
        style.dress(axes, f"{task}: {title}", steps_in_words(arms), logarithmic=True)
    caption = f"mean over seeds; thin lines: single runs{_smoothed(smoothing)}\n"
    caption += "dynamics losses of a flow and of an MLP measure different things, latent errors the same"
    return _finish(figure, arms, "losses and model errors in training", caption)


def performance_profiles(study: StudyComparison) -> Figure | None:
    """Share of the runs of all tasks above each normalised score, with bootstrap bands.

    Tasks and scale are those of the interquartile means, see ``StudyComparison``.

    Returns:
        None with fewer than two such tasks, or where an arm has not the same number of seeds on each of them.
    """
    units = list(study.units.values())
    matrices = [matrix for matrix in study.normalised.values() if matrix is not None]
    if len(matrices) < len(study.arms) or (tasks := matrices[0].shape[1]) < 2:
        return None
    thresholds = np.linspace(min(m.min() for m in matrices), max(m.max() for m in matrices), THRESHOLDS)
    figure, (axes,) = style.panel_grid(1, 1, (5.6, 3.4))
    for matrix, labels, (_, look) in zip(matrices, units, _styled(study.arms)):
        profile = performance_profile(matrix, thresholds, units=labels)
        axes.step(thresholds, profile.value, where="post", linewidth=1.8, **look)
        style.draw_band(axes, thresholds, profile.low, profile.high, look["color"], step="post")
    score = "normalised score s: 0 = floor, 1 = mean of the task's best arm"
    style.dress(axes, f"{tasks} tasks", score, "share of runs above s")
    axes.set_ylim(0, 1.02)
    banded = any(len(matrix) > 1 for matrix in matrices)
    caption = "bands: 95 % stratified bootstrap intervals, too narrow for few seeds"
    title = f"performance profile: {study.measure}"
    return _finish(figure, study.arms, title, caption if banded else "one seed per task has no band")


def _smoothed(weight: float) -> str:
    return f"\nsmoothed by {weight:g}, thin lines raw" if weight else ""


def _tasks(arms: Sequence[Arm]) -> list[str]:
    if not arms:
        raise DataError("no arms to draw")
    return sorted({task for arm in arms for task in arm.tasks})


def _styled(arms: Sequence[Arm]) -> Iterator[tuple[Arm, dict[str, Any]]]:
    """Every arm with its colour and line style."""
    return ((arm, style.arm_style(number)) for number, arm in enumerate(arms))


def _records(run: Run) -> list[dict[str, float]]:
    """Records of the run up to its last evaluation, after which nothing of it is compared."""
    return [r for r in load_records(run.path) if r["epoch"] <= run.evaluations[-1].epoch]


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
        names[f"{prefix}{depth}"] = f"latent error, {count(depth, 'step')}"
    return [(title, key, records) for key, title in names.items() if key in keys]


def _draw_runs(axes: Axes, curves: Sequence[Points], look: dict[str, Any], smoothing: float) -> list[Points]:
    """Draw single runs thin and raw, and the mean of the smoothed ones; returns these."""
    smoothed = [(x, smooth(y, smoothing)) for x, y in curves]
    for x, y in curves:
        style.draw_line(axes, x, y, linewidth=0.7, alpha=0.45, markersize=2, **look)
    if curves:
        grid, values = on_common_grid(smoothed)
        style.draw_line(axes, grid, values.mean(0), linewidth=1.9, **look)
    return smoothed


def _draw_floor(axes: Axes, floor: float) -> None:
    """Draw and name the floor; nothing where it is unknown."""
    if np.isnan(floor):
        return
    style.draw_level(axes, floor, linestyle=style.DASHED)
    axes.annotate(
        f"floor {number(floor)}",
        (1, floor),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        fontsize=style.SMALL - 1,
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
        style.note(axes)
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
    for runs, (_, look) in zip(kept, _styled(arms)):
        shares = [np.histogram(run, edges)[0] / len(run) for run in runs if run]
        if shares:
            share = 100 * np.mean(shares, axis=0)
            axes.stairs(share, edges, fill=True, color=look["color"], alpha=0.2)
            axes.stairs(share, edges, linewidth=1.3, **look)


def _finish(figure: Figure, arms: Sequence[Arm], title: str, caption: str) -> Figure:
    """Above all panels the title and the arms with their seeds, below them how to read what is drawn."""
    handles = []
    for arm, look in _styled(arms):
        # A dollar sign would start a formula.
        name = arm.label.replace("$", r"\$")
        label = f"{name} ({counts([len(arm.runs(task)) for task in arm.tasks], 'seed')})"
        handles.append(Line2D([], [], linewidth=2.5, label=label, **look))
    figure.legend(
        handles=handles,
        title=title,
        title_fontsize=style.SMALL + 3,
        loc="outside upper center",
        ncols=min(3, len(handles)),
        fontsize=style.SMALL + 1,
        frameon=False,
    )
    figure.supxlabel(caption, fontsize=style.SMALL - 0.5, color=style.GREY)
    return figure
