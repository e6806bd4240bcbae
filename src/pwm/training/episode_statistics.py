"""Return and length of training episodes."""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.envs.base import StepResult


class EpisodeStatistics:
    """Return and length of finished training episodes, accumulated without host synchronisation."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.running_return = torch.zeros(num_envs, device=device)
        self.running_length = torch.zeros(num_envs, device=device)
        self.sums = torch.zeros(3, device=device)

    def add(self, result: StepResult) -> None:
        """Count one step of every environment."""
        done = result.terminated | result.truncated
        self.running_return += result.reward
        self.running_length += 1
        finished = done.to(self.sums.dtype)
        self.sums += torch.stack(
            [finished @ self.running_return, finished @ self.running_length, finished.sum()]
        )
        self.running_return.masked_fill_(done, 0.0)
        self.running_length.masked_fill_(done, 0.0)

    def state_dict(self) -> list[Tensor]:
        """Unfinished episodes, and sums since the last ``flush``."""
        return [self.running_return.clone(), self.running_length.clone(), self.sums.clone()]

    def load_state_dict(self, state: list[Tensor]) -> None:
        """Continue from ``state``."""
        for own, saved in zip((self.running_return, self.running_length, self.sums), state, strict=True):
            own.copy_(saved)

    def flush(self) -> dict[str, float]:
        """Means over the episodes finished since the last call; empty if none finished."""
        total_return, total_length, count = self.sums.tolist()
        self.sums.zero_()
        if not count:
            return {}
        return {
            "train/episode_return": total_return / count,
            "train/episode_length": total_length / count,
            "train/episodes": count,
        }
