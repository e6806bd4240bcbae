"""Pendulum: swing up and stay there, or spin.

Observation (3): vertical and horizontal part of the pole's z axis, angular velocity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics, z_axis
from pwm.envs.dmc.tasks.common import Start, Task, at_rest, indicator, random_joints, share

RECIPE = ModelRecipe("pendulum", control_dt=0.02, sensors={"pole": (z_axis("pole"),)})
COSINE_BOUND = math.cos(math.radians(8.0))
SPIN_VELOCITY = 9.0


def observe(moment: Moment) -> Tensor:
    """Return [n, 3]: orientation, velocity."""
    pole = moment.read("pole")
    return torch.cat((pole[:, 2:3], pole[:, 0:1], moment.qvel), dim=1)


def swingup(moment: Moment) -> Tensor:
    """Return [n]: 1 within 8 degrees of upright, else 0."""
    vertical = moment.read("pole")[:, 2]
    return indicator((vertical >= COSINE_BOUND) & (vertical <= 1.0))


def spin(moment: Moment) -> Tensor:
    """Return [n]: angular speed over 9 rad/s, at most 1."""
    return share(moment.qvel[:, 0].abs() / SPIN_VELOCITY)


def start(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Angle uniform in [-pi, pi)."""
    return at_rest(physics, random_joints(physics, generator, count))


TASKS = {
    "pendulum-swingup": Task(RECIPE, observe, swingup, start),
    "pendulum-spin": Task(RECIPE, observe, spin, start),
}
