"""Writing a data set: every shard is complete or not there, and an interrupted command continues."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from pwm.data.offline.arrays import write_header
from pwm.data.offline.audit import check_block
from pwm.data.offline.layout import FORMAT, MANIFEST, SEGMENT, SEGMENTS, STEPS, VERSION, Block, Layout
from pwm.data.offline.manifest import LOCK, is_store, parse_manifest, total_counts
from pwm.errors import ConfigError, DataError
from pwm.files import locked, sync_folder, write_json

UNFINISHED = ".tmp"
SHARD = re.compile(r"\d{6}")


@contextlib.contextmanager
def writing(
    folder: Path, layout: Layout, plan: Sequence[dict[str, Any]], provenance: dict[str, Any]
) -> Iterator[StoreWriter]:
    """Open ``folder`` for writing, alone; at the end of the block the data set is finished.

    Args:
        folder: new, empty, or what the same ``plan`` left.
        layout: tasks and widths.
        plan: what each part is made from, as JSON values; a part becomes one shard.
        provenance: who made the data set, as JSON values.

    Raises:
        ConfigError: another process works on the folder, or it holds something else.
        DataError: not one segment was written.
    """
    if folder.exists() and not is_store(folder):
        others = [p.name for p in folder.iterdir() if p.name != LOCK and p.suffix != UNFINISHED]
        if others:
            raise ConfigError(f"{folder} holds other files ({others[0]}); name a new folder")
    with locked(folder, "folder"):
        writer = StoreWriter(folder, layout, plan, provenance)
        yield writer
        writer.finish()


class StoreWriter:
    """Writes the parts of a plan that are missing; see ``writing``.

    Attributes:
        missing: parts of the plan that are not written yet.
    """

    def __init__(
        self, folder: Path, layout: Layout, plan: Sequence[dict[str, Any]], provenance: dict[str, Any]
    ) -> None:
        self._folder, self._layout = folder, layout
        self._manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "complete": False,
            **layout.as_json(),
            "row_length": None,
            "counts": {},
            "provenance": provenance,
            "plan": list(plan),
            "shards": [],
        }
        if is_store(folder):
            self._continue()
        else:
            # Before the first shard, so that what a kill leaves of it is known to be ours.
            self._save()
        for left in folder.glob(f"*{UNFINISHED}"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        written = {shard["part"] for shard in self._manifest["shards"]}
        self.missing = [part for part in range(len(plan)) if part not in written]

    def _continue(self) -> None:
        """Take over the shards of a manifest of the same plan."""
        path = self._folder / MANIFEST
        try:
            found = parse_manifest(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}") from error
        same = ("task_set", "obs_dim", "action_dim", "tasks", "plan")
        if any(found.get(key) != self._manifest[key] for key in same):
            raise ConfigError(f"{self._folder} holds a data set made from something else; name a new folder")
        self._manifest = found
        # A shard that was renamed after the last manifest is written again.
        known = {shard["name"] for shard in found["shards"]}
        for folder in self._folder.iterdir():
            if SHARD.fullmatch(folder.name) and folder.name not in known:
                shutil.rmtree(folder)

    def write(self, part: int, blocks: Iterable[Block], origin: str) -> None:
        """Write the shard of a part of the plan.

        Args:
            part: its place in the plan.
            blocks: taken one by one; there may be none at all.
            origin: where they come from, for messages.

        Raises:
            DataError: a block cannot be what it is said to be; the shard is then not written.
            OSError: the disk is full or cannot be written.
        """
        name = f"{part:06d}"
        unfinished = self._folder / f"{name}{UNFINISHED}"
        unfinished.mkdir()
        try:
            segments = self._write_steps(unfinished / STEPS, blocks, origin)
            if len(segments):
                with (unfinished / SEGMENTS).open("wb") as file:
                    npy.write_array(file, segments, allow_pickle=False)
                    _sync(file)
                files = {file: _describe(unfinished / file) for file in (SEGMENTS, STEPS)}
                os.replace(unfinished, self._folder / name)
                sync_folder(self._folder)
            else:
                files = {}
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        lengths = segments["transitions"]
        self._manifest["shards"].append(
            {
                "name": name,
                "part": part,
                "files": files,
                "counts": count_segments(self._layout, segments),
                "lengths": sorted({int(lengths.min()), int(lengths.max())}) if len(segments) else [],
            }
        )
        self._save()
        self.missing.remove(part)

    def _write_steps(self, path: Path, blocks: Iterable[Block], origin: str) -> np.ndarray:
        """Write the rows of all blocks; return their segments, counted from the first row of the file."""
        segments, rows, count = [], 0, 0
        with path.open("wb") as file:
            header = write_header(file, self._layout.step, 0)
            for block in blocks:
                check_block(self._layout, block, origin, count)
                file.write(np.ascontiguousarray(block.steps).view(np.uint8).data)
                moved = block.segments.copy()
                moved["start"] += rows
                segments.append(moved)
                rows, count = rows + len(block.steps), count + len(moved)
            assert write_header(file, self._layout.step, rows) == header, "the header must not grow"
            _sync(file)
        return np.concatenate(segments) if segments else np.zeros(0, SEGMENT)

    def _save(self) -> None:
        write_json(self._folder / MANIFEST, self._manifest)

    def finish(self) -> None:
        """Mark the data set as complete.

        Raises:
            DataError: it holds nothing.
        """
        shards = self._manifest["shards"]
        counts = total_counts(shards)
        if not counts:
            raise DataError(f"{self._folder} would hold nothing: none of the sources has one of the tasks")
        shards.sort(key=lambda shard: shard["part"])
        lengths = {length for shard in shards for length in shard["lengths"]}
        row_length = lengths.pop() + 1 if len(lengths) == 1 else None
        self._manifest |= {"complete": True, "counts": counts, "row_length": row_length}
        self._save()


def count_segments(layout: Layout, segments: np.ndarray) -> dict[str, dict[str, int]]:
    """Return segments, whole episodes and transitions of every task that occurs in ``segments``."""
    counts = {}
    for number in np.unique(segments["task"]).tolist():
        own = segments[segments["task"] == number]
        counts[layout.tasks[number].name] = {
            "segments": len(own),
            "whole": int(own["whole"].sum()),
            "transitions": int(own["transitions"].sum(dtype=np.int64)),
        }
    return counts


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _describe(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
