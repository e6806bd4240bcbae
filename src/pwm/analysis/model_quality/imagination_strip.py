"""The picture of real and imagined episodes, drawn from what ``imagination`` measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import MaxNLocator

from pwm.analysis.plots import style

AHEAD = "steps imagined"
LINES = 4
MAX_TICKS = 12


def draw(numbers: Mapping[str, Any], path: Path) -> Path:
    """Draw the strips, the most varying channels, the rewards and the open-loop error; returns ``path``."""
    figure = style.new_figure((13.5, 10), _title(numbers))
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[2.5, 1.0]))
    left, right = top.subfigures(1, 2, width_ratios=[1.35, 1.0])
    _strips(left, numbers)
    reward, total, error = right.subplots(3, 1, sharex=True, height_ratios=[1.0, 1.0, 1.35])
    _rewards(reward, total, numbers["shown"])
    _error(error, numbers["latent_error"])
    _channels(bottom, numbers)
    return style.save_figure(figure, path)


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
        panel.set_yticks(range(0, channels, -(-channels // MAX_TICKS)))
        _mark_horizon(panel, numbers)
        style.dress(panel, name, _step_label(numbers) if panel is axes[-1] else "", "channel")
        panel.grid(visible=False)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01, extend="both")
    bar.set_label("standard deviations of the channel", fontsize=style.SMALL)
    bar.ax.tick_params(labelsize=style.SMALL)


def _rewards(reward: Axes, total: Axes, shown: Mapping[str, Any]) -> None:
    real, imagined = np.array(shown["real_reward"]), np.array(shown["predicted_reward"])
    steps = np.arange(1, len(real) + 1)
    sums = f"cumulative reward: real {real.sum():.4g}, imagined {imagined.sum():.4g}"
    for axes, title, summed in ((reward, "reward", False), (total, sums, True)):
        for values, colour, name in ((real, style.REAL, "real"), (imagined, style.IMAGINED, "imagined")):
            style.draw_line(axes, steps, values.cumsum() if summed else values, color=colour, label=name)
        _dress(axes, title, "", legend=True)


def _error(axes: Axes, error: Mapping[str, Any]) -> None:
    names = ("mean", "median", "low", "high", "over_variance")
    curves = {name: np.array(error[name], dtype=float) for name in names}
    steps = np.arange(1, len(curves["mean"]) + 1)
    low, high = (round(100 * share) for share in error["band"])
    style.draw_band(axes, steps, curves["low"], curves["high"], style.IMAGINED, label=f"{low}-{high} %")
    median = {"color": style.IMAGINED, "linewidth": 1.2, "linestyle": style.DASHED}
    style.draw_line(axes, steps, curves["median"], label="median", **median)
    style.draw_line(axes, steps, curves["mean"], color=style.IMAGINED, linewidth=1.8, label="mean")
    style.draw_line(axes, steps, curves["over_variance"], color=style.OTHER, label="mean over variance")
    style.draw_level(axes, 1.0, "predicting no change")
    first = error["first_step_above_1"]["mean"]
    verdict = "never above 1" if first is None else f"first above 1 at step {first}"
    if (curves["mean"] > 0).any():
        style.scale_logarithmically(axes)
        # Windows at rest are predicted almost perfectly; the scale belongs to the others.
        lowest = max(1e-4, 0.3 * np.nanmin(curves["median"]))
        axes.set_ylim(min(lowest, 0.8), max(axes.get_ylim()[1], 1.2))
    _dress(axes, f"relative latent error, {error['windows']} starts: mean {verdict}", AHEAD)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=style.SMALL, frameon=False)


def _channels(figure: SubFigure, numbers: Mapping[str, Any]) -> None:
    shown = numbers["shown"]
    real, encoded, imagined = (np.array(shown[key]) for key in ("real", "encoded", "predicted"))
    variation = (real / np.array(shown["channel_std"])).std(0)
    order = np.argsort(-variation, kind="stable")[:LINES]
    chosen = order[variation[order] > 0] if variation.any() else order[:1]
    scores = numbers["readout"]["r2_channels"]
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for axes, channel in zip(panels, chosen, strict=True):
        steps = range(len(real))
        style.draw_line(axes, steps, real[:, channel], color=style.REAL, label="real")
        style.draw_line(axes, steps, imagined[:, channel], color=style.IMAGINED, label="imagined")
        look = {"color": style.OTHER, "linestyle": style.DOTTED}
        style.draw_line(axes, steps, encoded[:, channel], label="read out of real latents", **look)
        score = scores[channel]
        _mark_horizon(axes, numbers)
        _dress(axes, f"channel {channel}" + ("" if score is None else f"   read-out R² {score:.4f}"), AHEAD)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), fontsize=style.SMALL, frameon=False
    )


def _mark_horizon(axes: Axes, numbers: Mapping[str, Any]) -> None:
    first = numbers["latent_error"]["first_step_above_1"]["mean"]
    if first is not None:
        axes.axvline(first, color=style.GREY, linewidth=1, linestyle=style.DASHED)


def _step_label(numbers: Mapping[str, Any]) -> str:
    seconds = numbers["control_dt"]
    return AHEAD + (f" (one step = {1000 * seconds:.3g} ms)" if seconds else "")


def _dress(axes: Axes, title: str, x: str, legend: bool = False) -> None:
    style.dress(axes, title, x, legend=legend)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
