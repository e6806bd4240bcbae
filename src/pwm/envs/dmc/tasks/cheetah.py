"""Cheetah: run forwards and backwards, on the front or the back foot, and jump.

Observation (17): positions but the way along x (8), velocities (9).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics, position
from pwm.envs.dmc.tasks.common import (
    Start,
    Task,
    at_least,
    at_rest,
    position_and_velocity,
    random_joints,
    share,
)

RECIPE = ModelRecipe(
    "cheetah",
    control_dt=0.01,
    sensors={name: (position(name),) for name in ("torso", "bfoot", "ffoot")},
)
SETTLING_STEPS = 200
# Height of what shall be lifted, and the margin below it.
HIGH, MARGIN = 1.2, 0.6


def velocity(moment: Moment) -> Tensor:
    """Return [n]: speed of the centre of mass along x, m/s."""
    return moment.read("torso_subtreelinvel")[:, 0]


def height(moment: Moment, body: str) -> Tensor:
    """Return [n]: height of the frame of ``body`` above the ground."""
    return moment.read(body)[:, 2]


def run(speed: float) -> Callable[[Moment], Tensor]:
    """The reward of running at ``speed`` m/s along x or faster; negative means backwards."""
    return lambda moment: share(velocity(moment) / speed)


def run_with_raised(foot: str) -> Callable[[Moment], Tensor]:
    """The reward of running at 6 m/s with ``foot`` and the torso high above the ground."""

    def reward(moment: Moment) -> Tensor:
        raised = at_least(height(moment, foot), HIGH, MARGIN)
        up = (3.0 * raised + 2.0 * at_least(height(moment, "torso"), HIGH, MARGIN)) / 5.0
        return up * (5.0 * share(velocity(moment) / 6.0) + 1.0) / 6.0

    return reward


def jump(moment: Moment) -> Tensor:
    """Return [n]: the mean over both feet of (5 G(mean height of torso and foot) + slowness) / 6."""
    slow = share(2.0 - 2.0 * velocity(moment).abs())
    torso = height(moment, "torso")
    scores = [
        (5.0 * at_least((torso + height(moment, foot)) / 2.0, HIGH, MARGIN) + slow) / 6.0
        for foot in ("bfoot", "ffoot")
    ]
    return (scores[0] + scores[1]) / 2.0


def start(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Limited joints uniform in their range, then 200 physics steps without control.

    The suite steps before it computes what depends on the new positions, so the first of these steps
    accelerates every copy as if it were in the model's default pose.
    """
    qpos = random_joints(physics, generator, count, unlimited=False)
    default = torch.from_numpy(physics.model.qpos0).unsqueeze(0)
    _, push = physics.settle(default, torch.zeros(1, physics.nv, dtype=torch.float64), 1)
    moved = qpos + physics.model.opt.timestep * push
    settled = physics.settle(moved, push.expand(count, -1), SETTLING_STEPS - 1)
    return at_rest(physics, settled[0])._replace(qvel=settled[1])


TASKS = {
    "cheetah-run": Task(RECIPE, position_and_velocity, run(10.0), start),
    "cheetah-run-backwards": Task(RECIPE, position_and_velocity, run(-8.0), start),
    "cheetah-run-front": Task(RECIPE, position_and_velocity, run_with_raised("bfoot"), start),
    "cheetah-run-back": Task(RECIPE, position_and_velocity, run_with_raised("ffoot"), start),
    "cheetah-jump": Task(RECIPE, position_and_velocity, jump, start),
}
