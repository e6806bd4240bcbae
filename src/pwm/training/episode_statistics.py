"""Return and length of training episodes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pwm.envs.base import StepResult

SUMS = ("episode_returns", "episode_lengths", "episodes", "rewards", "steps")


class EpisodeStatistics:
    """Return and length of finished training episodes, accumulated without host synchronisation."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.running_return = torch.zeros(num_envs, device=device)
        self.running_length = torch.zeros(num_envs, device=device)
        self.sums = torch.zeros(3, device=device)
        # Rewards of all steps since the last ``flush``, and their number.
        self.rewards = torch.zeros(2, device=device)

    def add(self, result: StepResult) -> None:
        """Count one step of every environment."""
        done = result.terminated | result.truncated
        self.rewards[0] += result.reward.sum()
        self.rewards[1] += len(result.reward)
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
        return [tensor.clone() for tensor in self._tensors()]

    def load_state_dict(self, state: list[Tensor]) -> None:
        """Continue from ``state``."""
        # States of earlier releases lack the last tensor; it is that of one epoch.
        for own, saved in zip(self._tensors(), state, strict=False):
            own.copy_(saved)

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.running_return, self.running_length, self.sums, self.rewards

    def flush(self) -> dict[str, Tensor]:
        """Return sums over the steps since the last call and the episodes finished in it."""
        values = [*self.sums.clone(), *self.rewards.clone()]
        self.sums.zero_()
        self.rewards.zero_()
        return dict(zip(SUMS, values, strict=True))


def episode_means(sums: Mapping[str, float]) -> dict[str, float]:
    """Return means over steps and over finished episodes, as far as there are any, of what ``flush`` gave."""
    total_return, total_length, count, reward, steps = (sums[name] for name in SUMS)
    found = {"train/reward": reward / steps} if steps else {}
    if not count:
        return found
    return found | {
        "train/episode_return": total_return / count,
        "train/episode_length": total_length / count,
        "train/episodes": count,
    }
