"""The two pictures of ``pwm diagnose``, from its numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pwm.analysis.model_quality.diagnosis_text import SECTIONS, Numbers
from pwm.analysis.plots import style
from pwm.numbers import readable

AHEAD = "steps imagined"

# Title, section of the numbers, and what draws it; that returns further arguments of ``style.dress``.
Panel = tuple[str, str, Callable[[Axes, Numbers], dict[str, Any]]]


def draw_model(numbers: Numbers, path: Path) -> Path:
    """Open-loop errors, group sums, imagined and real rewards, value calibration; returns ``path``."""
    panels: list[Panel] = [
        ("open-loop latent error", "open_loop", partial(_error, what="latent")),
        ("open-loop reward error", "open_loop", partial(_error, what="reward")),
        ("sums of latent groups / sum when encoded", "open_loop", _groups),
        ("reward over the next steps, own policy", "return_gap", _rewards),
        ("predicted and realised, means over states", "means", _means),
        ("value calibration", "value_calibration", _calibration),
    ]
    return _draw({**numbers, "means": _compared(numbers)}, path, panels, columns=3)


def draw_smoothness(numbers: Numbers, path: Path) -> Path:
    """Jacobian norms of one and of composed steps, integration and prediction error; returns ``path``."""
    squared = "error (squared, over squared change)"
    panels: list[Panel] = [
        ("dz_k/dz_0: root mean square singular value", "smoothness", partial(_composed, key="gain")),
        ("dz_k/dz_0: largest singular value", "smoothness", partial(_composed, key="spectral")),
        (f"integration {squared}", "integration", _integration),
        (f"one-step prediction {squared}", "integration", _prediction),
    ]
    return _draw(numbers, path, panels, columns=2)


def _draw(numbers: Numbers, path: Path, panels: Sequence[Panel], columns: int) -> Path:
    episodes = numbers["episodes"]
    title = (
        f"{numbers['task']}  {numbers['algorithm']}  seed {numbers['training_seed']}: return "
        f"{readable(episodes['mean'])} in {episodes['episodes']} episodes"
    )
    figure, places = style.panel_grid(len(panels), columns, (4.8, 3.7), title)
    for axes, (name, section, draw) in zip(places, panels, strict=True):
        if (found := numbers[section]) is None:
            style.note(axes, SECTIONS[section].missing)
            style.dress(axes, name)
        else:
            style.dress(axes, name, **draw(axes, found))
    return style.save_figure(figure, path)


def _error(axes: Axes, found: Numbers, what: str) -> dict[str, Any]:
    steps = range(1, found["steps"] + 1)
    style.draw_line(axes, steps, found[f"{what}_error"], color=style.IMAGINED, label="over change")
    style.draw_line(axes, steps, found[f"{what}_over_variance"], color=style.OTHER, label="over variance")
    style.draw_level(axes, 1.0, "predicting no change")
    return {"x": AHEAD, "logarithmic": True}


def _groups(axes: Axes, found: Numbers) -> dict[str, Any]:
    if (groups := found["groups"]) is None:
        style.note(axes, "latents are observations:\nthey have no groups")
        return {}
    steps = range(found["steps"] + 1)
    style.draw_band(axes, steps, groups["min"], groups["max"], style.IMAGINED, label="all groups")
    style.draw_line(axes, steps, groups["mean"], color=style.IMAGINED, label="mean")
    style.draw_line(axes, steps, groups["negative"], color=style.GREY, label="share of entries below 0")
    return {"x": AHEAD}


def _rewards(axes: Axes, found: Numbers) -> dict[str, Any]:
    rewards, horizon = found["rewards"], found["horizon"]["steps"]
    steps = range(1, len(rewards["imagined"]) + 1)
    style.draw_line(axes, steps, rewards["realised"], color=style.REAL, label="real")
    style.draw_line(axes, steps, rewards["imagined"], color=style.IMAGINED, label="imagined")
    axes.axvline(horizon, color=style.GREY, linewidth=1, linestyle=style.DOTTED, label="actor's horizon")
    return {"x": "steps"}


def _compared(numbers: Numbers) -> Numbers:
    """Everything whose predicted and realised means are known, by name."""
    gap = numbers["return_gap"] or {}
    pairs = {
        "H rewards": gap.get("horizon"),
        "objective": gap.get("objective"),
        "value": numbers["value_calibration"],
    }
    return {name: pair for name, pair in pairs.items() if pair is not None}


def _means(axes: Axes, found: Numbers) -> dict[str, Any]:
    places = np.arange(len(found))
    for offset, key, shade in ((-0.2, "predicted", style.IMAGINED), (0.2, "realised", style.REAL)):
        heights = [pair[key] for pair in found.values()]
        bars = axes.bar(places + offset, heights, 0.38, color=shade, label=key)
        axes.bar_label(bars, fmt="%.3g", fontsize=style.SMALL, padding=2)
    axes.set_xticks(places, list(found))
    axes.margins(y=0.12)
    return {}


def _calibration(axes: Axes, found: Numbers) -> dict[str, Any]:
    predicted, realised, std = (
        np.array([group[key] for group in found["bins"]]) for key in ("predicted", "realised", "std")
    )
    ends = [min(predicted.min(), realised.min()), max(predicted.max(), realised.max())]
    axes.plot(ends, ends, color="black", linewidth=1, linestyle=style.DOTTED, label="perfect")
    axes.errorbar(
        predicted, realised, yerr=std, color=style.OTHER, marker="o", markersize=4, linewidth=1.2, capsize=3,
        label=f"{len(predicted)} groups of states, ± std",
    )  # fmt: skip
    return {"x": "value", "y": "discounted return that followed"}


def _composed(axes: Axes, found: Numbers, key: str) -> dict[str, Any]:
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
    return {"x": "composed steps k", "logarithmic": True}


def _integration(axes: Axes, found: Numbers) -> dict[str, Any]:
    for number, (name, method) in enumerate(found["methods"].items()):
        order = "" if method["order"] is None else f", order {method['order']:.2f}"
        look = {"color": style.colour(number), "label": f"{name}{order}", "marker": "o"}
        style.draw_line(axes, method["substeps"], method["error"], **look)
    if found["own"]["error"]:
        style.draw_level(axes, found["own"]["error"], "the model's own", color=style.GREY)
    return _over_substeps(axes, found) | {"logarithmic": True}


def _prediction(axes: Axes, found: Numbers) -> dict[str, Any]:
    for number, (name, error) in enumerate(found["prediction"].items()):
        substeps = found["methods"][name]["substeps"]
        style.draw_line(axes, substeps, error, color=style.colour(number), label=name, marker="o")
    for key, label, look in (
        ("own_prediction", "the model's own", style.DOTTED),
        ("reference_prediction", "exact solution", style.DASHED),
    ):
        if found[key] is not None:
            style.draw_level(axes, found[key], label, color=style.GREY, linestyle=look)
    return _over_substeps(axes, found)


def _over_substeps(axes: Axes, found: Numbers) -> dict[str, Any]:
    ticks = next(iter(found["methods"].values()))["substeps"]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    return {"x": "substeps K"}
