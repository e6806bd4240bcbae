"""Evaluations in the metrics of one run folder."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

from pwm.analysis.tables.records import load_records
from pwm.analysis.tables.run_measures import EvaluationRecord
from pwm.errors import DataError


def read_evaluations(folder: Path) -> tuple[EvaluationRecord, ...]:
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
        EvaluationRecord(
            int(r["epoch"]),
            int(r["env_steps"]),
            r["wall_time"],
            r["eval/episode_return"],
            r.get("eval/episode_return_std"),
        )
        for r in records
    )
