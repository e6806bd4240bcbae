"""Planar reacher with two or three links: touch a target that lies anew in every episode.

Observation (6 or 8): joint angles, vector from finger to target (2), velocities.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mujoco
import numpy as np
import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics, position
from pwm.envs.dmc.tasks.common import Start, Task, at_rest, indicator, random_joints, uniform

FINGER_RADIUS = 0.01
EASY, HARD = 0.05, 0.015
# Distance of the target from the shoulder, m.
NEAREST, FARTHEST = 0.05, 0.20


def recipe(name: str, target_radius: float) -> ModelRecipe:
    """The model with two or three links and a target of ``target_radius``."""

    def adjust(model: mujoco.MjModel) -> None:
        model.geom("target").size[0] = target_radius

    return ModelRecipe(name, control_dt=0.02, sensors={"finger": (position("finger"),)}, adjust=adjust)


def to_target(moment: Moment) -> Tensor:
    """Return [n, 2]: from the finger to the target, m."""
    return moment.target - moment.read("finger")[:, :2]


def observe(moment: Moment) -> Tensor:
    """Return [n, 6] or [n, 8]: position, to_target, velocity."""
    return torch.cat((moment.qpos, to_target(moment), moment.qvel), dim=1)


def touch(target_radius: float) -> Callable[[Moment], Tensor]:
    """The reward of touching a target of ``target_radius``: 1 or 0."""
    reach = target_radius + FINGER_RADIUS
    return lambda moment: indicator(torch.linalg.vector_norm(to_target(moment), dim=1) <= reach)


def start(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Shoulder uniform in [-pi, pi), limited joints in their range; target uniform in radius and angle."""
    low, high = torch.tensor([[0.0, NEAREST], [2.0 * math.pi, FARTHEST]], dtype=torch.float64)
    qpos = random_joints(physics, generator, count)
    angle, radius = uniform(generator, count, low, high).unbind(1)
    target = torch.stack((radius * torch.sin(angle), radius * torch.cos(angle)), dim=1)
    return at_rest(physics, qpos, target)


def place_target(model: mujoco.MjModel, target: np.ndarray) -> None:
    """Move the target to ``target`` [2]."""
    model.geom("target").pos[:2] = target


def task(name: str, target_radius: float) -> Task:
    """The record of one arm and one size of the target."""
    return Task(recipe(name, target_radius), observe, touch(target_radius), start, place_target)


TASKS = {
    "reacher-easy": task("reacher", EASY),
    "reacher-hard": task("reacher", HARD),
    "reacher-three-easy": task("reacher_three", EASY),
    "reacher-three-hard": task("reacher_three", HARD),
}
