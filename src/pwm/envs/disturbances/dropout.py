"""Dropped observations: with probability ``strength`` a step shows the last one that was seen once more."""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.envs.disturbances.base import Disturbed


class Dropout(Disturbed):
    """Repeats observations at random."""

    default, most = 0.3, 0.99

    def _start(self, obs: Tensor) -> dict[str, Tensor]:
        return {"seen": obs.clone()}

    def _see(self, obs: Tensor) -> Tensor:
        dropped = (self._uniform() < self.strength).unsqueeze(1)
        self._state = {"seen": torch.where(dropped, self._state["seen"], obs)}
        return self._state["seen"].clone()


DISTURBANCE = Dropout
