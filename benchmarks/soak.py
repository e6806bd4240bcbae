"""Whether memory grows when runs follow one another in one process: resident set over time, and its slope.

    python benchmarks/soak.py --minutes 120

Trains small real runs (hopper, flow dynamics, with evaluation, saves, pictures) back to back and samples the
resident set twice a second. Writes ``results/soak/{rss.csv,summary.json,rss.png}``. The first fifth of
the time is warm-up: allocator pools and lazily loaded libraries fill.

Two slopes are given: of the resident set itself, which swings by tens of MB within a run as the allocator
keeps and returns pages, and of each run's lowest resident set (its floor), where memory that is never given
back shows without that swing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import psutil
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.configuration.config import compose_config
from pwm.files import write_json, write_text
from pwm.runs.run import train

RESULTS = Path(__file__).parents[1] / "results" / "soak"
OVERRIDES = (
    "env=dflex_hopper",
    "env.num_threads=1",
    "env.episode_length=200",
    "alg=pwm_small_flow",
    "alg.buffer_size=20000",
    "alg.warmup_env_steps=2000",
    "alg.warmup_updates=20",
    "general.epochs=40",
    "general.eval_every=10",
    "general.save_interval=2",
    "general.threads=1",
    "general.progress=false",
)
WARM_UP = 0.2
SECONDS_BETWEEN_SAMPLES = 0.5
# Binned so that the standing error of the slope does not pretend that neighbouring samples are independent.
BINS = 60
# A line through fewer floors has no standard error worth the name.
FEWEST_RUNS = 4


def sample_until(stop: threading.Event, started: float, samples: list[tuple[float, float]]) -> None:
    """Append (seconds, resident MB) to ``samples`` until ``stop`` is set."""
    process = psutil.Process()
    while not stop.wait(SECONDS_BETWEEN_SAMPLES):
        samples.append((time.monotonic() - started, process.memory_info().rss / 1e6))


def train_for(minutes: float) -> tuple[list[tuple[float, float]], list[float]]:
    """Samples of the resident set, and the second at which each run begun within ``minutes`` ended."""
    samples: list[tuple[float, float]] = []
    ends: list[float] = []
    stop, started = threading.Event(), time.monotonic()
    sampler = threading.Thread(target=sample_until, args=(stop, started, samples), daemon=True)
    sampler.start()
    while time.monotonic() - started < 60 * minutes:
        with tempfile.TemporaryDirectory() as logdir:
            overrides = [*OVERRIDES, f"general.seed={len(ends)}", f"general.logdir={logdir}"]
            result = train(compose_config(overrides))
            TrainingVisualizer(result.folder).generate_all_plots()
        ends.append(time.monotonic() - started)
    stop.set()
    sampler.join()
    return samples, ends


def fit_growth(hours: list[float], rss: list[float], name: str) -> dict[str, float]:
    """Least-squares growth in MB/h and its standard error, under keys that begin with ``name``."""
    fit = stats.linregress(hours, rss)
    return {
        f"{name}_mb_per_hour": round(float(fit.slope), 2),
        f"{name}_standard_error": round(float(fit.stderr), 2),
    }


def slopes(samples: list[tuple[float, float]], ends: list[float]) -> dict[str, float]:
    """Growth after warm-up of the resident set (means of ``BINS`` stretches) and of the floor of each run."""
    start = WARM_UP * samples[-1][0]
    floors = [
        (begin / 3600, min(m for t, m in samples if begin <= t < end))
        for begin, end in pairwise(ends)
        if begin >= start
    ]
    if len(floors) < FEWEST_RUNS:
        raise SystemExit(
            f"only {len(floors)} whole runs after warm-up, {FEWEST_RUNS} needed: soak for longer"
        )
    late = [s for s in samples if s[0] >= start]
    size = max(len(late) // BINS, 1)
    bins = [late[i : i + size] for i in range(0, len(late) - size + 1, size)]
    hours = [sum(t for t, _ in b) / len(b) / 3600 for b in bins]
    rss = [sum(m for _, m in b) / len(b) for b in bins]
    return {
        **fit_growth(hours, rss, "slope"),
        **fit_growth([t for t, _ in floors], [m for _, m in floors], "floor"),
        "mean_mb": round(sum(rss) / len(rss), 1),
        "peak_mb": round(max(m for _, m in samples), 1),
    }


def plot(samples: list[tuple[float, float]], summary: dict[str, float], path: Path) -> None:
    """Draw the resident set over time."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([t / 60 for t, _ in samples], [m for _, m in samples], linewidth=0.6)
    axes.axvline(WARM_UP * samples[-1][0] / 60, color="grey", linestyle="--", label="end of warm-up")
    axes.set(xlabel="minutes", ylabel="resident set (MB)", ylim=(0, None))
    axes.set_title(
        f"{summary['runs']:.0f} runs back to back: {summary['slope_mb_per_hour']:+.2f} "
        f"± {summary['slope_standard_error']:.2f} MB/h after warm-up, floor "
        f"{summary['floor_mb_per_hour']:+.2f} ± {summary['floor_standard_error']:.2f}"
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=120.0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    samples, ends = train_for(chosen.minutes)
    rows = [f"{t:.1f},{m:.2f}" for t, m in samples[:: max(len(samples) // 2000, 1)]]
    write_text(RESULTS / "rss.csv", "\n".join(["seconds,rss_mb", *rows]) + "\n")
    summary = {"minutes": round(samples[-1][0] / 60, 1), "runs": len(ends)} | slopes(samples, ends)
    write_json(RESULTS / "summary.json", summary)
    plot(samples, summary, RESULTS / "rss.png")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
