"""Resident set of flow runs with 48 M parameters, epoch by epoch, over 200 updates of the world model.

    python benchmarks/memory_48M.py online
    python benchmarks/memory_48M.py pretraining

``online`` trains ant at ``pwm_48M_flow`` sizes after a warm-up of a million random steps that fills the
buffer. Networks, batches, optimisers and buffer have their full sizes; only one update of each network per
epoch keeps it to an hour and a half on a CPU. ``pretraining`` trains ``pwm_48M_multitask_flow_v1`` (Heun,
K = 2) on a store of all 30 tasks of MT30, which it collects first, at full width and horizon with batches of
64 windows instead of 1024: ten minutes where the processor multiplies in bfloat16. Both are resumable, and
write ``results/memory_48M{,_pretraining}/{rss.csv,summary.json,rss.png}``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from pwm.configuration.config import compose_config
from pwm.files import write_json, write_text
from pwm.launch.cli import main as main_command
from pwm.logging.loggers import read_metrics
from pwm.runs.provenance import read_manifest
from pwm.runs.run import train

RESULTS = Path(__file__).parents[1] / "results"
COMMON = ("alg.wm_iterations=1", "general.epochs=200", "general.threads=1", "general.eval_every=1000")
ONLINE = (
    *("env=dflex_ant", "env.num_threads=1", "alg=pwm_48M_flow"),
    *("alg.warmup_env_steps=1000000", "alg.warmup_updates=0"),
    *("alg.actor_iterations=1", "alg.critic_iterations=1", "general.eval_runs=1"),
)
PRETRAINING = (
    *("alg.trainer=pretraining", "alg=pwm_48M_multitask_flow_v1", "alg.tasks=all"),
    *("alg.wm_batch_size=64", "general.precision=bfloat16"),
)
EPISODES = 8
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


def provenance(run: Path) -> dict[str, str]:
    """Command, machine and commit of a run."""
    made_with = read_manifest(run)
    return {
        "command": f"python benchmarks/{' '.join([Path(sys.argv[0]).name, *sys.argv[1:2]])}",
        **{key: str(made_with[key]) for key in ("device", "git_commit")},
    }


def plot(epochs: list[float], rss: list[float], path: Path, title: str) -> None:
    """Draw the resident set over epochs."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(epochs, rss, linewidth=0.8)
    axes.axhline(LIMIT_MB, color="grey", linestyle="--", label="limit")
    axes.set(xlabel="epoch", ylabel="resident set (MB)", ylim=(0, None), title=title)
    axes.legend()
    figure.savefig(path, dpi=120)


def store(folder: Path) -> Path:
    """Random episodes of all tasks of MT30, collected where they are missing."""
    command = ["data", "collect", "tasks=mt30", "policy=random", f"episodes={EPISODES}", f"to={folder}"]
    if status := main_command(command):
        sys.exit(status)
    return folder


def main() -> None:
    """Train, read the metrics, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rule", choices=("online", "pretraining"))
    parser.add_argument("--logdir", type=Path, default=Path("logs/memory_48M"))
    args = parser.parse_args()
    own, folder, title = ONLINE, RESULTS / "memory_48M", "pwm_48M_flow, 10⁶ transitions"
    if args.rule == "pretraining":
        own = (*PRETRAINING, f"alg.data={store(args.logdir / 'mt30')}")
        folder, title = RESULTS / "memory_48M_pretraining", "pwm_48M_multitask_flow_v1 on MT30"
    result = train(compose_config([*own, *COMMON, f"general.logdir={args.logdir}"]))
    records = [record for record in read_metrics(result.folder / "metrics.jsonl") if record["epoch"]]
    epochs = [record["epoch"] for record in records]
    rss = [record["memory/rss"] for record in records]
    peak = max(record["memory/rss_peak"] for record in records)
    rows = [f"{epoch:.0f},{memory:.1f}" for epoch, memory in zip(epochs, rss, strict=True)]
    write_text(folder / "rss.csv", "\n".join(["epoch,rss_mb", *rows]) + "\n")
    summary = summarise(epochs, rss, peak) | provenance(result.folder)
    write_json(folder / "summary.json", summary)
    plot(epochs, rss, folder / "rss.png", title)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
