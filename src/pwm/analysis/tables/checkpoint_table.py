"""Evaluated policies as files, and what became of each run's peak: best checkpoint against final one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pwm.analysis.tables.run_measures import floor_of, share_of_peak
from pwm.analysis.tables.runs import write_table
from pwm.checkpoints.policy_files import KEPT
from pwm.errors import ConfigError
from pwm.files import check_writable, write_text
from pwm.numbers import readable

FINAL = "final"


def output_files(output: Path) -> tuple[Path, Path]:
    """Names of the JSON and of the CSV file for ``output``, which is either of them.

    Raises:
        ConfigError: one of them is a folder.
        StorageError: they cannot be written where they should be.
    """
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder; name a file")
    json_file = output.with_suffix(".json") if output.suffix.lower() == ".csv" else output
    files = json_file, json_file.with_suffix(".csv")
    if folders := [file for file in files if file.is_dir()]:
        raise ConfigError(f"--output {folders[0]} is a folder; name a file")
    check_writable(output.parent)
    return files


def write_results(files: tuple[Path, Path], results: Sequence[dict[str, Any]]) -> None:
    """Write results of ``evaluate_policies`` as JSON, whole, and as CSV, a row per policy.

    Raises:
        OSError: a file cannot be written.
    """
    write_text(files[0], json.dumps(list(results), indent=2) + "\n")
    kept = {id(r): share for group in _runs(results).values() for r, share in zip(group, _of_peak(group))}
    judged = any("success" in r for r in results)
    rows = [
        {
            "task": r["task"],
            "algorithm": r["name"],
            "seed": r["training_seed"],
            "checkpoint": r["checkpoint"],
            "epoch": r["progress"].get("epoch"),
            "env_steps": r["progress"].get("env_steps"),
            "return": r["mean"],
            "std": r["std"],
            "length": r["mean_length"],
            "episodes": r["episodes"],
            "evaluation_seed": r["evaluation_seed"],
            **r["reference"],
            **({"success": r.get("success")} if judged else {}),
            "share_of_peak": kept[id(r)],
            "policy": r["policy"],
        }
        for r in results
    ]
    write_table(files[1], rows)


def peak_against_final(results: Sequence[dict[str, Any]]) -> str:
    """A line per run: its best evaluated checkpoint, its final one, and the share of the peak that is left.

    The share is ``share_of_peak``; a run whose peak is not above the floor has none, and a final policy below
    the floor is called that.
    """
    lines = ["peak against final"]
    for run, group in _runs(results).items():
        peak = max(group, key=lambda r: float(r["mean"]))
        name = f"  {peak['task']} {peak['name']} seed {peak['training_seed']} ({run})"
        best = f"peak {readable(peak['mean'])} ({peak['checkpoint']})"
        ends = [(r, share) for r, share in zip(group, _of_peak(group)) if r["checkpoint"] == FINAL]
        if not ends:
            lines.append(f"{name}: {best}, its final policy was not evaluated")
            continue
        final, share = ends[0]
        left = "never above the floor" if share is None else f"{share:.0%} of the peak is left"
        if share is not None and share < 0.0:
            left = "below the floor"
        lines.append(f"{name}: {best}, final {readable(final['mean'])}, {left}")
    return "\n".join(lines)


def _runs(results: Sequence[dict[str, Any]]) -> dict[Path, list[dict[str, Any]]]:
    """Results by the run folder they belong to."""
    found: dict[Path, list[dict[str, Any]]] = {}
    for result in results:
        folder = Path(result["policy"]).parent
        found.setdefault(folder.parent if folder.name == KEPT else folder, []).append(result)
    return found


def _of_peak(group: Sequence[dict[str, Any]]) -> list[float | None]:
    floor = floor_of(group[0]["reference"])
    peak = max(float(r["mean"]) for r in group)
    return [share_of_peak(r["mean"], peak, floor) for r in group]
