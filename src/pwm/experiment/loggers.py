"""Where metrics go: ``metrics.jsonl`` is the truth, everything else is made from it."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

from pwm.experiment.checkpoints import write_text


class JSONLLogger:
    """Appends one JSON object per epoch and flushes it, so a killed run loses at most a partial line.

    Args:
        path: file to append to.
        keep_until: drop records of later epochs first (they will be computed again after a resume).
    """

    def __init__(self, path: Path, keep_until: int | None = None) -> None:
        self.path = path
        if keep_until is not None and path.exists():
            kept = [r for r in read_metrics(path) if r["epoch"] <= keep_until]
            write_text(path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, float]) -> None:
        """Append ``record``; non-finite numbers are stored as null, which JSON can express."""
        clean = {k: v if math.isfinite(v) else None for k, v in record.items()}
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Records of a ``metrics.jsonl``; an incomplete last line (killed run) is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def export_csv(source: Path, target: Path) -> None:
    """Write the records of a ``metrics.jsonl`` as CSV, one column per metric, atomically."""
    records = read_metrics(source)
    columns = sorted({key for record in records for key in record})
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_text(target, text.getvalue())
