"""Ant (task specification, section 2.4).

Observation (37): height, root quaternion, linear and angular velocity, 8 joint angles, 8 joint rates
x 0.1, up, heading, last action. Action (8): torque 200 N m x a on hip and ankle of legs 1 to 4.
"""

from __future__ import annotations

from torch import Tensor

from pwm.envs.dflex.common import free_root_task

TERMINATION_HEIGHT = 0.27


def reward(obs: Tensor, action: Tensor) -> Tensor:
    """Return [N]: forward speed + 0.1 up + heading + height above termination; no action cost."""
    return obs[:, 5] + 0.1 * obs[:, 27] + obs[:, 28] + (obs[:, 0] - TERMINATION_HEIGHT)


TASK = free_root_task(
    "ant",
    reward,
    TERMINATION_HEIGHT,
    start_height=0.75,
    start_joints=(0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0),
)
