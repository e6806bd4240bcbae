"""Fish: swim to a target that lies anew in every episode.

Observation (24): joint angles (7), uprightness, target as the mouth sees it (3), velocities (13).
"""

from __future__ import annotations

import mujoco
import numpy as np
import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics, position, x_axis, y_axis, z_axis
from pwm.envs.dmc.tasks.common import Start, Task, at_rest, gaussian, normal, uniform

GEOM = mujoco.mjtObj.mjOBJ_GEOM
RECIPE = ModelRecipe(
    "fish",
    control_dt=0.04,
    sensors={
        "up": (z_axis("torso"),),
        "mouth": (position("mouth", GEOM),),
        "mouth_axes": (x_axis("mouth", GEOM), y_axis("mouth", GEOM), z_axis("mouth", GEOM)),
    },
)
# The seven hinges follow the free joint.
JOINTS = slice(7, 14)
QUATERNION = slice(3, 7)
JOINT_RANGE = 0.2
# Where the target is drawn, m.
TARGET_LOW, TARGET_HIGH = (-0.4, -0.4, 0.1), (0.4, 0.4, 0.3)
# Radii of mouth and target, m.
RADII = 0.005 + 0.04


def to_target(moment: Moment) -> Tensor:
    """Return [n, 3]: from mouth to target in the frame of the mouth, m."""
    axes = moment.read("mouth_axes").unflatten(1, (3, 3))
    return torch.linalg.vecdot(axes, (moment.target - moment.read("mouth")).unsqueeze(1))


def observe(moment: Moment) -> Tensor:
    """Return [n, 24]: joint_angles, upright, target, velocity."""
    upright = moment.read("up")[:, 2:3]
    return torch.cat((moment.qpos[:, JOINTS], upright, to_target(moment), moment.qvel), dim=1)


def swim(moment: Moment) -> Tensor:
    """Return [n]: (7 G(distance to the target) + (1 + upright) / 2) / 8."""
    distance = torch.linalg.vector_norm(to_target(moment), dim=1)
    near = gaussian(distance - RADII, 2.0 * RADII)
    return (7.0 * near + 0.5 * (moment.read("up")[:, 2] + 1.0)) / 8.0


def start(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Orientation uniform over all rotations, joints within 0.2 rad, target uniform in a box."""
    qpos = torch.from_numpy(physics.model.qpos0).repeat(count, 1)
    turn = normal(generator, count, 4)
    qpos[:, QUATERNION] = turn / torch.linalg.vector_norm(turn, dim=1, keepdim=True)
    bound = torch.full((7,), JOINT_RANGE, dtype=torch.float64)
    qpos[:, JOINTS] = uniform(generator, count, -bound, bound)
    low, high = torch.tensor([TARGET_LOW, TARGET_HIGH], dtype=torch.float64).unbind(0)
    return at_rest(physics, qpos, uniform(generator, count, low, high))


def place_target(model: mujoco.MjModel, target: np.ndarray) -> None:
    """Move the target to ``target`` [3]."""
    model.geom("target").pos[:] = target


TASKS = {"fish-swim": Task(RECIPE, observe, swim, start, place_target)}
