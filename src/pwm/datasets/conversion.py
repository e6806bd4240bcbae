"""Published files of TD-MPC2's multi-task data become a data set of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pwm.checkpoints.run_search import expand
from pwm.data.offline.layout import SHARD_STEPS, Block
from pwm.data.offline.writer import writing
from pwm.datasets.minari_conversion import minari_root
from pwm.datasets.published import Published, check_archive, open_published
from pwm.errors import ConfigError, DataError

# Steps of a block, which is in memory at once.
BLOCK_STEPS = 1 << 17


def convert(
    sources: Sequence[str | Path],
    folder: Path,
    tasks: Sequence[str] | None = None,
    mask_padding: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Write the rows of published files into a data set.

    All files are looked at before anything is written. What was interrupted continues: shards that are
    complete stay as they are.

    Args:
        sources: files, folders of ``chunk_*.pt``, or patterns of these.
        folder: new, empty, or what the same conversion left.
        tasks: names of the tasks to keep; None keeps all.
        mask_padding: write zeros beyond the widths of each task instead of refusing anything else there.
        say: is told of every shard.

    Raises:
        ConfigError: no source, an unknown task, or a folder that holds something else.
        DataError: a file is missing, damaged, not of the layout, or of another task set than the first; or
            it holds a number that cannot be what it is said to be.
    """
    paths = source_files(sources)
    opened = [open_published(path) for path in paths]
    layout = opened[0].layout
    for file in opened:
        if file.layout != layout:
            raise DataError(f"{file.path} is of {file.layout.task_set}, {paths[0]} of {layout.task_set}")
    chosen = range(len(layout.tasks)) if tasks is None else sorted(set(layout.numbers(tasks)))
    present = np.unique(np.concatenate([file.task for file in opened]))
    if tasks is not None and (absent := sorted(set(chosen) - set(present.tolist()))):
        raise DataError(f"no source has rows of task {layout.tasks[absent[0]].name!r}")
    plan: list[dict[str, Any]] = []
    for path, file in zip(paths, opened, strict=True):
        plan += _parts(path, file, tasks, mask_padding)
    # Their pages must not add up; each is mapped again for every shard.
    del opened, file
    provenance = {"made_by": "pwm data convert", "sources": [path.name for path in paths]}
    with writing(folder, layout, plan, provenance) as writer:
        of_part = [path for path in paths for part in plan if part["file"] == path.name]
        for number in list(writer.missing):
            part = plan[number]
            blocks = _blocks(of_part[number], part, list(chosen), mask_padding)
            writer.write(number, blocks, str(of_part[number]))
            say(
                f"shard {number + 1} of {len(plan)}: {part['file']}, rows {part['rows'][0]}-{part['rows'][1]}"
            )


def source_files(sources: Sequence[str | Path]) -> list[Path]:
    """Return the files that are meant, in the order of their names and each once.

    Raises:
        ConfigError: there are none, or two of the same name.
        DataError: a source does not exist, or is a folder without chunks.
    """
    paths: list[Path] = []
    for source in sources:
        found = expand(source)
        if not found:
            raise DataError(f"{source}: no such file or folder, nor a Minari data set in {minari_root()}")
        for path in found:
            chunks = sorted(path.glob("chunk_*.pt")) if path.is_dir() else [path]
            if not chunks:
                raise DataError(f"{path} holds no chunk_*.pt")
            paths += chunks
    if not paths:
        raise ConfigError("name a file or a folder to convert")
    names = [path.name for path in paths]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two sources are called {twice}; a data set keeps their names apart by these")
    return paths


def _parts(
    path: Path, file: Published, tasks: Sequence[str] | None, mask_padding: bool
) -> Iterator[dict[str, Any]]:
    """What the shards of a file are made from."""
    check_archive(path)
    with path.open("rb") as raw:
        sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
    size = SHARD_STEPS // file.obs.shape[1]
    for first in range(0, len(file.task), size):
        yield {
            "file": path.name,
            "sha256": sha256,
            "rows": [first, min(first + size, len(file.task))],
            "tasks": None if tasks is None else sorted(set(tasks)),
            "mask_padding": mask_padding,
        }


def _blocks(path: Path, part: dict[str, Any], tasks: list[int], mask_padding: bool) -> Iterator[Block]:
    """The chosen rows of a part, some at a time."""
    file = open_published(path)
    first, last = part["rows"]
    rows = first + np.flatnonzero(np.isin(file.task[first:last], tasks))
    size = max(1, BLOCK_STEPS // file.obs.shape[1])
    for begin in range(0, len(rows), size):
        yield file.block(rows[begin : begin + size], mask_padding)
