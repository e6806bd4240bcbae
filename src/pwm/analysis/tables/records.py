"""What a run folder recorded: its metrics, evaluations, and the scores that its returns are compared with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pwm.analysis.tables.run_measures import EvaluationRecord
from pwm.errors import DataError
from pwm.files import read_object
from pwm.logging.loggers import read_metrics
from pwm.training.work import ENV_STEPS

REFERENCES = {"zero_action": "zero action", "random_action": "random actions"}

Records = Sequence[Mapping[str, float | None]]


def load_records(run_dir: Path) -> list[dict[str, float]]:
    """Records of ``run_dir/metrics.jsonl``.

    Raises:
        DataError: missing, damaged or empty file.
    """
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        raise DataError(f"{path} does not exist; {run_dir} is not a run folder, or training has not started")
    records = read_metrics(path)
    if not records:
        raise DataError(f"{path} is empty; wait until the run has finished its first epoch")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not all(_is_number_or_null(value) for value in record.values()):
            raise DataError(f"{path} is damaged: record {number} is not an object of numbers")
    return records


def read_evaluations(folder: Path, progress: str = ENV_STEPS) -> tuple[EvaluationRecord, ...]:
    """Evaluations in ``metrics.jsonl``, in the order of training, at least one.

    Args:
        folder: the run folder.
        progress: the metric that counts the steps of its trainer.

    Raises:
        DataError: the file is missing or damaged, holds no evaluation, or one that is not finite.
    """
    # Before the first epoch nothing is done, and some counters are not there.
    records = [
        r if r.get("epoch") else {progress: 0.0, **r}
        for r in load_records(folder)
        if "eval/episode_return" in r
    ]
    keys = ("epoch", progress, "wall_time", "eval/episode_return")
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
            int(r[progress]),
            r["wall_time"],
            r["eval/episode_return"],
            r.get("eval/episode_return_std"),
        )
        for r in records
    )


def load_reference(run_dir: Path) -> dict[str, float]:
    """Scores of ``run_dir/reference.json`` by name; empty without that file.

    Raises:
        DataError: the file does not hold numbers by name.
    """
    path = run_dir / "reference.json"
    if not path.is_file():
        return {}
    scores = read_object(path)
    found = {name: scores[name] for name in REFERENCES if name in scores}
    for name, score in found.items():
        if not _is_number_or_null(score) or score is None or not math.isfinite(score):
            raise DataError(f"{path} is damaged: {name}={score!r} must be a finite number")
    return {name: float(score) for name, score in found.items()}


def series(records: Records, x: str, y: str) -> tuple[list[float], list[float]]:
    """Values of ``x`` and ``y`` in the records that hold both (null stands for a non-finite number)."""
    pairs = [(r[x], r[y]) for r in records if r.get(x) is not None and r.get(y) is not None]
    return [float(a) for a, _ in pairs if a is not None], [float(b) for _, b in pairs if b is not None]


def _is_number_or_null(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
