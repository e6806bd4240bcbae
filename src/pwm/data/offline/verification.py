"""Reading a data set from beginning to end: is it what its manifest says, and what does it hold?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pwm.data.offline.arrays import read_header, read_segments
from pwm.data.offline.audit import check_block
from pwm.data.offline.layout import SEGMENTS, STEPS, Block, Layout
from pwm.data.offline.manifest import StoreFiles, total_counts
from pwm.data.offline.writer import count_segments
from pwm.errors import DataError
from pwm.numbers import aligned, readable

# Rows read at a time, so that memory does not grow with the shards.
CHUNK_ROWS = 1 << 17


def verify_store(folder: Path, quick: bool = False, jobs: int | None = None) -> StoreFiles:
    """Compare a data set with its manifest, and every number with what it is said to be.

    Args:
        folder: the data set.
        quick: compare names and sizes alone.
        jobs: files hashed at the same time; None takes one per CPU.

    Raises:
        DataError: names the first file that differs, or shard, segment, task and step of the first number
            that cannot be right. The data must not be used.
    """
    files = StoreFiles(folder, jobs)
    files.verify(quick)
    if quick:
        return files
    counts = []
    for shard in files.content["shards"]:
        if not shard["files"]:
            continue
        place = files.folder / shard["name"]
        segments = read_segments(place / SEGMENTS)
        checked = 0
        for block in _blocks(place, files.layout, segments):
            check_block(files.layout, block, str(place), checked)
            checked += len(block.segments)
        counts.append({"counts": count_segments(files.layout, segments)})
        if counts[-1]["counts"] != shard["counts"]:
            raise DataError(
                f"{place}: the manifest counts {shard['counts']}, it holds {counts[-1]['counts']}"
            )
    found = total_counts(counts)
    if found != files.content["counts"]:
        raise DataError(f"{files.manifest} counts {files.content['counts']}, the shards hold {found}")
    return files


def _blocks(place: Path, layout: Layout, segments: np.ndarray) -> Iterator[Block]:
    """The segments of a shard, about ``CHUNK_ROWS`` rows at a time."""
    with (place / STEPS).open("rb") as file:
        rows = read_header(file, place / STEPS, layout.step)
        ends = segments["start"] + segments["transitions"] + 1
        if not len(segments) or segments["start"][0] != 0 or ends[-1] != rows:
            raise DataError(f"{place}: the segments do not cover its {rows} rows")
        first = 0
        while first < len(segments):
            begin = int(segments["start"][first])
            last = max(first + 1, int(np.searchsorted(ends, begin + CHUNK_ROWS, side="right")))
            part = segments[first:last].copy()
            part["start"] -= begin
            yield Block(np.fromfile(file, layout.step, int(ends[last - 1]) - begin), part)
            first = last


def summarise_store(folder: Path) -> dict[str, Any]:
    """Return what a data set holds.

    Returns:
        ``tasks``: by name ``segments``, whole ``episodes``, ``transitions`` and, where there is a whole
        episode, the ``return`` of these as ``mean``, ``std``, ``min`` and ``max``; ``task_set`` or None;
        ``obs_dim``, ``action_dim``; ``row_length``: observations of every segment, None if these differ;
        ``bytes``, ``files``, ``digest`` and ``provenance``.

    Raises:
        DataError: it is unfinished or damaged.
    """
    files = StoreFiles(folder)
    files.verify(quick=True)
    content = files.content
    returns = returns_by_task(files)
    tasks = {}
    for task in files.layout.names:
        if counts := content["counts"].get(task):
            names = {"segments": "segments", "episodes": "whole", "transitions": "transitions"}
            tasks[task] = {name: counts[key] for name, key in names.items()} | _spread(returns[task])
    entries = files.entries()
    return {
        "tasks": tasks,
        "task_set": content["task_set"] or None,
        "obs_dim": files.layout.obs_dim,
        "action_dim": files.layout.action_dim,
        "row_length": content["row_length"] or None,
        "bytes": sum(entry.size for entry in entries.values()),
        "files": len(entries),
        "digest": files.digest,
        "provenance": content["provenance"],
    }


def describe_store(folder: Path) -> str:
    """Return ``summarise_store`` as text.

    Raises:
        DataError: the data set is unfinished or damaged.
    """
    found = summarise_store(folder)
    header = ["task", "segments", "episodes", "transitions", "return", "+-", "min", "max"]
    rows = []
    for task, held in found["tasks"].items():
        counts = [str(held[key]) for key in header[1:4]]
        spread = held.get("return")
        rows.append([task, *counts, *(["-"] * 4 if spread is None else map(readable, spread.values()))])
    total = sum(held["transitions"] for held in found["tasks"].values())
    length = f"{found['row_length']} observations each" if found["row_length"] else "of different lengths"
    lines = [
        aligned(header, rows, words=("task",)),
        f"{len(rows)} tasks of {found['task_set'] or 'no set'}, observations {found['obs_dim']}, "
        f"actions {found['action_dim']}; {total} transitions in segments {length}",
        f"{found['bytes'] / 1e9:.3g} GB in {found['files']} files, digest {found['digest']}",
        *(f"{key}: {value}" for key, value in found["provenance"].items()),
    ]
    return "\n".join(lines)


def returns_by_task(files: StoreFiles) -> dict[str, np.ndarray]:
    """Return the sums of rewards [n] of the whole episodes of every task, float64."""
    shards = [shard for shard in files.content["shards"] if shard["files"]]
    segments = np.concatenate([read_segments(files.folder / shard["name"] / SEGMENTS) for shard in shards])
    whole = segments[segments["whole"] == 1]
    return {
        task: whole["reward_sum"][whole["task"] == number] for number, task in enumerate(files.layout.names)
    }


def _spread(returns: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the spread of the returns [n], and nothing where there is no whole episode."""
    if not len(returns):
        return {}
    names = {"mean": returns.mean(), "std": returns.std(), "min": returns.min(), "max": returns.max()}
    return {"return": {name: float(value) for name, value in names.items()}}
