"""The record every loss reads, and its time-index convention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """B windows of up to H transitions, time first; no window crosses an episode end.

    Attributes:
        obs: [H+1, B, obs_dim] float32; where an episode ends inside the window, its last observation is
            repeated.
        action: [H, B, act_dim] float32 in [-1, 1].
        reward: [H, B] float32, unscaled environment reward.
        terminated: [H, B] bool, true where the transition ended the episode for good.
        valid: [H, B] bool, false for the padding behind an episode's end; once false, false to the end.
        task: int64 [B], the task of every window; None where there is only one.

    ``action[t]``, ``reward[t]``, ``terminated[t]`` belong to ``obs[t] -> obs[t+1]``.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    valid: Tensor
    task: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the same windows on ``device``."""
        return Batch._make(None if x is None else x.to(device, non_blocking=True) for x in self)

    def pieces(self, count: int) -> list[Batch]:
        """Return the windows in ``count`` groups of nearly equal size."""
        columns = [x.tensor_split(count, dim=1) for x in self[:5]]
        tasks = [None] * count if self.task is None else self.task.tensor_split(count)
        return [Batch._make(fields) for fields in zip(*columns, tasks, strict=True)]


def joined(batches: Sequence[Batch]) -> Batch:
    """Return the windows of all batches, one after the other; all of them have a ``task``, or none has."""
    columns = [torch.cat(fields, dim=1) for fields in zip(*(batch[:5] for batch in batches), strict=True)]
    tasks = [batch.task for batch in batches if batch.task is not None]
    return Batch._make([*columns, torch.cat(tasks) if tasks else None])


class Recorded(NamedTuple):
    """T steps of N whole episodes that started together, time first.

    Attributes:
        obs: [T+1, N, obs_dim]; ``obs[t]`` before step t, ``obs[t+1]`` the true observation after it, also
            where the episode ends there.
        action: [T, N, act_dim].
        reward: [T, N], environment reward.
        terminated: [T, N] bool, true where the step ended the episode for good.
        running: [T, N] bool, true while the episode lasts; everything else is to be ignored.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    running: Tensor
