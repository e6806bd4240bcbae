"""Hand-made data for data sets: every number says which row, step and column it stands in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pwm.data.offline.layout import Block, Layout, pack, set_layout
from pwm.data.offline.writer import writing

MT30, MT80 = set_layout("mt30"), set_layout("mt80")


def published_row(layout: Layout, task: int, row: int, length: int) -> dict[str, Tensor]:
    """One row in the published layout; obs[t, c] = row + 1 + t/1000 + c/100, filler nobody may use."""
    own = layout.tasks[task]
    t = torch.arange(length, dtype=torch.float64)
    obs, action = torch.zeros(length, layout.obs_dim), torch.zeros(length, layout.action_dim)
    obs[:, : own.obs_dim] = (row + 1 + t[:, None] / 1000 + torch.arange(own.obs_dim) / 100).float()
    action[:, : own.action_dim] = (((t[:, None] + row) % 17 - 8) / 8).float()
    reward = ((t + row) % 13 / 8).float()
    action[0], reward[0] = 1e30, float("nan")
    return {
        "obs": obs,
        "action": action,
        "reward": reward,
        "task": torch.full((length,), task, dtype=torch.int32),
    }


def published(tasks: list[int], layout: Layout = MT30, first: int = 0) -> dict[str, Tensor]:
    """Rows of ``tasks`` in the published layout of the set."""
    length = 501 if layout is MT30 else 101
    rows = [published_row(layout, task, first + i, length) for i, task in enumerate(tasks)]
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def write_chunks(folder: Path, *chunks: dict[str, Tensor]) -> Path:
    """Save files of the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, chunk in enumerate(chunks):
        torch.save(chunk, folder / f"chunk_{number}.pt")
    return folder


def block(task: int, count: int, length: int, layout: Layout = MT30, seed: int = 0) -> Block:
    """Random segments of one task."""
    rng, own = np.random.default_rng(seed), layout.tasks[task]
    obs = rng.normal(size=(count, length + 1, own.obs_dim))
    action = rng.uniform(-1, 1, (count, length, own.action_dim))
    return pack(layout, np.full(count, task), obs, action, rng.uniform(0, 2, (count, length)))


def write_store(folder: Path, *parts: list[Block], layout: Layout = MT30) -> Path:
    """A finished data set with one shard per part."""
    with writing(folder, layout, [{"part": i} for i in range(len(parts))], {"made_by": "a test"}) as writer:
        for number in list(writer.missing):
            writer.write(number, parts[number], f"part {number}")
    return folder
