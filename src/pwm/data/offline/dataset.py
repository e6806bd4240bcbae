"""Random windows of a data set that may be larger than memory."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pwm.data.batch import Batch
from pwm.data.offline.arrays import map_steps, read_segments
from pwm.data.offline.layout import SEGMENTS, STEPS
from pwm.data.offline.manifest import StoreFiles
from pwm.errors import ConfigError, DataError

# Parts of a data set.
TRAINING, HELD_OUT = "training", "held_out"
# All windows that are drawn.
WHOLE = slice(None)
# What the pages of files that this process has touched may take before they are given back. They stay in
# the system's cache of files, from where they come back without reading the disk.
RESIDENT_BYTES = 1 << 30
# The system maps the neighbours of a page, too: up to so many bytes for each of the two ends of a window.
PER_WINDOW = 2 << 16


class OfflineData:
    """Windows of the segments of a data set, drawn at random.

    A window starts at any transition and follows its segment for up to H transitions; where the segment is
    shorter, the rest of the window is padding, marked invalid, as in ``ReplayBuffer``. What is drawn depends
    on the data set and on the state of the generator alone, so a run that saves the latter continues with
    the same windows.

    Attributes:
        horizon: H, most transitions in one window.
        layout: tasks and widths of the whole data set.
        tasks: numbers of the tasks that are drawn from, ascending.
        obs_dim, act_dim: widths of what ``sample`` returns.
        digest: SHA-256 of the manifest: one value that stands for all data.
    """

    def __init__(
        self,
        folder: str | Path,
        horizon: int,
        tasks: Sequence[str] | None = None,
        balanced: bool = False,
        padded: bool = True,
        held_out: float = 0.0,
        part: str = TRAINING,
    ) -> None:
        """Map the shards of ``folder``; names and sizes of its files are compared with the manifest.

        Args:
            folder: the data set.
            horizon: H, at least 1.
            tasks: names of the tasks to draw from; None is all that have data.
            balanced: draw every task equally often, however much data it has.
            padded: with the widths and task numbers of the whole data set. Otherwise of one task alone, in
                its own widths and without a number.
            held_out: share of the segments of every task, evenly spaced and at least one, that is kept for
                measuring how well a model predicts what it did not learn from; 0 keeps none.
            part: ``training`` draws from the others, ``held_out`` from these.

        Raises:
            ConfigError: ``horizon`` is below 1, an unknown task, or several tasks that are not ``padded``.
            DataError: a task without data, or with a single segment of which a share is to be held out; a
                data set that is unfinished, damaged, or misses a file.
        """
        if horizon < 1:
            raise ConfigError(f"horizon={horizon}; it must be at least 1")
        files = StoreFiles(folder)
        files.verify(quick=True)
        self.horizon, self.layout, self.digest = horizon, files.layout, files.digest
        self._balanced = balanced
        self._width = self.layout.step.itemsize // 4
        shards = [shard["name"] for shard in files.content["shards"] if shard["files"]]
        self._maps = [map_steps(files.folder / name / STEPS, self.layout.step) for name in shards]
        self._steps = [values.reshape(-1, self._width) for _, values in self._maps]
        self._touched = 0
        self._fits = sum(len(pages) for pages, _ in self._maps) <= RESIDENT_BYTES
        if not self._fits:
            for pages, _ in self._maps:
                pages.madvise(mmap.MADV_RANDOM)
        self._held_out, self._part = held_out, part
        self._index([read_segments(files.folder / name / SEGMENTS) for name in shards], tasks)
        if not padded and len(self.tasks) > 1:
            raise ConfigError(f"{len(self.tasks)} tasks have no widths of their own; name one, or pad them")
        own = self.layout.tasks[self.tasks[0]]
        self._padded = padded
        self.obs_dim = self.layout.obs_dim if padded else own.obs_dim
        self.act_dim = self.layout.action_dim if padded else own.action_dim

    def _index(self, shards: list[np.ndarray], tasks: Sequence[str] | None) -> None:
        """List the segments to draw from by task, with the number of transitions before each."""
        for rows, segments in zip(self._steps, shards, strict=True):
            if int(segments["start"][-1]) + int(segments["transitions"][-1]) + 1 != len(rows):
                raise DataError("a shard's segments do not cover its rows; `pwm data verify` says more")
        task = np.concatenate([segments["task"] for segments in shards])
        shard = np.repeat(np.arange(len(shards), dtype=np.int32), [len(segments) for segments in shards])
        chosen = np.unique(task) if tasks is None else np.unique(self.layout.numbers(tasks))
        order = np.argsort(task, kind="stable")
        order = order[np.isin(task[order], chosen)]
        if self._held_out:
            order = self._of_part(order, task[order])
        self._task, self._shard = task[order], shard[order]
        self._start = np.concatenate([segments["start"] for segments in shards])[order]
        lengths = np.concatenate([segments["transitions"] for segments in shards])[order].astype(np.int64)
        self._end = np.cumsum(lengths)  # of every segment, in ranks
        self._length = lengths
        self.tasks = [int(number) for number in chosen]
        first = np.searchsorted(self._task, chosen)
        last = np.searchsorted(self._task, chosen, side="right")
        if (first == last).any():
            name = self.layout.tasks[int(chosen[first == last][0])].name
            raise DataError(f"the data set has no data of task {name!r}")
        # Ranks of a task: from the end of the segment before its first one.
        self._task_end = torch.from_numpy(self._end[last - 1])
        self._task_size = torch.diff(self._task_end, prepend=torch.zeros(1, dtype=torch.int64))

    def _of_part(self, order: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Keep those of the segments in ``order``, sorted by their ``task``, that belong to the part."""
        kept = np.zeros(len(order), bool)
        for number in np.unique(task):
            place = np.flatnonzero(task == number)
            if len(place) < 2:
                name = self.layout.tasks[int(number)].name
                raise DataError(f"task {name!r} has a single segment, of which no share can be held out")
            count = min(max(1, round(self._held_out * len(place))), len(place) - 1)
            kept[place[((np.arange(count) + 0.5) * len(place) / count).astype(np.int64)]] = True
        return order[kept if self._part == HELD_OUT else ~kept]

    def __len__(self) -> int:
        """Transitions that can be drawn, each the start of one window."""
        return int(self._end[-1])

    @property
    def transitions(self) -> dict[str, int]:
        """How many transitions there are of each task that is drawn from."""
        names = [self.layout.tasks[number].name for number in self.tasks]
        return dict(zip(names, self._task_size.tolist(), strict=True))

    def spread(self, task: int, count: int) -> Batch:
        """Return at most ``count`` windows of the task with this number, evenly spaced over its data."""
        place = self.tasks.index(task)
        size, end = int(self._task_size[place]), int(self._task_end[place])
        ranks = torch.linspace(0, size - 1, min(count, size), dtype=torch.float64).long()
        return self._gather(end - size + ranks)

    def sample(self, batch_size: int, generator: torch.Generator, share: slice = WHOLE) -> Batch:
        """Draw windows with replacement.

        Args:
            batch_size: number of windows.
            generator: source of randomness, on any device.
            share: which of them to read, B altogether; the others are drawn all the same.

        Returns:
            Batch of [H+1, B, obs_dim] obs and [H, B, ...] others on the CPU; ``task`` is the number [B] of
            the task where the data set has several, see ``padded``.

        Raises:
            DataError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise DataError(f"cannot sample batch_size={batch_size} windows; the minimum is 1")
        if not self._balanced:
            return self._gather(_integers(len(self), batch_size, generator)[share])
        place = _integers(len(self.tasks), batch_size, generator)
        depth = torch.rand(batch_size, generator=generator, dtype=torch.float64, device=generator.device)
        size = self._task_size[place]
        within = torch.minimum((depth.cpu() * size).long(), size - 1)
        return self._gather((self._task_end[place] - size + within)[share])

    def gather(self, rank: Tensor) -> Batch:
        """Return the windows that start at the transitions with the given ranks.

        Args:
            rank: [B] int64 in [0, len(self)). Transitions are ranked by task, then in the order of the
                shards, those of a segment one after the other.

        Raises:
            DataError: a rank is out of range.
        """
        if rank.numel() and not 0 <= int(rank.min()) <= int(rank.max()) < len(self):
            raise DataError(f"ranks {int(rank.min())}..{int(rank.max())} are out of range 0..{len(self) - 1}")
        return self._gather(rank)

    def _gather(self, rank: Tensor) -> Batch:
        h, ranks = self.horizon, rank.numpy()
        segment = np.searchsorted(self._end, ranks, side="right")
        left = self._end[segment] - ranks  # transitions from here to the end of the segment
        start = self._start[segment] + self._length[segment] - left
        ahead = np.arange(h + 1)[:, None]
        # The END row stops every window: what lies behind it belongs to another segment.
        row = start + np.minimum(ahead, left)
        packed = np.empty((*row.shape, self._width), np.float32)
        shard = self._shard[segment]
        order = np.argsort(shard, kind="stable")
        present, first = np.unique(shard[order], return_index=True)
        for number, columns in zip(present.tolist(), np.split(order, first[1:]), strict=True):
            packed[:, columns] = self._steps[number][row[:, columns]]
        self._release(len(ranks))
        o, a = self.layout.obs_dim, self.layout.action_dim
        values = torch.from_numpy(packed)
        several = self._padded and len(self.layout.tasks) > 1
        return Batch(
            values[..., : self.obs_dim],
            values[:h, :, o : o + self.act_dim],
            values[:h, :, o + a],
            values[:h, :, o + a + 1] > 0.5,
            torch.from_numpy(ahead[:h] < left),
            torch.from_numpy(self._task[segment].astype(np.int64)) if several else None,
        )

    def _release(self, windows: int) -> None:
        """Count pages that ``windows`` windows touched; give them back before they are too many."""
        if self._fits:
            return
        self._touched += windows * (PER_WINDOW + (self.horizon + 1) * self._width * 4)
        if self._touched > RESIDENT_BYTES:
            for pages, _ in self._maps:
                pages.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


def _integers(high: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` uniform integers in [0, ``high``), int64 on the CPU."""
    return torch.randint(high, (count,), generator=generator, device=generator.device).cpu()
