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


def describe_store(folder: Path) -> str:
    """Return what a data set holds, as text: its tasks with their returns, its size, its origin.

    Raises:
        DataError: it is unfinished or damaged.
    """
    files = StoreFiles(folder)
    files.verify(quick=True)
    content = files.content
    header = ["task", "segments", "episodes", "transitions", "return", "+-", "min", "max"]
    returns = returns_by_task(files)
    rows = []
    for task in files.layout.names:
        if counts := content["counts"].get(task):
            numbers = [str(counts[key]) for key in ("segments", "whole", "transitions")]
            rows.append([task, *numbers, *_spread(returns[task])])
    entries = files.entries()
    size = sum(entry.size for entry in entries.values())
    total = sum(counts["transitions"] for counts in content["counts"].values())
    length = f"{content['row_length']} observations each" if content["row_length"] else "of different lengths"
    lines = [
        aligned(header, rows, words=("task",)),
        f"{len(rows)} tasks of {content['task_set'] or 'no set'}, observations {files.layout.obs_dim}, "
        f"actions {files.layout.action_dim}; {total} transitions in segments {length}",
        f"{size / 1e9:.3g} GB in {len(entries)} files, digest {files.digest}",
        *(f"{key}: {value}" for key, value in content["provenance"].items()),
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


def _spread(returns: np.ndarray) -> list[Any]:
    """Mean, standard deviation, least and greatest as text; dashes where there is no whole episode."""
    if not len(returns):
        return ["-"] * 4
    return [readable(float(x)) for x in (returns.mean(), returns.std(), returns.min(), returns.max())]
