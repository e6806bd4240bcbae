"""Delayed observations: what is seen is the observation from ``strength`` steps ago.

Until an episode is that old its first observation is seen. Rewards and ends of episodes are not delayed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.envs.disturbances.base import Disturbed


class Delay(Disturbed):
    """Shows old observations."""

    default, least, most, whole = 2.0, 1.0, 100.0, True

    def _start(self, obs: Tensor) -> dict[str, Tensor]:
        return {"waiting": obs.unsqueeze(1).repeat(1, int(self.strength), 1)}

    def _see(self, obs: Tensor) -> Tensor:
        waiting = torch.cat([self._state["waiting"], obs.unsqueeze(1)], dim=1)
        self._state = {"waiting": waiting[:, 1:]}
        return waiting[:, 0].clone()


DISTURBANCE = Delay
