"""What a data set looks like on disk: rows of steps, rows of segments, and the tasks they belong to.

A segment is a piece of one episode without a gap. A segment of T transitions takes T+1 rows of ``steps.npy``:
``action``, ``reward`` and ``terminated`` of a row belong to the transition from its ``obs`` to that of the
next row, and the last row (the END row) holds an observation and zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from pwm.envs.task_table import TaskRow, TaskSet, task_set
from pwm.errors import ConfigError, DataError

FORMAT, VERSION = "flow-pwm/data", 1
MANIFEST = "manifest.json"
STEPS, SEGMENTS = "steps.npy", "segments.npy"
# Steps of one shard, where there are so many: about half a gigabyte.
SHARD_STEPS = 1 << 22
SEGMENT = np.dtype(
    [
        ("start", "<i8"),  # first row of the segment
        ("transitions", "<i4"),
        ("task", "<i4"),  # place in the list of tasks
        ("reward_sum", "<f8"),
        ("whole", "u1"),  # 1 for an episode from its reset to its end
    ]
)


@dataclass(frozen=True)
class StoredTask:
    """One task of a data set.

    Attributes:
        name: name of the table, or ``EnvSpec.name`` of a task that is not in it.
        obs_dim: width of an observation, without padding.
        action_dim: width of an action, without padding.
        episode_length: steps after which an episode is cut; None where that is not known.
        max_reward: bound of a step's reward, which is then never negative; None where there is none.
    """

    name: str
    obs_dim: int
    action_dim: int
    episode_length: int | None = None
    max_reward: float | None = None


@dataclass(frozen=True)
class Layout:
    """Tasks in the order of their numbers, and with them the widths of all rows.

    Attributes:
        tasks: at least one.
        task_set: ``mt30`` or ``mt80``; empty for a task that is in no set.
    """

    tasks: tuple[StoredTask, ...]
    task_set: str = ""

    @property
    def obs_dim(self) -> int:
        """Width that observations are padded to."""
        return max(task.obs_dim for task in self.tasks)

    @property
    def action_dim(self) -> int:
        """Width that actions are padded to."""
        return max(task.action_dim for task in self.tasks)

    @property
    def names(self) -> list[str]:
        """Names of the tasks in order."""
        return [task.name for task in self.tasks]

    @property
    def step(self) -> np.dtype:
        """Type of a row of ``steps.npy``: float32 fields, ``terminated`` 0 or 1."""
        fields = [("obs", "<f4", (self.obs_dim,)), ("action", "<f4", (self.action_dim,))]
        return np.dtype([*fields, ("reward", "<f4"), ("terminated", "<f4")])

    def numbers(self, names: Sequence[str]) -> list[int]:
        """Return the numbers of the tasks called ``names``.

        Raises:
            ConfigError: one of them is not in this data set.
        """
        known = self.names
        for name in names:
            if name not in known:
                shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
                raise ConfigError(f"task {name!r} is not one of this data set's: {shown}")
        return [known.index(name) for name in names]

    def as_json(self) -> dict[str, Any]:
        """Return what the manifest says of the tasks."""
        return {
            "task_set": self.task_set,
            "obs_dim": self.obs_dim,
            "action_dim": self.action_dim,
            "tasks": [asdict(task) for task in self.tasks],
        }

    @classmethod
    def from_json(cls, manifest: dict[str, Any]) -> Layout:
        """Return the tasks that a manifest lists.

        Raises:
            DataError: it does not list them as ``as_json`` does.
        """
        try:
            layout = cls(tuple(StoredTask(**task) for task in manifest["tasks"]), manifest["task_set"])
            widths = layout.obs_dim, layout.action_dim
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the manifest's list of tasks cannot be understood: {error}") from error
        if (manifest.get("obs_dim"), manifest.get("action_dim")) != widths:
            raise DataError(f"the manifest's widths are not those of its tasks: {widths}")
        return layout


def set_layout(name: str) -> Layout:
    """Return the layout of the task set ``name``.

    Raises:
        ConfigError: there is no such set.
    """
    rows = task_set(name).rows
    return Layout(tuple(map(_stored, rows)), name)


def set_of(rows: Sequence[TaskRow]) -> TaskSet:
    """Return the smallest set that holds all ``rows`` of the table."""
    small = task_set("mt30")
    return small if all(row.id < len(small.rows) for row in rows) else task_set("mt80")


def _stored(row: TaskRow) -> StoredTask:
    # Every control step of the suite gives at most 1; nothing is promised of Meta-World's rewards.
    bound = float(row.action_repeat) if row.suite == "dm_control" else None
    return StoredTask(row.name, row.obs_dim, row.action_dim, row.episode_length, bound)


class Block(NamedTuple):
    """Some whole segments, one after the other.

    Attributes:
        steps: [R] of ``Layout.step``.
        segments: [S] of ``SEGMENT``; ``start`` counts from the first row of the block.
    """

    steps: np.ndarray
    segments: np.ndarray


def pack(
    layout: Layout,
    task: np.ndarray,
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    terminated: np.ndarray | None = None,
    whole: np.ndarray | bool = False,
) -> Block:
    """Return segments of equal length as a block; narrower observations and actions are padded with zeros.

    Args:
        layout: of the data set.
        task: [S] integers, numbers of the tasks.
        obs: [S, T+1, up to obs_dim].
        action, reward, terminated: [S, T, up to action_dim], [S, T] and [S, T], in the convention of
            ``pwm.data.batch``; None is no termination.
        whole: [S] bool or one for all, whether a segment is an episode from its reset to its end.
    """
    count, rows = obs.shape[:2]
    steps = np.zeros((count, rows), layout.step)
    steps["obs"][..., : obs.shape[-1]] = obs
    steps["action"][:, :-1, : action.shape[-1]] = action
    steps["reward"][:, :-1] = reward
    if terminated is not None:
        steps["terminated"][:, :-1] = terminated
    segments = np.zeros(count, SEGMENT)
    segments["start"] = np.arange(count) * rows
    segments["transitions"] = rows - 1
    segments["task"] = task
    segments["reward_sum"] = steps["reward"].sum(1, dtype=np.float64)
    segments["whole"] = whole
    return Block(steps.reshape(-1), segments)
