"""Humanoid (task specification, section 2.6).

Observation (76): height, root quaternion, linear and angular velocity, 21 joint angles, 21 joint rates
x 0.1, up, heading, last action. Action (21): torque in tree order, strength as in the model's gears.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.envs.dflex.common import Task, free_root_noise_dim, observe_free_root, reset_free_root

TERMINATION_HEIGHT = 0.74
HEIGHT_TOLERANCE = 0.1
START_HEIGHT = 1.35
JOINTS = 21
# Unlike the other robots' target, this one comes near: heading changes as it is approached.
TARGET_X = 200.0


def observe(qpos: Tensor, qvel: Tensor, last_action: Tensor) -> Tensor:
    """Return [N, 76]."""
    return observe_free_root(qpos, qvel, last_action, TARGET_X)


def reward(obs: Tensor, action: Tensor) -> Tensor:
    """Return [N]: forward speed + 0.1 up + heading + height term - 0.002 |a|^2."""
    d = (obs[:, 0] - (TERMINATION_HEIGHT + HEIGHT_TOLERANCE)).clamp(-1.0, 0.1)
    height = torch.where(d < 0, -200.0 * d * d, 10.0 * d)
    return obs[:, 5] + 0.1 * obs[:, 53] + obs[:, 54] + height - 0.002 * action.square().sum(1)


def terminated(obs: Tensor) -> Tensor:
    """Return [N] bool: torso below 0.74 m."""
    return obs[:, 0] < TERMINATION_HEIGHT


def sample_reset(noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return qpos [n, 28], qvel [n, 27] from uniform noise [n, 55]."""
    return reset_free_root(noise, START_HEIGHT, (0.0,) * JOINTS)


TASK = Task(
    name="humanoid",
    model_file="humanoid.xml",
    obs_dim=76,
    act_dim=JOINTS,
    episode_length=1000,
    noise_dim=free_root_noise_dim(JOINTS),
    observe=observe,
    reward=reward,
    terminated=terminated,
    sample_reset=sample_reset,
)
