"""Where metrics go: ``metrics.jsonl`` is the truth; CSV is made from it, services get copies."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import sys
import warnings
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from pwm.errors import DataError
from pwm.files import write_text


class JSONLLogger:
    """Appends one JSON object per epoch and flushes it, so a killed run loses at most a partial line.

    Args:
        path: file to append to.
        keep_until: the file should hold one record of every epoch up to this one; records of later epochs
            are dropped first (they will be computed again after a resume).

    Raises:
        DataError: the file is damaged.

    Warns:
        RuntimeWarning: records up to ``keep_until`` are missing.
    """

    def __init__(self, path: Path, keep_until: int | None = None) -> None:
        self.path = path
        if keep_until is not None:
            kept = [r for r in read_metrics(path) if r["epoch"] <= keep_until] if path.exists() else []
            if len(kept) <= keep_until:
                warnings.warn(
                    f"{path} holds {len(kept)} of the {keep_until + 1} records of this run so far; the rest "
                    "is lost, and plots and tables will begin late or have gaps",
                    RuntimeWarning,
                    stacklevel=2,
                )
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


class Fuse:
    """Keeps a service from stopping the run: ``with fuse:`` reports the first error instead of raising it.

    Services are other people's code, networks and disks, so that any error can come out of them. Interrupts
    pass through.

    Args:
        service: name shown in the report.

    Attributes:
        blown: there was an error; the service is not to be used any more.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.blown = False

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if not self.blown:
            self.blown = True
            reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
            # Through tqdm, so that the line does not land inside a progress bar; nobody may read it at all.
            with contextlib.suppress(OSError):
                tqdm.write(
                    f"pwm: warning: {self.service} is off from here on, training goes on and metrics.jsonl "
                    f"stays complete: {reason}",
                    file=sys.stderr,
                )
        return True


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Records of a ``metrics.jsonl``; an incomplete last line (killed run) is left out.

    Raises:
        DataError: another line is not JSON, or the file is not text.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records += [json.loads(line)] if line else []
        except ValueError as error:
            raise DataError(f"{path} is damaged in line {number}: {error}; remove that line") from error
    return records


def export_csv(source: Path, target: Path) -> None:
    """Write the records of a ``metrics.jsonl`` as CSV, one column per metric, atomically."""
    records = read_metrics(source)
    columns = sorted({key for record in records for key in record})
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_text(target, text.getvalue())
