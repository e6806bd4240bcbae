"""Finger: spin a hinged body, or turn it until its tip lies in a target.

Observation (9 or 12): angles of the finger (2), tip relative to the hinge (x, z), velocities (3),
log(1 + force) of both touch sensors; for turning also the target relative to the hinge and the distance of
the tip from its surface.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mujoco
import numpy as np
import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics
from pwm.envs.dmc.tasks.common import Start, Task, at_rest, drawn_apart, indicator, random_joints, uniform

# Of all pairs of geoms that can touch, the finger's length and the hinge's place leave these.
TOUCHING = (("fingertip", "cap1"), ("fingertip", "cap2"))
SPIN_VELOCITY = 15.0
EASY, HARD = 0.07, 0.03
# Distance of the target from the hinge: radius and half length of the spinner's capsules, m.
TARGET_DISTANCE = 0.04 + 0.09


def loosened(model: mujoco.MjModel) -> None:
    """Let the body turn easily, without a target in the picture."""
    model.joint("hinge").damping[:] = 0.03
    for site in ("target", "tip"):
        model.site(site).rgba[3] = 0.0


def turning(radius: float) -> ModelRecipe:
    """The model with a target of ``radius``."""

    def adjust(model: mujoco.MjModel) -> None:
        model.site("target").size[0] = radius

    return ModelRecipe("finger", control_dt=0.02, never_touch=TOUCHING, adjust=adjust)


def place_target(model: mujoco.MjModel, target: np.ndarray) -> None:
    """Move the target to ``target`` [2], which is relative to the hinge."""
    model.site("target").pos[::2] = model.body("spinner").pos[::2] + target


def tip(moment: Moment) -> Tensor:
    """Return [n, 2]: the spinner's tip relative to its hinge, x and z, m."""
    return (moment.read("tip") - moment.read("spinner"))[:, ::2]


def observe_spin(moment: Moment) -> Tensor:
    """Return [n, 9]: position, velocity, touch."""
    names = ("proximal_velocity", "distal_velocity", "hinge_velocity")
    touch = torch.cat((moment.read("touchtop"), moment.read("touchbottom")), dim=1)
    angles = (moment.read("proximal"), moment.read("distal"))
    return torch.cat((*angles, tip(moment), *map(moment.read, names), torch.log1p(touch)), dim=1)


def outside(moment: Moment, radius: float) -> Tensor:
    """Return [n]: distance of the tip from the surface of a target of ``radius``, negative inside, m."""
    return torch.linalg.vector_norm(moment.target - tip(moment), dim=1) - radius


def observe_turn(radius: float) -> Callable[[Moment], Tensor]:
    """The observation [n, 12] where the target has ``radius``."""

    def observe(moment: Moment) -> Tensor:
        distance = outside(moment, radius).unsqueeze(1)
        return torch.cat((observe_spin(moment), moment.target, distance), dim=1)

    return observe


def spin(moment: Moment) -> Tensor:
    """Return [n]: 1 where the body turns at 15 rad/s or faster, else 0."""
    return indicator(moment.read("hinge_velocity")[:, 0] <= -SPIN_VELOCITY)


def turn(radius: float) -> Callable[[Moment], Tensor]:
    """The reward of holding the tip in a target of ``radius``: 1 or 0."""
    return lambda moment: indicator(outside(moment, radius) <= 0.0)


def start_spin(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Joints uniform (the hinge in [-pi, pi)) where finger and body do not touch."""
    qpos = drawn_apart(physics, count, lambda rows: random_joints(physics, generator, len(rows)))
    return at_rest(physics, qpos)


def start_turn(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """As for spinning; the target lies where the tip would at an angle uniform in [-pi, pi)."""
    bound = torch.tensor([math.pi], dtype=torch.float64)
    angle = uniform(generator, count, -bound, bound)
    target = TARGET_DISTANCE * torch.cat((torch.sin(angle), torch.cos(angle)), dim=1)
    return start_spin(physics, generator, count)._replace(target=target)


SPIN = ModelRecipe("finger", control_dt=0.02, never_touch=TOUCHING, adjust=loosened)
TASKS = {
    "finger-spin": Task(SPIN, observe_spin, spin, start_spin),
    "finger-turn-easy": Task(turning(EASY), observe_turn(EASY), turn(EASY), start_turn, place_target),
    "finger-turn-hard": Task(turning(HARD), observe_turn(HARD), turn(HARD), start_turn, place_target),
}
