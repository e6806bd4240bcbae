"""The two pictures of ``pwm diagnose``, from its numbers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pwm.analysis.model_quality.diagnosis_text import SECTIONS, Numbers
from pwm.analysis.plots import style
from pwm.numbers import readable

AHEAD = "steps imagined"


def draw_model(numbers: Numbers, path: Path) -> Path:
    """Open-loop errors, group sums, imagined and real rewards, value calibration; returns ``path``."""
    figure, panels = _figure(6, 3, numbers)
    latent, reward, groups, gap, objective, value = panels
    found = numbers["open_loop"]
    _error(latent, found, "latent")
    _error(reward, found, "reward")
    _groups(groups, found)
    _rewards(gap, numbers["return_gap"])
    _bias(objective, numbers)
    _calibration(value, numbers["value_calibration"])
    return style.save_figure(figure, path)


def draw_smoothness(numbers: Numbers, path: Path) -> Path:
    """Jacobian norms of one and of composed steps, integration and prediction error; returns ``path``."""
    figure, panels = _figure(4, 2, numbers)
    gain, largest, error, prediction = panels
    _composed(gain, numbers["smoothness"], "gain")
    _composed(largest, numbers["smoothness"], "spectral")
    _integration(error, numbers["integration"])
    _prediction(prediction, numbers["integration"])
    return style.save_figure(figure, path)


def _figure(count: int, columns: int, numbers: Numbers) -> tuple[Figure, list[Axes]]:
    episodes = numbers["episodes"]
    title = (
        f"{numbers['task']}  {numbers['algorithm']}  seed {numbers['training_seed']}: return "
        f"{readable(episodes['mean'])} in {episodes['episodes']} episodes"
    )
    return style.panel_grid(count, columns, (4.8, 3.7), title)


def _note(axes: Axes, section: str, title: str) -> None:
    """Say why there is nothing to draw."""
    style.note(axes, SECTIONS[section].missing)
    style.dress(axes, title)


def _error(axes: Axes, found: Numbers | None, what: str) -> None:
    title = f"open-loop {what} error"
    if found is None:
        return _note(axes, "open_loop", title)
    steps = range(1, found["steps"] + 1)
    style.draw_line(axes, steps, found[f"{what}_error"], color=style.IMAGINED, label="over change")
    style.draw_line(axes, steps, found[f"{what}_over_variance"], color=style.OTHER, label="over variance")
    style.draw_level(axes, 1.0, "predicting no change")
    style.dress(axes, title, AHEAD, logarithmic=True)


def _groups(axes: Axes, found: Numbers | None) -> None:
    title = "sums of latent groups / sum when encoded"
    if found is None:
        return _note(axes, "open_loop", title)
    groups = found["groups"]
    if groups is None:
        style.note(axes, "latents are observations:\nthey have no groups")
        return style.dress(axes, title)
    steps = range(found["steps"] + 1)
    style.draw_band(axes, steps, groups["min"], groups["max"], style.IMAGINED, label="all groups")
    style.draw_line(axes, steps, groups["mean"], color=style.IMAGINED, label="mean")
    style.draw_line(axes, steps, groups["negative"], color=style.GREY, label="share of entries below 0")
    style.dress(axes, title, AHEAD)


def _rewards(axes: Axes, found: Numbers | None) -> None:
    title = "reward over the next steps, own policy"
    if found is None:
        return _note(axes, "return_gap", title)
    rewards = found["rewards"]
    steps = range(1, len(rewards["imagined"]) + 1)
    style.draw_line(axes, steps, rewards["realised"], color=style.REAL, label="real")
    style.draw_line(axes, steps, rewards["imagined"], color=style.IMAGINED, label="imagined")
    horizon = found["horizon"]["steps"]
    axes.axvline(horizon, color=style.GREY, linewidth=1, linestyle=style.DOTTED, label="actor's horizon")
    style.dress(axes, title, "steps")


def _bias(axes: Axes, numbers: Numbers) -> None:
    """Predicted and realised means of everything that is compared."""
    title = "predicted and realised, means over states"
    gap = numbers["return_gap"] or {}
    pairs = {
        "H rewards": gap.get("horizon"),
        "objective": gap.get("objective"),
        "value": numbers["value_calibration"],
    }
    known = {name: pair for name, pair in pairs.items() if pair is not None}
    if not known:
        return _note(axes, "return_gap", title)
    places = np.arange(len(known))
    for offset, key, shade in ((-0.2, "predicted", style.IMAGINED), (0.2, "realised", style.REAL)):
        heights = [pair[key] for pair in known.values()]
        bars = axes.bar(places + offset, heights, 0.38, color=shade, label=key)
        axes.bar_label(bars, fmt="%.3g", fontsize=style.SMALL, padding=2)
    axes.set_xticks(places, list(known))
    axes.margins(y=0.12)
    style.dress(axes, title)


def _calibration(axes: Axes, found: Numbers | None) -> None:
    title = "value calibration"
    if found is None:
        return _note(axes, "value_calibration", title)
    predicted, realised, std = (
        np.array([group[key] for group in found["bins"]]) for key in ("predicted", "realised", "std")
    )
    ends = [min(predicted.min(), realised.min()), max(predicted.max(), realised.max())]
    axes.plot(ends, ends, color="black", linewidth=1, linestyle=style.DOTTED, label="perfect")
    axes.errorbar(
        predicted, realised, yerr=std, color=style.OTHER, marker="o", markersize=4, linewidth=1.2, capsize=3,
        label=f"{len(predicted)} groups of states, ± std",
    )  # fmt: skip
    style.dress(axes, title, "value", "discounted return that followed")


def _composed(axes: Axes, found: Numbers | None, key: str) -> None:
    what = {"gain": "root mean square singular value", "spectral": "largest singular value"}[key]
    title = f"dz_k/dz_0: {what}"
    if found is None:
        return _note(axes, "smoothness", title)
    for name, shade, label in (
        ("open_loop", style.OTHER, "recorded actions"),
        ("closed_loop", style.IMAGINED, "policy's actions"),
    ):
        values = found[name][key]
        steps = values.get("at", range(1, len(values["median"]) + 1))
        style.draw_line(axes, steps, values["median"], color=shade, label=f"{label}, median")
        style.draw_line(
            axes, steps, values["p95"], color=shade, linestyle=style.DASHED, label=f"{label}, 95 %"
        )
    style.draw_level(axes, 1.0)
    style.dress(axes, title, "composed steps k", logarithmic=True)


def _integration(axes: Axes, found: Numbers | None) -> None:
    title = "integration error (squared, over squared change)"
    if found is None:
        return _note(axes, "integration", title)
    for number, (name, method) in enumerate(found["methods"].items()):
        order = "" if method["order"] is None else f", order {method['order']:.2f}"
        look = {"color": style.colour(number), "label": f"{name}{order}", "marker": "o"}
        style.draw_line(axes, method["substeps"], method["error"], **look)
    if found["own"]["error"]:
        style.draw_level(axes, found["own"]["error"], "the model's own", color=style.GREY)
    _over_substeps(axes, found, title, logarithmic=True)


def _prediction(axes: Axes, found: Numbers | None) -> None:
    title = "one-step prediction error (squared, over squared change)"
    if found is None:
        return _note(axes, "integration", title)
    for number, (name, error) in enumerate(found["prediction"].items()):
        substeps = found["methods"][name]["substeps"]
        style.draw_line(axes, substeps, error, color=style.colour(number), label=name, marker="o")
    for key, label, look in (
        ("own_prediction", "the model's own", style.DOTTED),
        ("reference_prediction", "exact solution", style.DASHED),
    ):
        if found[key] is not None:
            style.draw_level(axes, found[key], label, color=style.GREY, linestyle=look)
    _over_substeps(axes, found, title, logarithmic=False)


def _over_substeps(axes: Axes, found: Numbers, title: str, logarithmic: bool) -> None:
    ticks = next(iter(found["methods"].values()))["substeps"]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    style.dress(axes, title, "substeps K", logarithmic=logarithmic)
