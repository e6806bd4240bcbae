"""A coin like that of a contact: an actuator may do the opposite of what it is told.

At the start of every episode and every ``SEGMENT`` steps each actuator is reversed with probability
``strength``, until the next coin. Observations do not show it, so the next state has two modes for every
actuator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.envs.disturbances.base import Disturbed

SEGMENT = 10


class Bimodal(Disturbed):
    """Reverses actions for some steps."""

    default = 0.2

    def _start(self, obs: Tensor) -> dict[str, Tensor]:
        steps = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        return {"steps": steps, "sign": obs.new_ones(self.num_envs, self.spec.act_dim)}

    def _act(self, action: Tensor) -> Tensor:
        begins, sign = self._state["steps"] % SEGMENT == 0, self._state["sign"]
        coin = torch.where(self._uniform(self.spec.act_dim) < self.strength, -1.0, 1.0)
        sign = torch.where(begins.unsqueeze(1), coin, sign)
        self._state = {"steps": self._state["steps"] + 1, "sign": sign}
        return sign * action


DISTURBANCE = Bimodal
