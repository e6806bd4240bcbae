"""Double pendulum (task specification, section 2.2).

Observation (6): cos and sin of both angles (0 is upright, the second relative to the first), rates.
Action (1): torque 1000 N m x a on the second joint only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.envs.dflex.common import Task, never, reset_upright


def observe(qpos: Tensor, qvel: Tensor, last_action: Tensor) -> Tensor:
    """Return [N, 6]: cos 1, sin 1, cos 2, sin 2, rates."""
    cos, sin = torch.cos(qpos), torch.sin(qpos)
    return torch.cat((cos[:, :1], sin[:, :1], cos[:, 1:], sin[:, 1:], qvel), dim=1)


def reward(obs: Tensor, action: Tensor) -> Tensor:
    """Return [N]: minus the squared angles and 0.1 times the squared rates."""
    angles = torch.atan2(obs[:, 1:4:2], obs[:, 0:4:2])
    return -angles.square().sum(1) - 0.1 * obs[:, 4:6].square().sum(1)


TASK = Task(
    name="double_pendulum",
    model_file="double_pendulum.xml",
    obs_dim=6,
    act_dim=1,
    episode_length=240,
    noise_dim=4,
    observe=observe,
    reward=reward,
    terminated=never,
    sample_reset=reset_upright,
)
