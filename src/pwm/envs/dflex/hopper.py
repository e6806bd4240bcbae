"""Planar hopper (task specification, section 2.3).

Observation (11): height above the 1.25 m rest height, pitch, thigh, leg and foot angles; forward,
vertical and pitch velocity, joint rates. Action (3): torque 200 N m x a on thigh, leg, foot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.envs.dflex.common import Task

TERMINATION_HEIGHT = -0.45
HEIGHT_TOLERANCE = 0.15
ANGLE_SCALE = 0.524
RESET_RANGE = 0.05


def observe(qpos: Tensor, qvel: Tensor, last_action: Tensor) -> Tensor:
    """Return [N, 11]: everything but the x position."""
    return torch.cat((qpos[:, 1:], qvel), dim=1)


def reward(obs: Tensor, action: Tensor) -> Tensor:
    """Return [N]: forward speed + height term + pitch term - 0.1 |a|^2, on the pre-step observation."""
    # height term: d above zero, -200 d^2 below; written with fused operations, as this runs every step.
    d = (obs[:, 0] - (TERMINATION_HEIGHT + HEIGHT_TOLERANCE)).clamp_(-1.0, 0.3)
    pitch, below = obs[:, 1], d.clamp_max(0.0)
    total = obs[:, 5] + d.clamp_min_(0.0)
    total = total.addcmul_(below, below, value=-200.0).addcmul_(pitch, pitch, value=-1.0 / ANGLE_SCALE**2)
    return total.sub_(torch.linalg.vecdot(action, action), alpha=0.1).add_(1.0)


def terminated(obs: Tensor) -> Tensor:
    """Return [N] bool: torso centre more than 0.45 m below its rest height."""
    return obs[:, 0] < TERMINATION_HEIGHT


def sample_reset(noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return qpos [n, 6], qvel [n, 6]: all coordinates and velocities uniform within 0.05 of rest."""
    qpos, qvel = (RESET_RANGE * noise).split((6, 6), dim=1)
    return qpos, qvel


TASK = Task(
    name="hopper",
    model_file="hopper.xml",
    obs_dim=11,
    act_dim=3,
    episode_length=1000,
    noise_dim=12,
    observe=observe,
    reward=reward,
    terminated=terminated,
    sample_reset=sample_reset,
)
