"""Resident set of a 48 M-parameter flow run with a full buffer of a million transitions, epoch by epoch.

    python benchmarks/memory_48M.py

Trains ant for 200 epochs at ``pwm_48M_flow`` sizes after a warm-up of a million random steps that fills the
buffer. Networks, batches, optimisers and buffer have their full sizes; only one update of each network per
epoch, 200 of each in all, keeps it to an hour and a half on a CPU. Resumable. Writes
``results/memory_48M/{rss.csv,summary.json,rss.png}``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from pwm.configuration.config import compose_config
from pwm.files import write_json, write_text
from pwm.logging.loggers import read_metrics
from pwm.runs.run import train

RESULTS = Path(__file__).parents[1] / "results" / "memory_48M"
OVERRIDES = (
    "env=dflex_ant",
    "env.num_threads=1",
    "alg=pwm_48M_flow",
    "alg.warmup_env_steps=1000000",
    "alg.warmup_updates=0",
    "alg.wm_iterations=1",
    "alg.actor_iterations=1",
    "alg.critic_iterations=1",
    "general.epochs=200",
    "general.threads=1",
    "general.eval_every=1000",
    "general.eval_runs=1",
)
LIMIT_MB = 8000
# Optimiser states and allocator pools are made in the first epochs.
WARM_UP_EPOCHS = 20


def growth(epochs: list[float], rss: list[float], start: int, name: str) -> dict[str, float]:
    """Least-squares growth in MB per 100 epochs from index ``start`` on, and its standard error."""
    fit = stats.linregress(epochs[start:], rss[start:])
    return {
        f"{name}_mb_per_100_epochs": round(100 * float(fit.slope), 2),
        f"{name}_standard_error": round(100 * float(fit.stderr), 2),
    }


def summarise(epochs: list[float], rss: list[float], peak: float) -> dict[str, float]:
    """Level and growth of the resident set in MB after the first epochs, and in the second half."""
    return {
        "epochs": int(epochs[-1]),
        "mean_mb": round(sum(rss[WARM_UP_EPOCHS:]) / len(rss[WARM_UP_EPOCHS:]), 1),
        "peak_mb": round(peak, 1),
        "limit_mb": LIMIT_MB,
        **growth(epochs, rss, WARM_UP_EPOCHS, "growth"),
        **growth(epochs, rss, len(rss) // 2, "second_half"),
    }


def plot(epochs: list[float], rss: list[float], path: Path) -> None:
    """Draw the resident set over epochs."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(epochs, rss, linewidth=0.8)
    axes.axhline(LIMIT_MB, color="grey", linestyle="--", label="limit")
    axes.set(
        xlabel="epoch", ylabel="resident set (MB)", ylim=(0, None), title="pwm_48M_flow, 10⁶ transitions"
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train, read the metrics, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logdir", type=Path, default=Path("logs/memory_48M"))
    result = train(compose_config([*OVERRIDES, f"general.logdir={parser.parse_args().logdir}"]))
    records = [record for record in read_metrics(result.folder / "metrics.jsonl") if record["epoch"]]
    epochs = [record["epoch"] for record in records]
    rss = [record["memory/rss"] for record in records]
    peak = max(record["memory/rss_peak"] for record in records)
    rows = [f"{epoch:.0f},{memory:.1f}" for epoch, memory in zip(epochs, rss, strict=True)]
    write_text(RESULTS / "rss.csv", "\n".join(["epoch,rss_mb", *rows]) + "\n")
    summary = summarise(epochs, rss, peak)
    write_json(RESULTS / "summary.json", summary)
    plot(epochs, rss, RESULTS / "rss.png")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
