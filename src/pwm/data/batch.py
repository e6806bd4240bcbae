"""The record every loss reads, and its time-index convention."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """B windows of H transitions, time first; no window crosses an episode end.

    Attributes:
        obs: [H+1, B, obs_dim] float32; ``obs[H]`` may be the terminal observation of an episode.
        action: [H, B, act_dim] float32 in [-1, 1].
        reward: [H, B] float32, unscaled environment reward.
        terminated: [H, B] bool, true where the transition ended the episode for good.

    ``action[t]``, ``reward[t]``, ``terminated[t]`` belong to ``obs[t] -> obs[t+1]``.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
