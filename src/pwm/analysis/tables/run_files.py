"""The files of one run folder that say what it scored and what it was made with."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

from pwm.analysis.tables.records import load_records
from pwm.analysis.tables.run_measures import Evaluation
from pwm.errors import DataError
from pwm.files import read_object


def read_evaluations(folder: Path) -> tuple[Evaluation, ...]:
    """Evaluations in ``metrics.jsonl``, in the order of training, at least one.

    Raises:
        DataError: the file is missing or damaged, holds no evaluation, or one that is not finite.
    """
    records = [r for r in load_records(folder) if "eval/episode_return" in r]
    keys = ("epoch", "env_steps", "wall_time", "eval/episode_return")
    for record in records:
        # Python's JSON also knows NaN and Infinity.
        if missing := [key for key in keys if (v := record.get(key)) is None or not math.isfinite(v)]:
            raise DataError(
                f"metrics.jsonl, epoch {record.get('epoch')}: {', '.join(missing)} missing or not finite"
            )
    if not records:
        raise DataError("metrics.jsonl holds no evaluation")
    if any(later["epoch"] <= earlier["epoch"] for earlier, later in itertools.pairwise(records)):
        raise DataError("metrics.jsonl is damaged: its epochs do not increase")
    return tuple(
        Evaluation(
            int(r["epoch"]),
            int(r["env_steps"]),
            r["wall_time"],
            r["eval/episode_return"],
            r.get("eval/episode_return_std"),
        )
        for r in records
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Content of ``manifest.json``; empty without that file.

    Raises:
        DataError: it cannot be read, or one of its parts is of another kind than a run writes.
    """
    if not (folder / "manifest.json").exists():
        return {}
    manifest = read_object(folder / "manifest.json")
    if not isinstance(earlier := manifest.get("earlier", []), list):
        raise DataError(f"manifest.json: earlier={earlier!r} must be a list of earlier sittings")
    for sitting in (*earlier, manifest):
        if not isinstance(sitting, dict):
            raise DataError(f"manifest.json: the earlier sitting {sitting!r} must be an object")
        for part in ("parameters", "versions"):
            if not isinstance(value := sitting.get(part, {}), dict):
                raise DataError(f"manifest.json: {part}={value!r} must be an object")
    counts = manifest.get("parameters", {})
    if wrong := [name for name, number in counts.items() if not isinstance(number, int)]:
        raise DataError(f"manifest.json: parameters.{wrong[0]}={counts[wrong[0]]!r} must be a whole number")
    return manifest
