"""Planar hopper: stand, hop, hop backwards.

Observation (15): positions but the way along x (6), velocities (7), log(1 + force) of toe and heel.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics, position
from pwm.envs.dmc.tasks.common import (
    Start,
    Task,
    at_rest,
    indicator,
    position_and_velocity,
    random_joints,
    share,
    small,
)

INERTIAL = mujoco.mjtObj.mjOBJ_BODY
RECIPE = ModelRecipe(
    "hopper",
    control_dt=0.02,
    sensors={"torso": (position("torso", INERTIAL),), "foot": (position("foot", INERTIAL),)},
)
STAND_HEIGHTS = (0.6, 2.0)


def observe(moment: Moment) -> Tensor:
    """Return [n, 15]: position, velocity, touch."""
    touch = torch.cat((moment.read("touch_toe"), moment.read("touch_heel")), dim=1)
    return torch.cat((position_and_velocity(moment), torch.log1p(touch)), dim=1)


def standing(moment: Moment) -> Tensor:
    """Return [n]: 1 where the torso's centre of mass is 0.6 to 2 m above the foot's, else 0."""
    height = moment.read("torso")[:, 2] - moment.read("foot")[:, 2]
    return indicator((height >= STAND_HEIGHTS[0]) & (height <= STAND_HEIGHTS[1]))


def stand(moment: Moment) -> Tensor:
    """Return [n]: standing, with small controls."""
    return standing(moment) * (small(moment.ctrl).mean(1) + 4.0) / 5.0


def hop(speed: float) -> Callable[[Moment], Tensor]:
    """The reward of moving at ``speed`` m/s along x or faster while standing; negative means backwards."""

    def reward(moment: Moment) -> Tensor:
        return standing(moment) * share(moment.read("torso_subtreelinvel")[:, 0] / speed)

    return reward


def start(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Limited joints uniform in their range, pitch uniform in [-pi, pi)."""
    return at_rest(physics, random_joints(physics, generator, count))


TASKS = {
    "hopper-stand": Task(RECIPE, observe, stand, start),
    "hopper-hop": Task(RECIPE, observe, hop(2.0), start),
    "hopper-hop-backwards": Task(RECIPE, observe, hop(-1.0), start),
}
