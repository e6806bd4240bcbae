"""Hidden parameters: every actuator has a gain and a bias of its own in every episode.

What is executed is gain * action + bias, clipped like any action. Gains are uniform in
[1 - strength, 1 + strength], biases in [-strength, strength], where 1 is what an actuator can do.
Observations show neither.
"""

from __future__ import annotations

from torch import Tensor

from pwm.envs.disturbances.base import Disturbed


class Hidden(Disturbed):
    """Changes what actuators do, from episode to episode."""

    default = 0.2

    def _start(self, obs: Tensor) -> dict[str, Tensor]:
        gain, bias = (self.strength * (2.0 * self._uniform(self.spec.act_dim) - 1.0) for _ in range(2))
        return {"gain": 1.0 + gain, "bias": bias}

    def _act(self, action: Tensor) -> Tensor:
        return self._state["gain"] * action + self._state["bias"]


DISTURBANCE = Hidden
