"""Stored results of a study: ``runs.csv`` (one row per run) and ``curves/`` (the evaluations of each run)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pwm.files import write_text

# Columns of a curve. ``wall_time`` [s] counts everything since training began, ``train_time`` [s] leaves out
# what is measured on the way: evaluations with their diagnostics, and the quality of gradients.
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


def csv_text(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Table with a header; numbers of curves are rounded, what a row does not hold stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: f"{v:.6g}" if isinstance(v, float) and k in CURVE else v for k, v in r.items()} for r in rows
    )
    return text.getvalue()


def curve_path(folder: Path, task: str, algorithm: str, seed: int | str) -> Path:
    """Where the study in ``folder`` keeps the curve of a run."""
    return folder / "curves" / f"{task}_{algorithm}_seed{seed}.csv"


def load_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of the ``runs.csv`` of a study (empty if there is none yet)."""
    path = folder / "runs.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def merge(folder: Path, new: dict[str, Any]) -> None:
    """Put ``new`` into the ``runs.csv`` of a study in place of an older row of the same run."""

    def key(r: dict[str, Any]) -> tuple[str, str, int]:
        return (r["task"], r["algorithm"], int(r["seed"]))

    rows = {key(r): r for r in load_rows(folder)} | {key(new): new}
    write_text(folder / "runs.csv", csv_text(list(new), [rows[k] for k in sorted(rows)]))
