"""The picture of real and imagined episodes, drawn from what ``imagination`` measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogFormatter, MaxNLocator, StrMethodFormatter

from pwm.analysis.plots.visualization import COLOURS, GREY, save

REAL, IMAGINED, READ_OUT = "black", COLOURS[1], COLOURS[0]
LINES = 4
MAX_TICKS = 12


def draw(numbers: Mapping[str, Any], path: Path) -> Path:
    """Draw the strips, the most varying channels, the rewards and the open-loop error; returns ``path``."""
    figure = Figure(figsize=(13.5, 10), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(numbers), fontsize=10)
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[2.5, 1.0]))
    left, right = top.subfigures(1, 2, width_ratios=[1.35, 1.0])
    _strips(left, numbers)
    reward, total, error = right.subplots(3, 1, sharex=True, height_ratios=[1.0, 1.0, 1.35])
    _rewards(reward, total, numbers["shown"])
    _error(error, numbers["latent_error"])
    _channels(bottom, numbers)
    return save(figure, path)


def _title(numbers: Mapping[str, Any]) -> str:
    shown, score = numbers["shown"], numbers["readout"]["r2"]
    loss = "nothing varies in these episodes" if score is None else f"R² = {score:.4f} on unseen episodes"
    return (
        f"{numbers['task']}  {numbers['algorithm']}  seed {numbers['training_seed']}: "
        f"the same {numbers['steps']} actions in reality and in open-loop imagination\n"
        f"shown: episode {shown['episode']} from step {shown['start']}, the median error among the starts "
        f"with much change; linear read-out of observations: {loss}"
    )


def _strips(figure: SubFigure, numbers: Mapping[str, Any]) -> None:
    shown = numbers["shown"]
    mean, std = np.array(shown["channel_mean"]), np.array(shown["channel_std"])
    real, imagined = ((np.array(shown[key]) - mean) / std for key in ("real", "predicted"))
    axes = figure.subplots(3, 1, sharex=True)
    panels = {"real": real, "imagined": imagined, "imagined - real": imagined - real}
    channels = real.shape[1]
    limit = max(1.0, float(np.quantile(np.abs(real), 0.99)))
    for panel, (name, values) in zip(axes, panels.items(), strict=True):
        image = panel.imshow(
            values.T,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
            # One column per state, centred on its step.
            extent=(-0.5, len(values) - 0.5, channels - 0.5, -0.5),
        )
        panel.set_title(name, fontsize=10)
        panel.set_ylabel("channel", fontsize=8)
        panel.set_yticks(range(0, channels, -(-channels // MAX_TICKS)))
        panel.tick_params(labelsize=8)
        _mark_horizon(panel, numbers)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].set_xlabel(_step_label(numbers), fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01, extend="both")
    bar.set_label("standard deviations of the channel", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _rewards(reward: Axes, total: Axes, shown: Mapping[str, Any]) -> None:
    real, imagined = np.array(shown["real_reward"]), np.array(shown["predicted_reward"])
    steps = np.arange(1, len(real) + 1)
    marker = "o" if len(steps) == 1 else None
    sums = f"cumulative reward: real {real.sum():.4g}, imagined {imagined.sum():.4g}"
    for axes, title, summed in ((reward, "reward", False), (total, sums, True)):
        for values, colour, name in ((real, REAL, "real"), (imagined, IMAGINED, "imagined")):
            drawn = values.cumsum() if summed else values
            axes.plot(steps, drawn, color=colour, linewidth=1.4, marker=marker, label=name)
        axes.set_title(title, fontsize=10)
        _finish(axes)


def _error(axes: Axes, error: Mapping[str, Any]) -> None:
    names = ("mean", "median", "low", "high", "over_variance")
    curves = {name: np.array(error[name], dtype=float) for name in names}
    steps = np.arange(1, len(curves["mean"]) + 1)
    low, high = (round(100 * share) for share in error["band"])
    axes.fill_between(
        steps, curves["low"], curves["high"], color=IMAGINED, alpha=0.18, linewidth=0, label=f"{low}-{high} %"
    )
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, curves["median"], color=IMAGINED, linewidth=1.2, linestyle=(0, (5, 1.5)), label="median")
    axes.plot(steps, curves["mean"], color=IMAGINED, linewidth=1.8, marker=marker, label="mean")
    label = "mean over variance"
    axes.plot(steps, curves["over_variance"], color=READ_OUT, linewidth=1.2, marker=marker, label=label)
    axes.axhline(1.0, color="black", linewidth=1, linestyle=(0, (1, 1)), label="predicting no change")
    first = error["first_step_above_1"]["mean"]
    verdict = "never above 1" if first is None else f"first above 1 at step {first}"
    axes.set_title(f"relative latent error, {error['windows']} starts: mean {verdict}", fontsize=10)
    if (curves["mean"] > 0).any():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
        # Windows at rest are predicted almost perfectly; the scale belongs to the others.
        lowest = max(1e-4, 0.3 * np.nanmin(curves["median"]))
        axes.set_ylim(min(lowest, 0.8), max(axes.get_ylim()[1], 1.2))
    axes.set_xlabel("steps imagined", fontsize=9)
    _finish(axes, legend=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=8, frameon=False)


def _channels(figure: SubFigure, numbers: Mapping[str, Any]) -> None:
    shown = numbers["shown"]
    real, encoded, imagined = (np.array(shown[key]) for key in ("real", "encoded", "predicted"))
    variation = (real / np.array(shown["channel_std"])).std(0)
    order = np.argsort(-variation, kind="stable")[:LINES]
    chosen = order[variation[order] > 0] if variation.any() else order[:1]
    scores = numbers["readout"]["r2_channels"]
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for axes, channel in zip(panels, chosen, strict=True):
        axes.plot(real[:, channel], color=REAL, linewidth=1.6, label="real")
        axes.plot(imagined[:, channel], color=IMAGINED, linewidth=1.4, label="imagined")
        style = {"linewidth": 1.2, "linestyle": (0, (1, 1.5))}
        axes.plot(encoded[:, channel], color=READ_OUT, label="read out of real latents", **style)
        score = scores[channel]
        axes.set_title(
            f"channel {channel}" + ("" if score is None else f"   read-out R² {score:.4f}"), fontsize=9
        )
        axes.set_xlabel("steps imagined", fontsize=9)
        _mark_horizon(axes, numbers)
        _finish(axes, legend=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8, frameon=False)


def _mark_horizon(axes: Axes, numbers: Mapping[str, Any]) -> None:
    first = numbers["latent_error"]["first_step_above_1"]["mean"]
    if first is not None:
        axes.axvline(first, color=GREY, linewidth=1, linestyle=(0, (4, 2)))


def _step_label(numbers: Mapping[str, Any]) -> str:
    seconds = numbers["control_dt"]
    return "steps imagined" + (f" (one step = {1000 * seconds:.3g} ms)" if seconds else "")


def _finish(axes: Axes, legend: bool = True) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if legend:
        axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")
