"""Acrobot: swing up and balance two links, driven at the elbow.

Observation (6): horizontal and vertical parts of both links' z axes (2 + 2), velocities (2).
"""

from __future__ import annotations

import math

import mujoco
import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics, position, z_axis
from pwm.envs.dmc.tasks.common import Start, Task, at_rest, gaussian, uniform

RECIPE = ModelRecipe(
    "acrobot",
    control_dt=0.01,
    sensors={
        "arms": (z_axis("upper_arm"), z_axis("lower_arm")),
        "tip": (position("tip", mujoco.mjtObj.mjOBJ_SITE),),
        "target": (position("target", mujoco.mjtObj.mjOBJ_SITE),),
    },
)
TARGET_RADIUS = 0.2
MARGIN = 1.0


def observe(moment: Moment) -> Tensor:
    """Return [n, 6]: orientations (both horizontal, then both vertical parts), velocity."""
    arms = moment.read("arms")
    return torch.cat((arms[:, 0::3], arms[:, 2::3], moment.qvel), dim=1)


def swingup(moment: Moment) -> Tensor:
    """Return [n]: 1 where the tip is within 0.2 m of the target, falling with the distance beyond."""
    distance = torch.linalg.vector_norm(moment.read("target") - moment.read("tip"), dim=1)
    return gaussian(distance - TARGET_RADIUS, MARGIN)


def start(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Both angles uniform in [-pi, pi)."""
    bound = torch.full((physics.nq,), math.pi, dtype=torch.float64)
    return at_rest(physics, uniform(generator, count, -bound, bound))


TASKS = {"acrobot-swingup": Task(RECIPE, observe, swingup, start)}
