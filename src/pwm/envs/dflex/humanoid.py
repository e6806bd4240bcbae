"""Humanoid (task specification, section 2.6).

Observation (76): height, root quaternion, linear and angular velocity, 21 joint angles, 21 joint rates
x 0.1, up, heading, last action. Action (21): torque in tree order, strength as in the model's gears.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.envs.dflex.common import free_root_task

TERMINATION_HEIGHT = 0.74
HEIGHT_TOLERANCE = 0.1


def reward(obs: Tensor, action: Tensor) -> Tensor:
    """Return [N]: forward speed + 0.1 up + heading + height term - 0.002 |a|^2."""
    d = (obs[:, 0] - (TERMINATION_HEIGHT + HEIGHT_TOLERANCE)).clamp(-1.0, 0.1)
    height = torch.where(d < 0, -200.0 * d * d, 10.0 * d)
    return obs[:, 5] + 0.1 * obs[:, 53] + obs[:, 54] + height - 0.002 * action.square().sum(1)


# Unlike the other robots' target, this one comes near: heading changes as it is approached.
TASK = free_root_task(
    "humanoid",
    reward,
    TERMINATION_HEIGHT,
    start_height=1.35,
    start_joints=(0.0,) * 21,
    target_x=200.0,
)
