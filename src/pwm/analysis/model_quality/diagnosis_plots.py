"""The two pictures of ``pwm diagnose``, from its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from pwm.analysis.model_quality.diagnosis_text import SECTIONS
from pwm.analysis.plots.visualization import COLOURS, GREY, save
from pwm.numbers import readable

Numbers = Mapping[str, Any]
REAL, IMAGINED, OTHER = "black", COLOURS[1], COLOURS[0]
DOTTED = (0, (1, 1))


def draw_model(numbers: Numbers, path: Path) -> Path:
    """Open-loop errors, group sums, imagined and real rewards, value calibration; returns ``path``."""
    figure, panels = _figure(2, 3, numbers)
    latent, reward, groups, gap, objective, value = panels
    found = numbers["open_loop"]
    _error(latent, found, "latent")
    _error(reward, found, "reward")
    _groups(groups, found)
    _rewards(gap, numbers["return_gap"])
    _bias(objective, numbers)
    _calibration(value, numbers["value_calibration"])
    return save(figure, path)


def draw_smoothness(numbers: Numbers, path: Path) -> Path:
    """Jacobian norms of one and of composed steps, integration and prediction error; returns ``path``."""
    figure, panels = _figure(2, 2, numbers)
    gain, largest, error, prediction = panels
    _composed(gain, numbers["smoothness"], "gain")
    _composed(largest, numbers["smoothness"], "spectral")
    _integration(error, numbers["integration"])
    _prediction(prediction, numbers["integration"])
    return save(figure, path)


def _error(axes: Axes, found: Numbers | None, what: str) -> None:
    axes.set_title(f"open-loop {what} error", fontsize=10)
    if found is None:
        _note(axes, "open_loop")
        return
    steps = range(1, found["steps"] + 1)
    _line(axes, steps, found[f"{what}_error"], IMAGINED, "over change")
    _line(axes, steps, found[f"{what}_over_variance"], OTHER, "over variance")
    axes.axhline(1.0, color="black", linewidth=1, linestyle=DOTTED, label="predicting no change")
    axes.set_xlabel("steps imagined", fontsize=9)
    _finish(axes, logarithmic=True)


def _groups(axes: Axes, found: Numbers | None) -> None:
    axes.set_title("sums of latent groups / sum when encoded", fontsize=10)
    if found is None:
        _note(axes, "open_loop")
        return
    groups = found["groups"]
    if groups is None:
        text = "latents are observations:\nthey have no groups"
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9)
        axes.set_axis_off()
        return
    steps = np.arange(found["steps"] + 1)
    low, mean, high = (_array(groups[key]) for key in ("min", "mean", "max"))
    axes.fill_between(steps, low, high, color=IMAGINED, alpha=0.18, linewidth=0, label="all groups")
    axes.plot(steps, mean, color=IMAGINED, linewidth=1.6, label="mean")
    axes.plot(steps, _array(groups["negative"]), color=GREY, linewidth=1.2, label="share of entries below 0")
    axes.set_xlabel("steps imagined", fontsize=9)
    _finish(axes)


def _rewards(axes: Axes, found: Numbers | None) -> None:
    axes.set_title("reward over the next steps, own policy", fontsize=10)
    if found is None:
        _note(axes, "return_gap")
        return
    rewards = found["rewards"]
    steps = range(1, len(rewards["imagined"]) + 1)
    _line(axes, steps, rewards["realised"], REAL, "real")
    _line(axes, steps, rewards["imagined"], IMAGINED, "imagined")
    axes.axvline(
        found["horizon"]["steps"], color=GREY, linewidth=1, linestyle=DOTTED, label="actor's horizon"
    )
    axes.set_xlabel("steps", fontsize=9)
    _finish(axes)


def _bias(axes: Axes, numbers: Numbers) -> None:
    """Predicted and realised means of everything that is compared."""
    axes.set_title("predicted and realised, means over states", fontsize=10)
    gap = numbers["return_gap"] or {}
    pairs = {
        "H rewards": gap.get("horizon"),
        "objective": gap.get("objective"),
        "value": numbers["value_calibration"],
    }
    known = {name: pair for name, pair in pairs.items() if pair is not None}
    if not known:
        _note(axes, "return_gap")
        return
    places = np.arange(len(known))
    for offset, key, colour in ((-0.2, "predicted", IMAGINED), (0.2, "realised", REAL)):
        heights = [pair[key] for pair in known.values()]
        bars = axes.bar(places + offset, heights, 0.38, color=colour, label=key)
        axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)
    axes.set_xticks(places, list(known))
    axes.margins(y=0.12)
    _finish(axes)


def _calibration(axes: Axes, found: Numbers | None) -> None:
    axes.set_title("value calibration", fontsize=10)
    if found is None:
        _note(axes, "value_calibration")
        return
    predicted, realised, std = (
        np.array([group[key] for group in found["bins"]]) for key in ("predicted", "realised", "std")
    )
    ends = [min(predicted.min(), realised.min()), max(predicted.max(), realised.max())]
    axes.plot(ends, ends, color="black", linewidth=1, linestyle=DOTTED, label="perfect")
    axes.errorbar(
        predicted, realised, yerr=std, color=OTHER, marker="o", markersize=4, linewidth=1.2, capsize=3,
        label=f"{len(predicted)} groups of states, ± std",
    )  # fmt: skip
    axes.set_xlabel("value", fontsize=9)
    axes.set_ylabel("discounted return that followed", fontsize=9)
    _finish(axes)


def _composed(axes: Axes, found: Numbers | None, key: str) -> None:
    what = {"gain": "root mean square singular value", "spectral": "largest singular value"}[key]
    axes.set_title(f"dz_k/dz_0: {what}", fontsize=10)
    if found is None:
        _note(axes, "smoothness")
        return
    for name, colour, label in (
        ("open_loop", OTHER, "recorded actions"),
        ("closed_loop", IMAGINED, "policy's actions"),
    ):
        values = found[name][key]
        steps = values.get("at", range(1, len(values["median"]) + 1))
        _line(axes, steps, values["median"], colour, f"{label}, median")
        _line(axes, steps, values["p95"], colour, f"{label}, 95 %", style=(0, (5, 1.5)))
    axes.axhline(1.0, color="black", linewidth=1, linestyle=DOTTED)
    axes.set_xlabel("composed steps k", fontsize=9)
    _finish(axes, logarithmic=True)


def _integration(axes: Axes, found: Numbers | None) -> None:
    axes.set_title("integration error (squared, over squared change)", fontsize=10)
    if found is None:
        _note(axes, "integration")
        return
    for number, (name, method) in enumerate(found["methods"].items()):
        order = "" if method["order"] is None else f", order {method['order']:.2f}"
        _line(
            axes, method["substeps"], method["error"], COLOURS[number % len(COLOURS)], f"{name}{order}", "o"
        )
    if found["own"]["error"]:
        axes.axhline(
            found["own"]["error"], color=GREY, linewidth=1, linestyle=DOTTED, label="the model's own"
        )
    _substeps(axes, found)
    _finish(axes, logarithmic=True)


def _prediction(axes: Axes, found: Numbers | None) -> None:
    axes.set_title("one-step prediction error (squared, over squared change)", fontsize=10)
    if found is None:
        _note(axes, "integration")
        return
    for number, (name, error) in enumerate(found["prediction"].items()):
        substeps = found["methods"][name]["substeps"]
        _line(axes, substeps, error, COLOURS[number % len(COLOURS)], name, "o")
    for key, label, style in (
        ("own_prediction", "the model's own", DOTTED),
        ("reference_prediction", "exact solution", (0, (5, 1.5))),
    ):
        if found[key] is not None:
            axes.axhline(found[key], color=GREY, linewidth=1, linestyle=style, label=label)
    _substeps(axes, found)
    _finish(axes)


def _substeps(axes: Axes, found: Numbers) -> None:
    ticks = next(iter(found["methods"].values()))["substeps"]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.set_xlabel("substeps K", fontsize=9)


def _figure(rows: int, columns: int, numbers: Numbers) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.8 * columns, 3.7 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    episodes = numbers["episodes"]
    figure.suptitle(
        f"{numbers['task']}  {numbers['algorithm']}  seed {numbers['training_seed']}: return "
        f"{readable(episodes['mean'])} in {episodes['episodes']} episodes",
        fontsize=11,
    )
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _line(
    axes: Axes,
    xs: Sequence[float] | range,
    ys: Sequence[float | None],
    colour: str,
    label: str,
    marker: str | None = None,
    style: Any = "-",
) -> None:
    values = _array(ys)
    marker = "o" if len(values) == 1 else marker
    axes.plot(
        xs, values, color=colour, linewidth=1.5, marker=marker, markersize=4, linestyle=style, label=label
    )


def _array(values: Sequence[float | None]) -> np.ndarray:
    """Numbers with NaN for None, which matplotlib leaves out."""
    return np.array(values, dtype=float)


def _note(axes: Axes, section: str) -> None:
    """Say why there is nothing to draw."""
    text = SECTIONS[section].missing
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def _finish(axes: Axes, logarithmic: bool = False) -> None:
    """Grid, scale and legend; a logarithmic scale only for positive values over more than a decade."""
    drawn = np.concatenate(
        [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.empty(0)]
    )
    drawn = drawn[np.isfinite(drawn)]
    if logarithmic and len(drawn) and drawn.max() > 10 * drawn.min() > 0:
        axes.set_yscale("log")
        if drawn.min() > 1e-3 and drawn.max() < 1e3:
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")
