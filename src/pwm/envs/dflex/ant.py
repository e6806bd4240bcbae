"""Ant (task specification, section 2.4).

Observation (37): height, root quaternion, linear and angular velocity, 8 joint angles, 8 joint rates
x 0.1, up, heading, last action. Action (8): torque 200 N m x a on hip and ankle of legs 1 to 4.
"""

from __future__ import annotations

from torch import Tensor

from pwm.envs.dflex.common import Task, free_root_noise_dim, observe_free_root, reset_free_root

TERMINATION_HEIGHT = 0.27
START_HEIGHT = 0.75
START_JOINTS = (0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0)
TARGET_X = 10000.0


def observe(qpos: Tensor, qvel: Tensor, last_action: Tensor) -> Tensor:
    """Return [N, 37]."""
    return observe_free_root(qpos, qvel, last_action, TARGET_X)


def reward(obs: Tensor, action: Tensor) -> Tensor:
    """Return [N]: forward speed + 0.1 up + heading + height above termination; no action cost."""
    return obs[:, 5] + 0.1 * obs[:, 27] + obs[:, 28] + (obs[:, 0] - TERMINATION_HEIGHT)


def terminated(obs: Tensor) -> Tensor:
    """Return [N] bool: torso centre below 0.27 m."""
    return obs[:, 0] < TERMINATION_HEIGHT


def sample_reset(noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return qpos [n, 15], qvel [n, 14] from uniform noise [n, 29]."""
    return reset_free_root(noise, START_HEIGHT, START_JOINTS)


TASK = Task(
    name="ant",
    model_file="ant.xml",
    obs_dim=37,
    act_dim=8,
    episode_length=1000,
    noise_dim=free_root_noise_dim(8),
    observe=observe,
    reward=reward,
    terminated=terminated,
    sample_reset=sample_reset,
)
