"""Pictures of a run, drawn from its ``metrics.jsonl`` alone, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pwm.analysis.tables.records import REFERENCES, Records, load_records, load_reference, series
from pwm.errors import DataError
from pwm.files import write_atomically
from pwm.numbers import readable

# Okabe and Ito's palette: the colours stay apart for every common kind of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)))
GREY = "#666666"
REFERENCE_STYLES = {"zero_action": (0, (6, 3)), "random_action": (0, (2, 2))}
MINUTE = 60.0
DPI = 120


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

    def plot_learning_curves(self) -> Path:
        """Evaluated return (mean and spread over episodes) and training return; ``learning_curves.png``."""
        figure, (by_steps, by_time) = _figure(1, 2, self.title, share_y=True)
        for axes in (by_steps, by_time):
            key, scale = _x_axis(axes, by_time is axes)
            drawn = draw_line(
                axes,
                self.records,
                key,
                "train/episode_return",
                "training (exploring)",
                color=GREY,
                scale=scale,
                linewidth=0.8,
                alpha=0.8,
            )
            drawn |= draw_return(axes, self.records, key, scale, "evaluated, mean ± std", COLOURS[0])
            draw_references(axes, self.reference)
            _finish(axes, drawn)
        by_steps.set_ylabel("episode return")
        return self._save(figure, "learning_curves.png")

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
        figure, axes = _figure(2, 2, self.title)
        for panel, (title, keys) in zip(axes, panels.items(), strict=True):
            self._panel(panel, title, keys, logarithmic=True)
        return self._save(figure, "world_model_losses.png")

    def plot_gradient_norms(self) -> Path:
        """Gradient norms before clipping, with the clips; ``gradient_norms.png``."""
        figure, axes = _figure(1, 3, self.title)
        alg = self.config.get("alg", {})
        names = {"wm": "world model", "actor": "actor", "critic": "critic"}
        for panel, (phase, name) in zip(axes, names.items(), strict=True):
            drawn = draw_line(panel, self.records, "env_steps", f"{phase}/grad_norm", "norm", COLOURS[0])
            clip = alg.get(f"{phase}_grad_norm")
            if drawn and clip:
                panel.axhline(clip, color=COLOURS[1], linestyle="--", linewidth=1, label=f"clip {clip:g}")
            _x_axis(panel)
            panel.set_title(f"{name} gradient norm", fontsize=10)
            _finish(panel, drawn, logarithmic=True)
        return self._save(figure, "gradient_norms.png")

    def plot_summary_statistics(self) -> Path:
        """Key figures, policy spread, throughput and time per phase; ``training_summary.png``."""
        figure, (figures, policy, throughput, phases) = _figure(2, 2, self.title)
        self._key_figures(figures)
        exploration = {"actor/std": "standard deviation", "actor/saturation": "mean |pre-tanh mean|"}
        self._panel(policy, "policy", exploration)
        self._panel(throughput, "environment steps per second", {"fps": "steps/s"})
        self._time_per_phase(phases)
        return self._save(figure, "training_summary.png")

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

    def _panel(self, axes: Axes, title: str, keys: Mapping[str, str], logarithmic: bool = False) -> None:
        drawn = False
        for number, (key, label) in enumerate(keys.items()):
            drawn |= draw_line(axes, self.records, "env_steps", key, label, COLOURS[number % len(COLOURS)])
        axes.set_title(title, fontsize=10)
        _x_axis(axes)
        _finish(axes, drawn, logarithmic)

    def _key_figures(self, axes: Axes) -> None:
        steps, returns = series(self.records, "env_steps", "eval/episode_return")
        rows = [("epochs", _last(self.records, "epoch", ".0f"))]
        rows += [("environment steps", _last(self.records, "env_steps", ",.0f"))]
        rows += [("wall time (minutes)", _last(self.records, "wall_time", ".1f", MINUTE))]
        if returns:
            best = max(range(len(returns)), key=returns.__getitem__)
            rows += [("best evaluated return", f"{readable(returns[best])} at {steps[best]:,.0f} steps")]
            rows += [("last evaluated return", readable(returns[-1]))]
        else:
            rows += [("evaluated return", "not logged")]
        rows += [(f"{REFERENCES[name]} scores", readable(value)) for name, value in self.reference.items()]
        rows += [("velocity evaluations", _last(self.records, "velocity_evals", ",.0f"))]
        rows += [("skipped updates", _last(self.records, "skipped_updates", ",.0f"))]
        rows += [("peak memory (MB)", _last(self.records, "memory/rss_peak", ",.0f"))]
        axes.axis("off")
        axes.set_title("key figures", fontsize=10)
        for number, (name, value) in enumerate(rows):
            y = 0.95 - number * 0.095
            axes.text(0.0, y, name, transform=axes.transAxes, fontsize=9, color=GREY, va="center")
            axes.text(0.5, y, value, transform=axes.transAxes, fontsize=9, va="center")

    def _time_per_phase(self, axes: Axes) -> None:
        seconds: dict[str, float] = {}
        for record in self.records:
            for key, value in record.items():
                if key.startswith("time/") and value is not None:
                    seconds[key[5:]] = seconds.get(key[5:], 0.0) + value
        axes.set_title("time per phase", fontsize=10)
        total = sum(seconds.values())
        if not total:
            _finish(axes, drawn=False)
            return
        names = sorted(seconds, key=seconds.__getitem__)
        shares = [100 * seconds[name] / total for name in names]
        for bar, share in zip(axes.barh(names, shares, color=COLOURS[0]), shares, strict=True):
            axes.text(
                share + 1, bar.get_y() + bar.get_height() / 2, f"{share:.0f} %", va="center", fontsize=8
            )
        axes.set_xlim(0, max(shares) * 1.15)
        axes.set_xlabel(f"% of {total / MINUTE:.1f} minutes")
        axes.grid(axis="x", alpha=0.3)

    def _save(self, figure: Figure, name: str) -> Path:
        return save(figure, self.run_dir / name)


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
    figure, (by_steps, by_time) = _figure(1, 2, title, share_y=True)
    for axes in (by_steps, by_time):
        key, scale = _x_axis(axes, by_time is axes)
        drawn = False
        for number, (label, records) in enumerate(loaded.items()):
            style = LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)]
            drawn |= draw_return(axes, records, key, scale, label, COLOURS[number % len(COLOURS)], style)
        draw_references(axes, reference)
        _finish(axes, drawn)
    by_steps.set_ylabel("evaluated episode return, mean ± std")
    return save(figure, Path(path))


def draw_line(
    axes: Axes,
    records: Records,
    x: str,
    y: str,
    label: str,
    color: str,
    scale: float = 1.0,
    linewidth: float = 1.4,
    alpha: float = 1.0,
) -> bool:
    """Draw metric ``y`` against ``x / scale``; returns whether there was anything to draw."""
    xs, ys = series(records, x, y)
    if not xs:
        return False
    marker = "o" if len(xs) < 3 else None
    xs = [value / scale for value in xs]
    axes.plot(xs, ys, color=color, linewidth=linewidth, alpha=alpha, marker=marker, markersize=4, label=label)
    return True


def draw_return(
    axes: Axes, records: Records, x: str, scale: float, label: str, color: str, style: Any = "-"
) -> bool:
    """Draw the evaluated return with a band of one standard deviation over episodes."""
    evaluated = [r for r in records if r.get("eval/episode_return") is not None]
    xs, mean = series(evaluated, x, "eval/episode_return")
    if not xs:
        return False
    xs = [value / scale for value in xs]
    axes.plot(xs, mean, color=color, linewidth=1.8, linestyle=style, marker="o", markersize=3, label=label)
    spread = [r.get("eval/episode_return_std") for r in evaluated if r.get(x) is not None]
    # The band leaves out evaluations that did not log a spread.
    around = np.array([np.nan if s is None else s for s in spread])
    if len(xs) == 1:
        # A band of one point has no area.
        axes.errorbar(xs, mean, yerr=around, color=color, capsize=4, linewidth=1)
    elif not np.isnan(around).all():
        axes.fill_between(xs, mean - around, mean + around, color=color, alpha=0.18, linewidth=0)
    return True


def draw_references(axes: Axes, reference: Mapping[str, float]) -> None:
    """Draw what doing nothing and acting at random score, as labelled dashed lines."""
    for name, label in REFERENCES.items():
        if name not in reference:
            continue
        score, style = reference[name], REFERENCE_STYLES[name]
        axes.axhline(score, color="black", linestyle=style, linewidth=1, label=f"{label} ({readable(score)})")


def save(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as PNG; returns ``path``.

    Raises:
        DataError: the folder cannot be written to.
    """
    try:
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _figure(rows: int, columns: int, title: str, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """Figure with a canvas of its own, so that no global backend or figure list is touched."""
    figure = Figure(figsize=(4.6 * columns if columns < 3 else 12.5, 3.6 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)


def _x_axis(axes: Axes, wall_time: bool = False) -> tuple[str, float]:
    """Label the x axis; returns the metric it shows and the unit it is shown in."""
    axes.set_xlabel("wall time (minutes)" if wall_time else "environment steps")
    return ("wall_time", MINUTE) if wall_time else ("env_steps", 1.0)


def _finish(axes: Axes, drawn: bool, logarithmic: bool = False) -> None:
    """Grid, scale and legend; a note where nothing was drawn."""
    if not drawn:
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_yticks([])
        axes.set_xticks([])
        return
    if logarithmic and all((np.asarray(line.get_ydata()) > 0).all() for line in axes.lines):
        axes.set_yscale("log")
    axes.grid(alpha=0.3, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")


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
