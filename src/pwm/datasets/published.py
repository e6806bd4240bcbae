"""The layout in which TD-MPC2's multi-task data are published: one file of rows of equal length per chunk.

A file holds ``obs`` [N, T+1, O], ``action`` [N, T+1, A], ``reward`` [N, T+1] and ``task`` [N, T+1]. Index t
of a row holds an observation and the action and reward that led to it; what stands at index 0 of action and
reward is filler that means nothing. MT30 has whole episodes, T = 500; MT80 has pieces of
100 steps.
Source: TD-MPC2 (Hansen et al., 2024), its data set and the buffer that writes it.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pwm.data.offline.layout import Block, Layout, pack, set_layout
from pwm.errors import CheckpointError, DataError
from pwm.files import write_atomically
from pwm.interop.files import read_file
from pwm.interop.pickles import Record

KINDS = {"obs": torch.float32, "action": torch.float32, "reward": torch.float32, "task": torch.int32}
# Task set by width of the observations and length of a row.
SETS = {(24, 501): "mt30", (39, 101): "mt80"}
# Observations of a row by task set.
ROWS = {name: rows for (_, rows), name in SETS.items()}
# Rows whose task numbers are looked at together.
CHECKED_ROWS = 1 << 14


@dataclass(frozen=True)
class Published:
    """One file, whose tensors stay in it until they are looked at.

    Attributes:
        path: the file.
        layout: of its task set.
        obs, action, reward: see the module.
        task: [N] int64, the task of each row.
    """

    path: Path
    layout: Layout
    obs: Tensor
    action: Tensor
    reward: Tensor
    task: np.ndarray

    def block(self, rows: np.ndarray, mask_padding: bool) -> Block:
        """Return some rows [S] in the convention of ``pwm.data.batch``.

        Args:
            rows: numbers of the rows, ascending.
            mask_padding: write zeros beyond the widths of each row's task, whatever stands there.
        """
        obs, action = self.obs[rows].numpy(), self.action[rows, 1:].numpy()
        task = self.task[rows]
        if mask_padding:
            for values, widths in (
                (obs, [t.obs_dim for t in self.layout.tasks]),
                (action, [t.action_dim for t in self.layout.tasks]),
            ):
                values *= (np.arange(values.shape[-1]) < np.array(widths)[task][:, None])[:, None]
        lengths = np.array([t.episode_length for t in self.layout.tasks])[task]
        whole = lengths == action.shape[1]
        return pack(self.layout, task, obs, action, self.reward[rows, 1:].numpy(), whole=whole)


def open_published(path: Path) -> Published:
    """Read shapes and task numbers of a file; nothing that it may hold is ever run.

    Raises:
        DataError: it is missing, damaged, or no file of this layout; the message begins with its name.
    """
    try:
        tensors = _tensors(read_file(path, mapped=True))
        _check_shapes(tensors)
        obs = tensors["obs"]
        name = SETS.get((obs.shape[2], obs.shape[1]))
        if name is None:
            known = "; ".join(f"{s} has {width} and {rows}" for (width, rows), s in SETS.items())
            raise ValueError(
                f"observations {obs.shape[2]} wide in rows of {obs.shape[1]} are of no task set: {known}"
            )
        layout = set_layout(name)
        if tensors["action"].shape[2] != layout.action_dim:
            raise ValueError(f"actions are {tensors['action'].shape[2]} wide, {name} has {layout.action_dim}")
        task = _row_tasks(tensors["task"], len(layout.tasks))
    except CheckpointError as error:
        # It already names the file.
        raise DataError(str(error)) from error
    except ValueError as error:
        raise DataError(f"{path} is no file of the published layout: {error}") from error
    return Published(path, layout, obs, tensors["action"], tensors["reward"], task)


def check_archive(path: Path) -> None:
    """Compare the parts of a file with their checksums, in pieces.

    Raises:
        DataError: one is wrong.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if damaged is not None:
        raise DataError(f"{path} is damaged: wrong checksum of {damaged}")


def write_published(path: Path, block: Block, layout: Layout) -> None:
    """Write segments of equal length as one file of the layout, atomically.

    Segments that are longer than the rows of their task set become several rows, each of which begins with
    the observation that the one before ended with: episodes of dm_control are five rows of MT80.

    It holds a plain dict of tensors, so that nothing but torch is needed to read it with
    ``weights_only=True``; ``TensorDict(torch.load(path), (N, T+1))`` makes of it what the published files
    hold. The filler at index 0 is NaN.

    Raises:
        DataError: no whole number of rows holds a segment.
    """
    count, rows = len(block.segments), ROWS[layout.task_set]
    steps = block.steps.reshape(count, -1)
    if (length := steps.shape[1] - 1) % (rows - 1):
        raise DataError(f"{path}: segments of {length} steps are no rows of {rows - 1} steps")
    pieces = np.arange(0, length, rows - 1)
    steps = steps[:, pieces[:, None] + np.arange(rows)].reshape(-1, rows)
    filler = np.full_like(steps["action"][:, :1], np.nan)
    action = np.concatenate((filler, steps["action"][:, :-1]), axis=1)
    reward = np.concatenate((filler[..., 0], steps["reward"][:, :-1]), axis=1)
    task = np.repeat(block.segments["task"], len(pieces))[:, None].repeat(rows, axis=1)
    arrays = {"obs": steps["obs"], "action": action, "reward": reward, "task": task.astype(np.int32)}
    content = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
    write_atomically(path, lambda file: torch.save(content, file))


def _tensors(content: Any) -> dict[str, Tensor]:
    """The four tensors of a dict or TensorDict."""
    if isinstance(content, Record):
        content = _entries(content)
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds {type(content).__name__}, not the tensors {', '.join(KINDS)}")
    if missing := [key for key in KINDS if not isinstance(content.get(key), Tensor)]:
        found = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise ValueError(f"it has no tensor {', '.join(missing)}, but {found}")
    return {key: content[key] for key in KINDS}


def _entries(record: Record) -> Any:
    """What a pickled TensorDict holds: early releases restore its state, later ones pass it on."""
    states = [record.state, *record.arguments]
    for state in states:
        inner = state.get("_tensordict") if isinstance(state, Mapping) else None
        if inner is not None:
            return inner.entries if isinstance(inner, Record) else inner
    raise ValueError(f"it holds an object of {record.origin}, not a TensorDict")


def _check_shapes(tensors: dict[str, Tensor]) -> None:
    for key, dtype in KINDS.items():
        tensor, dims = tensors[key], 3 if key in ("obs", "action") else 2
        if tensor.dtype != dtype:
            raise ValueError(f"{key} is {tensor.dtype}, expected {dtype}")
        if tensor.device.type != "cpu":
            raise ValueError(f"{key} has the shape {tuple(tensor.shape)}, for which it holds too few values")
        if tensor.dim() != dims or tensor.shape[:2] != tensors["obs"].shape[:2]:
            shown = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
            raise ValueError(f"shapes do not belong together: {shown}")
    if not len(tensors["obs"]):
        raise ValueError("it has no rows")


def _row_tasks(task: Tensor, count: int) -> np.ndarray:
    """Return the task of every row, [N] int64, after seeing that it does not change within one."""
    numbers = []
    for first in range(0, len(task), CHECKED_ROWS):
        part = task[first : first + CHECKED_ROWS].numpy()
        changing = (part != part[:, :1]).any(1)
        if changing.any():
            raise ValueError(f"the task of row {first + int(changing.argmax())} changes within it")
        numbers.append(part[:, 0].astype(np.int64))
    tasks = np.concatenate(numbers)
    if tasks.min() < 0 or tasks.max() >= count:
        row = int(((tasks < 0) | (tasks >= count)).argmax())
        raise ValueError(f"row {row} has task {tasks[row]}; the set has tasks 0 to {count - 1}")
    return tasks
