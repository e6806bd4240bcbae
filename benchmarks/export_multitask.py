"""Export the experiment of several tasks: its figures as data, its report as an example in the documents.

    pwm experiment experiment=multitask_flow_vs_mlp data=data/six
    python benchmarks/export_multitask.py --data data/six

writes to ``results/multitask``

    ``runs.csv``     one row per policy: its held-out returns (64 episodes), minutes and commit
    ``scores.csv``   per task, and as ``mean`` over them: normalised score (return / 1000) by arm, mean and
                     standard deviation over seeds, beside that of the recorded episodes and of random actions
    ``fits.csv``     one row per world model: its errors on held-out windows, mean over the tasks

and copies ``report.md`` with its figures to ``docs/examples/multitask_flow_vs_mlp``.
"""

from __future__ import annotations

import argparse
import csv
import math
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study_files import RESULTS, ROOT, csv_text, rounded

from pwm.analysis.tables.model_fits import read_fit
from pwm.data.offline.verification import summarise_store
from pwm.files import write_text
from pwm.runs.provenance import read_manifest

NAME = "multitask_flow_vs_mlp"
FULL_RETURN = 1000.0
RUNS = ("task", "dynamics", "seed", "held_out_final", "held_out_best", "minutes", "commit")
SCORES = ("task", "dynamics", "seeds", "score", "score_std", "data", "random")
FITS = ("dynamics", "seed", "updates", "minutes", "parameters", "latent_error", "reward_rmse", "commit")
COPIED = ("report.md", "results.csv")


def policies(experiment: Path) -> list[dict[str, Any]]:
    """Return a row of every policy that was evaluated on held-out episodes."""
    with (experiment / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["held_out_final"]]
    return [
        {
            "task": row["task"],
            "dynamics": row["arm"],
            "seed": row["seed"],
            "held_out_final": rounded(float(row["held_out_final"])),
            "held_out_best": rounded(float(row["held_out_best"])),
            "minutes": rounded(float(row["wall_time"]) / 60),
            "commit": row["commit"],
            "random": float(row["random_action"]) / FULL_RETURN,
        }
        for row in rows
    ]


def scores(runs: Sequence[dict[str, Any]], recorded: dict[str, float]) -> list[dict[str, Any]]:
    """Return a row of every task and arm, and of the means over tasks, which are taken seed by seed."""
    tasks, found = sorted({run["task"] for run in runs}), []
    for arm in dict.fromkeys(run["dynamics"] for run in runs):
        by_seed: dict[str, dict[str, float]] = {}
        for run in runs:
            if run["dynamics"] == arm:
                by_seed.setdefault(run["seed"], {})[run["task"]] = run["held_out_final"] / FULL_RETURN
        random = {run["task"]: run["random"] for run in runs}
        for task in tasks:
            values = [of_task[task] for of_task in by_seed.values() if task in of_task]
            found.append(_score(task, arm, values, recorded[task], random[task]))
        whole = [statistics.mean(of.values()) for of in by_seed.values() if len(of) == len(tasks)]
        known = statistics.mean(recorded[task] for task in tasks), statistics.mean(random.values())
        found.append(_score("mean", arm, whole, *known))
    return found


def _score(task: str, arm: str, values: Sequence[float], data: float, random: float) -> dict[str, Any]:
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    row = {"score": statistics.mean(values), "score_std": spread, "data": data, "random": random}
    return {"task": task, "dynamics": arm, "seeds": len(values)} | {
        k: "" if math.isnan(v) else round(v, 3) for k, v in row.items()
    }


def fits(experiment: Path) -> list[dict[str, Any]]:
    """Return a row of every world model."""
    found = []
    for folder in sorted(experiment.glob("*/*_model/seed*")):
        fit, made_with = read_fit(folder), read_manifest(folder)
        found.append(
            {
                "dynamics": folder.parent.name.removesuffix("_model"),
                "seed": folder.name.removeprefix("seed"),
                "updates": fit.updates,
                "minutes": rounded(fit.minutes),
                "parameters": fit.parameters,
                "latent_error": round(fit.mean.latent, 3),
                "reward_rmse": round(fit.mean.reward, 3),
                "commit": made_with["git_commit"],
            }
        )
    return found


def main() -> int:
    """Export what the folder of the experiment holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--experiment", type=Path, default=Path("logs/experiments") / NAME)
    parser.add_argument("--data", type=Path, required=True, help="the data set that its runs learned from")
    args = parser.parse_args()
    returns = {task: held["return"]["mean"] for task, held in summarise_store(args.data)["tasks"].items()}
    recorded = {f"dmc_{task}": value / FULL_RETURN for task, value in returns.items()}
    runs, folder = policies(args.experiment), RESULTS / "multitask"
    for name, columns, rows in (
        ("runs", RUNS, runs),
        ("scores", SCORES, scores(runs, recorded)),
        ("fits", FITS, fits(args.experiment)),
    ):
        write_text(folder / f"{name}.csv", csv_text(columns, rows))
    example = ROOT / "docs" / "examples" / NAME
    example.mkdir(exist_ok=True)
    for name in COPIED:
        shutil.copy(args.experiment / name, example / name)
    shutil.copytree(args.experiment / "figures", example / "figures", dirs_exist_ok=True)
    print(f"{len(runs)} policies: {folder}, {example}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
