"""Planar walker: stand, walk, run, and the same backwards.

Observation (24): horizontal parts of the x and z axes of all seven bodies (14), torso height, velocities (9).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics, position, x_axis, z_axis
from pwm.envs.dmc.tasks.common import Start, Task, at_least, at_rest, random_joints, share

BODIES = ("torso", "right_thigh", "right_leg", "right_foot", "left_thigh", "left_leg", "left_foot")
STAND_HEIGHT = 1.2
RECIPE = ModelRecipe(
    "walker",
    control_dt=0.025,
    sensors={
        "axes": tuple(axis(body) for body in BODIES for axis in (x_axis, z_axis)),
        "torso": (position("torso"), z_axis("torso")),
    },
)


def observe(moment: Moment) -> Tensor:
    """Return [n, 24]: orientations, height, velocity."""
    return torch.cat((moment.read("axes")[:, ::3], moment.read("torso")[:, 2:3], moment.qvel), dim=1)


def stand(moment: Moment) -> Tensor:
    """Return [n]: (3 G(height; 1.2, 0.6) + (1 + upright) / 2) / 4."""
    torso = moment.read("torso")
    height, upright = torso[:, 2], torso[:, 5]
    return (3.0 * at_least(height, STAND_HEIGHT, STAND_HEIGHT / 2) + (1.0 + upright) / 2.0) / 4.0


def move(speed: float) -> Callable[[Moment], Tensor]:
    """The reward of moving at ``speed`` m/s along x or faster while standing; negative means backwards."""

    def reward(moment: Moment) -> Tensor:
        velocity = moment.read("torso_subtreelinvel")[:, 0]
        return stand(moment) * (5.0 * share(velocity / speed) + 1.0) / 6.0

    return reward


def start(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Limited joints uniform in their range, pitch uniform in [-pi, pi)."""
    return at_rest(physics, random_joints(physics, generator, count))


TASKS = {
    "walker-stand": Task(RECIPE, observe, stand, start),
    "walker-walk": Task(RECIPE, observe, move(1.0), start),
    "walker-run": Task(RECIPE, observe, move(8.0), start),
    "walker-walk-backwards": Task(RECIPE, observe, move(-1.0), start),
    "walker-run-backwards": Task(RECIPE, observe, move(-8.0), start),
}
