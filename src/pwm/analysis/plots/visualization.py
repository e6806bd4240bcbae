"""Pictures of a run, drawn from its ``metrics.jsonl`` alone, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes

from pwm.analysis.plots import style
from pwm.analysis.tables.records import REFERENCES, Records, load_records, load_reference, series
from pwm.errors import DataError
from pwm.numbers import readable
from pwm.training.work import ENV_STEPS, UPDATES, in_words

REFERENCE_STYLES = {"zero_action": style.DASHED, "random_action": style.DOTTED}
# Inches.
PANEL = (4.6, 3.6)
# Metric on the x axis of learning curves: its label, and how many of its units make one of the axis.
AXES = {
    ENV_STEPS: (in_words(ENV_STEPS), 1.0),
    UPDATES: (in_words(UPDATES), 1.0),
    "wall_time": (style.MINUTES, style.MINUTE),
}
# Of runs that have an environment to act in, and of those that learn from data alone.
CURVES = {True: (ENV_STEPS, "wall_time"), False: (UPDATES, "wall_time")}


class TrainingVisualizer:
    """Draws the pictures of one run folder into that folder.

    A metric the run did not log leaves its panel empty but for a note.

    Args:
        run_dir: holds ``metrics.jsonl``; ``config.yaml`` (title, gradient clips) and ``reference.json``
            (returns of the zero-action and random-action policies) are used where they exist.

    Raises:
        DataError: ``metrics.jsonl`` is missing, damaged or empty, or another of the files is damaged.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        self.records = load_records(self.run_dir)
        self.config = _load_config(self.run_dir / "config.yaml")
        self.reference = load_reference(self.run_dir)

    def add_data(self, record: Mapping[str, float]) -> None:
        """Draw one more record of metrics, which need not be in the file."""
        self.records.append(dict(record))

    @property
    def title(self) -> str:
        """Task, preset and seed of the run, or the folder's name where no configuration is stored."""
        env = self.config.get("env", {})
        names = [env.get("name"), env.get("task") or env.get("id"), self.config.get("preset")]
        seed = self.config.get("general", {}).get("seed")
        parts = [str(name) for name in names if name] + ([f"seed {seed}"] if seed is not None else [])
        return "  ".join(parts) or self.run_dir.name

    @property
    def axes(self) -> tuple[str, str]:
        """Metrics on the x axes: environment steps (updates, where there are none) and time."""
        acted = any(record.get("env_steps") for record in self.records)
        return CURVES[acted or not any(UPDATES in record for record in self.records)]

    def plot_learning_curves(self) -> Path:
        """Evaluated return (mean and spread over episodes) and training return; ``learning_curves.png``."""
        figure, panels = style.panel_grid(2, 2, PANEL, self.title, share_y=True)
        for axes, x in zip(panels, self.axes, strict=True):
            _draw_metric(
                axes, self.records, "train/episode_return", "training (exploring)", style.GREY, x,
                linewidth=0.8, alpha=0.8,
            )  # fmt: skip
            _draw_return(axes, self.records, x, "evaluated, mean ± std", {"color": style.COLOURS[0]})
            _finish_returns(axes, x, self.reference)
        panels[0].set_ylabel("episode return")
        return style.save_figure(figure, self.run_dir / "learning_curves.png")

    def plot_world_model_losses(self) -> Path:
        """Loss terms and open-loop latent error; ``world_model_losses.png``."""
        panels = {
            "total loss": {"wm/loss": "total"},
            "dynamics loss": {"wm/dynamics_loss": "dynamics"},
            "reward and termination loss": {
                "wm/reward_loss": "reward",
                "wm/termination_loss": "termination",
            },
            "open-loop latent error, relative to no change": {
                key: f"{key.rsplit('k', 1)[1]} steps ahead" for key in self._latent_error_keys()
            },
        }
        figure, axes = style.panel_grid(4, 2, PANEL, self.title)
        for panel, (title, keys) in zip(axes, panels.items(), strict=True):
            self._panel(panel, title, keys, logarithmic=True)
        return style.save_figure(figure, self.run_dir / "world_model_losses.png")

    def plot_gradient_norms(self) -> Path:
        """Gradient norms before clipping, with the clips; ``gradient_norms.png``."""
        figure, axes = style.panel_grid(3, 3, (4.2, PANEL[1]), self.title)
        alg = self.config.get("alg", {})
        names = {"wm": "world model", "actor": "actor", "critic": "critic"}
        for panel, (phase, name) in zip(axes, names.items(), strict=True):
            norms = {f"{phase}/grad_norm": "norm"}
            self._panel(panel, f"{name} gradient norm", norms, True, alg.get(f"{phase}_grad_norm"))
        return style.save_figure(figure, self.run_dir / "gradient_norms.png")

    def plot_summary_statistics(self) -> Path:
        """Key figures, policy spread, throughput and time per phase; ``training_summary.png``."""
        figure, (figures, policy, throughput, phases) = style.panel_grid(4, 2, PANEL, self.title)
        self._key_figures(figures)
        exploration = {"actor/std": "standard deviation", "actor/saturation": "mean |pre-tanh mean|"}
        self._panel(policy, "policy", exploration)
        acted = self.axes == CURVES[True]
        what = "environment steps" if acted else "transitions"
        self._panel(throughput, f"{what} per second", {"fps": "per second"})
        self._time_per_phase(phases)
        return style.save_figure(figure, self.run_dir / "training_summary.png")

    def generate_all_plots(self) -> list[Path]:
        """Draw everything; returns the files written."""
        return [
            self.plot_learning_curves(),
            self.plot_world_model_losses(),
            self.plot_gradient_norms(),
            self.plot_summary_statistics(),
        ]

    def _latent_error_keys(self) -> list[str]:
        prefix = "wm/latent_error_k"
        keys = {key for record in self.records for key in record if key.startswith(prefix)}
        return sorted(keys, key=lambda key: int(key.removeprefix(prefix)))

    def _panel(
        self,
        axes: Axes,
        title: str,
        keys: Mapping[str, str],
        logarithmic: bool = False,
        clip: float | None = None,
    ) -> None:
        drawn = [
            _draw_metric(axes, self.records, key, label, style.colour(number), self.axes[0])
            for number, (key, label) in enumerate(keys.items())
        ]
        if not any(drawn):
            style.note(axes)
        elif clip:
            style.draw_level(axes, clip, f"clip {clip:g}", color=style.COLOURS[1], linestyle=style.DASHED)
        style.dress(axes, title, AXES[self.axes[0]][0], logarithmic=logarithmic)

    def _key_figures(self, axes: Axes) -> None:
        steps, returns = series(self.records, self.axes[0], "eval/episode_return")
        rows = [("epochs", _last(self.records, "epoch", ".0f"))]
        rows += [(AXES[self.axes[0]][0], _last(self.records, self.axes[0], ",.0f"))]
        rows += [("wall time (minutes)", _last(self.records, "wall_time", ".1f", style.MINUTE))]
        if returns:
            best = max(range(len(returns)), key=returns.__getitem__)
            rows += [("best evaluated return", f"{readable(returns[best])} at {steps[best]:,.0f}")]
            rows += [("last evaluated return", readable(returns[-1]))]
        else:
            rows += [("evaluated return", "not logged")]
        rows += [(f"{REFERENCES[name]} scores", readable(value)) for name, value in self.reference.items()]
        rows += [("velocity evaluations", _last(self.records, "velocity_evals", ",.0f"))]
        rows += [("skipped updates", _last(self.records, "skipped_updates", ",.0f"))]
        rows += [("peak memory (MB)", _last(self.records, "memory/rss_peak", ",.0f"))]
        style.dress(axes, "key figures")
        axes.axis("off")
        for number, (name, value) in enumerate(rows):
            y = 0.95 - number * 0.095
            axes.text(0.0, y, name, transform=axes.transAxes, fontsize=9, color=style.GREY, va="center")
            axes.text(0.5, y, value, transform=axes.transAxes, fontsize=9, va="center")

    def _time_per_phase(self, axes: Axes) -> None:
        seconds: dict[str, float] = {}
        for record in self.records:
            for key, value in record.items():
                if key.startswith("time/") and value is not None:
                    seconds[key[5:]] = seconds.get(key[5:], 0.0) + value
        total = sum(seconds.values())
        if not total:
            style.note(axes)
            style.dress(axes, "time per phase")
            return
        names = sorted(seconds, key=seconds.__getitem__)
        shares = [100 * seconds[name] / total for name in names]
        axes.bar_label(axes.barh(names, shares, color=style.COLOURS[0]), fmt="%.0f %%", padding=2, fontsize=8)
        axes.set_xlim(0, max(shares) * 1.15)
        style.dress(axes, "time per phase", f"% of {total / style.MINUTE:.1f} minutes")


def plot_comparison(
    runs: Mapping[str, str | Path],
    path: str | Path,
    title: str = "",
    reference: Mapping[str, float] | None = None,
) -> Path:
    """Draw the evaluated returns of several runs into one picture.

    Args:
        runs: legend label -> run folder.
        path: PNG to write.
        title: shown on top.
        reference: returns by ``zero_action`` and ``random_action``; None takes them from the first run
            folder that stores them.

    Raises:
        DataError: there is no run, or one has no metrics.
    """
    if not runs:
        raise DataError("no runs to compare")
    if reference is None:
        found = (load_reference(Path(folder)) for folder in runs.values())
        reference = next((scores for scores in found if scores), {})
    loaded = {label: load_records(Path(folder)) for label, folder in runs.items()}
    figure, panels = style.panel_grid(2, 2, PANEL, title, share_y=True)
    for axes, x in zip(panels, CURVES[True], strict=True):
        for number, (label, records) in enumerate(loaded.items()):
            _draw_return(axes, records, x, label, style.arm_style(number))
        _finish_returns(axes, x, reference)
    panels[0].set_ylabel("evaluated episode return, mean ± std")
    return style.save_figure(figure, Path(path))


def draw_references(axes: Axes, reference: Mapping[str, float]) -> None:
    """Draw what doing nothing and acting at random score, as labelled dashed lines."""
    for name, label in REFERENCES.items():
        if name in reference:
            score, look = reference[name], REFERENCE_STYLES[name]
            style.draw_level(axes, score, f"{label} ({readable(score)})", linestyle=look)


def _draw_metric(
    axes: Axes, records: Records, key: str, label: str, color: str, x: str = "env_steps", **options: Any
) -> bool:
    """Draw a metric over ``x``; returns whether there was anything to draw."""
    xs, ys = series(records, x, key)
    if xs:
        style.draw_line(axes, np.array(xs) / AXES[x][1], ys, color=color, label=label, **options)
    return bool(xs)


def _draw_return(axes: Axes, records: Records, x: str, label: str, look: Mapping[str, Any]) -> None:
    """Draw the evaluated return with a band of one standard deviation over episodes."""
    evaluated = [r for r in records if r.get("eval/episode_return") is not None and r.get(x) is not None]
    if not evaluated:
        return
    # The band leaves out evaluations that did not log a spread.
    mean, std, xs = (
        np.array([r.get(key) for r in evaluated], dtype=float)
        for key in ("eval/episode_return", "eval/episode_return_std", x)
    )
    xs /= AXES[x][1]
    style.draw_line(axes, xs, mean, label=label, linewidth=1.8, marker="o", markersize=3, **look)
    style.draw_band(axes, xs, mean - std, mean + std, look["color"])


def _finish_returns(axes: Axes, x: str, reference: Mapping[str, float]) -> None:
    if axes.has_data():
        draw_references(axes, reference)
    else:
        style.note(axes)
    style.dress(axes, "", AXES[x][0])


def _last(records: Records, key: str, form: str, scale: float = 1.0) -> str:
    values = [record[key] for record in records if record.get(key) is not None]
    return format(float(values[-1]) / scale, form) if values and values[-1] is not None else "not logged"


def _load_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    sections = [values.get(key, {}) for key in ("env", "alg", "general")] if isinstance(values, dict) else []
    if not sections or not all(isinstance(section, dict) for section in sections):
        raise DataError(f"{path} is damaged: env, alg and general must be groups of keys")
    return values
