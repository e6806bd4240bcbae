"""Random pushes: at random times every actuator gets an impulse on top of its action.

While nothing pushes, a push begins with probability ``RATE`` in every step. For ``STEPS`` steps it adds one
vector to the actions, whose entries are uniform in [-strength, strength]: 1 is what an actuator can do.
The sum is clipped like any action. Copies are pushed 9 % of the time, and observations do not show it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.envs.disturbances.base import Disturbed

RATE = 0.02
STEPS = 5


class Pushes(Disturbed):
    """Adds impulses to the actions."""

    default, most = 1.0, 2.0

    def _start(self, obs: Tensor) -> dict[str, Tensor]:
        left = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        return {"left": left, "push": obs.new_zeros(self.num_envs, self.spec.act_dim)}

    def _act(self, action: Tensor) -> Tensor:
        begins = (self._state["left"] == 0) & (self._uniform() < RATE)
        fresh = (2.0 * self._uniform(self.spec.act_dim) - 1.0) * self.strength
        push = torch.where(begins.unsqueeze(1), fresh, self._state["push"])
        left = torch.where(begins, STEPS, self._state["left"])
        self._state = {"left": (left - 1).clamp(min=0), "push": push}
        return torch.where((left > 0).unsqueeze(1), action + push, action)


DISTURBANCE = Pushes
