"""Stored results of a study: ``runs.csv`` (one row per run) and ``curves/`` (the evaluations of each run)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from pwm.analysis.statistics.estimates import summarise
from pwm.analysis.tables.run_measures import LAST, EvaluationRecord, measures
from pwm.files import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
HELD_OUT_EPISODES = 64
# Columns of ``runs.csv``. Times [s] are those of the curve's last row. ``held_out_*``: mean and standard
# deviation over the held-out episodes of the final policy and of the one with the best evaluation.
# ``core_share``: the part of training in which the processor worked for this run, where it is known.
COLUMNS = (
    "task",
    "algorithm",
    "seed",
    "env_steps",
    "wall_time",
    "train_time",
    "core_share",
    "world_model_parameters",
    "peak",
    "final",
    "last10",
    "retention",
    "held_out_final",
    "held_out_final_std",
    "held_out_best",
    "held_out_best_std",
    "latent_error_k1",
    "zero_action",
    "random_action",
    "commit",
    "command",
    "hardware",
    "versions",
)
# Columns of a curve. ``wall_time`` [s] counts everything since training began, ``train_time`` [s] what the
# processor worked for training, without what is measured on the way.
CURVE = (
    "epoch",
    "env_steps",
    "wall_time",
    "train_time",
    "eval/episode_return",
    "eval/episode_return_std",
    "eval/episode_length",
    "eval/value",
    "eval/realised_value",
    "eval/critic_spread",
    "eval/imagined_reward",
    "eval/realised_reward",
    "eval/latent_error_k1",
    "eval/latent_error_k4",
    "eval/latent_error_k16",
    "actor/saturation",
    "actor/grad_norm",
    "critic/grad_norm",
    "wm/grad_norm",
    "replay/size",
    "replay/age",
)
# Signal and noise of the gradients, measured every ``general.esnr_every`` epochs.
GRADIENTS = ("epoch", "env_steps", "wm/esnr", "wm/esnr_unbiased", "actor/esnr", "actor/esnr_unbiased")
Row = dict[str, Any]
Curve = dict[str, NDArray[np.float64]]
# By (task, algorithm), one per seed, in the order of ``runs.csv``.
Curves = dict[tuple[str, str], list[Curve]]


def figures(records: Sequence[Mapping[str, float]], reference: Mapping[str, float]) -> Row:
    """Return the columns of ``runs.csv`` that follow from the rows of a curve; see ``measures``.

    Args:
        records: rows of the curve, at least one.
        reference: returns of the policies that know nothing.
    """
    found = measures(
        [
            EvaluationRecord(
                epoch=int(r.get("epoch", 0)),
                steps=int(r["env_steps"]),
                wall_time=r["wall_time"],
                episode_return=r["eval/episode_return"],
                std=r.get("eval/episode_return_std"),
            )
            for r in records
        ],
        reference,
        None,
    )
    kept = found["retention"]
    errors = [e for r in records[-LAST:] if (e := r.get("eval/latent_error_k1")) is not None]
    return {
        "env_steps": int(records[-1]["env_steps"]),
        "wall_time": round(records[-1]["wall_time"], 1),
        "train_time": round(records[-1]["train_time"], 1),
        "peak": rounded(found["best"]),
        "final": rounded(found["final"]),
        "last10": rounded(found["last10"]),
        "retention": "" if kept is None else round(kept, 3),
        "latent_error_k1": f"{np.median(errors):.3g}" if errors else "",
        **{name: rounded(score) for name, score in reference.items()},
    }


def held_out_columns(which: str, returns: Sequence[float]) -> Row:
    """Return the columns of ``runs.csv`` for held-out returns of the ``final`` or the ``best`` policy."""
    found = summarise(returns)
    return {f"held_out_{which}": rounded(found.mean.value), f"held_out_{which}_std": rounded(found.std)}


def rounded(value: float | None) -> float | str:
    """Two decimals; empty where there is no number."""
    return "" if value is None or math.isnan(value) else round(value, 2)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Table with a header; numbers of curves are rounded, what a row does not hold stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: f"{v:.6g}" if isinstance(v, float) and k in (*CURVE, *GRADIENTS) else v for k, v in r.items()}
        for r in rows
    )
    return text.getvalue()


def curve_path(folder: Path, task: str, algorithm: str, seed: int | str, kind: str = "curves") -> Path:
    """Where the study in ``folder`` keeps the curve of a run, or its ``gradients``."""
    return folder / kind / f"{task}_{algorithm}_seed{seed}.csv"


def load_rows(folder: Path) -> list[Row]:
    """Rows of the ``runs.csv`` of a study (empty if there is none yet)."""
    path = folder / "runs.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def load(folder: Path) -> tuple[list[Row], Curves]:
    """Rows of ``runs.csv``, and the curves of every seed by (task, algorithm)."""
    rows = load_rows(folder)
    curves: Curves = {}
    for row in rows:
        with curve_path(folder, row["task"], row["algorithm"], row["seed"]).open(newline="") as file:
            records = list(csv.DictReader(file))
        curve = {key: np.array([float(r[key] or "nan") for r in records]) for key in records[0]}
        curves.setdefault((row["task"], row["algorithm"]), []).append(curve)
    return rows, curves


def merge(folder: Path, new: Iterable[Row]) -> None:
    """Put rows into the ``runs.csv`` of a study in place of older ones of the same runs.

    Several processes may do so at the same time.
    """

    def key(r: Row) -> tuple[str, str, int]:
        return (r["task"], r["algorithm"], int(r["seed"]))

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        rows = {key(r): r for r in load_rows(folder)} | {key(r): r for r in new}
        write_text(folder / "runs.csv", csv_text(COLUMNS, [rows[k] for k in sorted(rows)]))
