"""Cart-pole swing-up (task specification, section 2.1).

Observation (5): cart position and velocity, sin and cos of the pole angle (0 is upright), pole rate.
Action (1): force 1000 N x a on the cart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.envs.dflex.common import Task, never, reset_upright


def observe(qpos: Tensor, qvel: Tensor, last_action: Tensor) -> Tensor:
    """Return [N, 5]: x, x', sin, cos, angle rate."""
    angle = qpos[:, 1:2]
    return torch.cat((qpos[:, 0:1], qvel[:, 0:1], torch.sin(angle), torch.cos(angle), qvel[:, 1:2]), dim=1)


def reward(obs: Tensor, action: Tensor) -> Tensor:
    """Return [N]: minus the weighted squares of angle, rates and cart position; no action cost."""
    angle = torch.atan2(obs[:, 2], obs[:, 3])
    cart = 0.05 * obs[:, 0].square() + 0.1 * obs[:, 1].square()
    return -angle.square() - 0.1 * obs[:, 4].square() - cart


TASK = Task(
    name="cartpole",
    model_file="cartpole.xml",
    obs_dim=5,
    act_dim=1,
    episode_length=240,
    noise_dim=4,
    observe=observe,
    reward=reward,
    terminated=never,
    sample_reset=reset_upright,
)
