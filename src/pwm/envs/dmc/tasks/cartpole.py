"""Cart-pole: balance or swing up, with a smooth or a sparse reward.

Observation (5): way of the cart, vertical and horizontal part of the pole's z axis, velocities (2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics, z_axis
from pwm.envs.dmc.tasks.common import Start, Task, at_rest, gaussian, indicator, normal, small, uniform

RECIPE = ModelRecipe("cartpole", control_dt=0.01, sensors={"pole": (z_axis("pole_1"),)})
CART_RANGE = 0.25
COSINE_RANGE = (0.995, 1.0)
CART_MARGIN, VELOCITY_MARGIN = 2.0, 5.0


def observe(moment: Moment) -> Tensor:
    """Return [n, 5]: position (with the angle as cosine and sine), velocity."""
    pole = moment.read("pole")
    return torch.cat((moment.qpos[:, :1], pole[:, 2:3], pole[:, 0:1], moment.qvel), dim=1)


def smooth(moment: Moment) -> Tensor:
    """Return [n]: product of upright, small control, small angular velocity and centred."""
    upright = (moment.read("pole")[:, 2] + 1.0) / 2.0
    centred = (1.0 + gaussian(moment.qpos[:, 0].abs(), CART_MARGIN)) / 2.0
    gentle = (4.0 + small(moment.ctrl[:, 0])) / 5.0
    slow = (1.0 + gaussian(moment.qvel[:, 1].abs(), VELOCITY_MARGIN)) / 2.0
    return upright * gentle * slow * centred


def sparse(moment: Moment) -> Tensor:
    """Return [n]: 1 where the pole is upright and the cart within 0.25 m of the middle, else 0."""
    vertical = moment.read("pole")[:, 2]
    upright = (vertical >= COSINE_RANGE[0]) & (vertical <= COSINE_RANGE[1])
    return indicator(upright & (moment.qpos[:, 0].abs() <= CART_RANGE))


def start_upright(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Cart uniform within 0.1 m, pole within 0.034 rad of upright, velocities normal with 0.01."""
    bound = torch.tensor([0.1, 0.034], dtype=torch.float64)
    qpos = uniform(generator, count, -bound, bound)
    return at_rest(physics, qpos)._replace(qvel=0.01 * normal(generator, count, physics.nv))


def start_hanging(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Cart in the middle and pole hanging, all coordinates and velocities normal with 0.01 about that."""
    hanging = torch.tensor([0.0, math.pi], dtype=torch.float64)
    qpos = hanging + 0.01 * normal(generator, count, physics.nq)
    return at_rest(physics, qpos)._replace(qvel=0.01 * normal(generator, count, physics.nv))


TASKS = {
    "cartpole-balance": Task(RECIPE, observe, smooth, start_upright),
    "cartpole-balance-sparse": Task(RECIPE, observe, sparse, start_upright),
    "cartpole-swingup": Task(RECIPE, observe, smooth, start_hanging),
    "cartpole-swingup-sparse": Task(RECIPE, observe, sparse, start_hanging),
}
