"""What the batched tasks share: the task record, tolerances of rewards, and draws of start states.

Sources: the DeepMind Control Suite (Tassa et al., 2018; dm_control 1.0.28) for the stock tasks, the
specification of MT30 (section 2) for the others. All functions are batched torch expressions in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics
from pwm.errors import EnvError

# Value of a Gaussian tolerance where the distance from its bounds is the margin.
VALUE_AT_MARGIN = 0.1
MAX_DRAWS = 1000


class Start(NamedTuple):
    """Start states of n copies: qpos [n, nq], qvel [n, nv], target [n, k]; all float64."""

    qpos: Tensor
    qvel: Tensor
    target: Tensor


@dataclass(frozen=True)
class Task:
    """One task as functions of batched moments.

    Attributes:
        recipe: how its model is made.
        observe: moment of n copies -> [n, obs_dim].
        reward: moment of n copies -> [n], of one control step.
        start: (physics, random generator, n) -> start states of n episodes.
        place_target: moves the target [k] of one copy to its place in a model, where it has no effect but on
            pictures.
    """

    recipe: ModelRecipe
    observe: Callable[[Moment], Tensor]
    reward: Callable[[Moment], Tensor]
    start: Callable[[Physics, torch.Generator, int], Start]
    place_target: Callable[[mujoco.MjModel, np.ndarray], None] = lambda model, target: None


def gaussian(distance: Tensor, margin: float) -> Tensor:
    """The suite's default tolerance: a Gaussian, 1 at ``distance`` 0 and below, 0.1 at ``margin``."""
    scaled = (distance / margin).clamp_min(0.0)
    return torch.exp(math.log(VALUE_AT_MARGIN) * scaled.square())


def at_least(value: Tensor, bound: float, margin: float) -> Tensor:
    """Gaussian tolerance of ``value`` >= ``bound``."""
    return gaussian(bound - value, margin)


def share(value: Tensor) -> Tensor:
    """``value`` cut to [0, 1]: what the suite's linear tolerances of speeds reduce to."""
    return value.clamp(0.0, 1.0)


def small(control: Tensor) -> Tensor:
    """Quadratic tolerance of ``control`` with margin 1 and value 0 there: 1 - c^2, at least 0."""
    return (1.0 - control.square()).clamp_min(0.0)


def indicator(condition: Tensor) -> Tensor:
    """1.0 where ``condition`` holds, else 0.0; float64."""
    return condition.to(torch.float64)


def position_and_velocity(moment: Moment) -> Tensor:
    """Return [n, nq - 1 + nv]: everything but the first coordinate, which is the way along x."""
    return torch.cat((moment.qpos[:, 1:], moment.qvel), dim=1)


def uniform(generator: torch.Generator, count: int, low: Tensor, high: Tensor) -> Tensor:
    """Return [count, k] float64, uniform between ``low`` [k] and ``high`` [k]."""
    unit = torch.rand(count, len(low), generator=generator, dtype=torch.float64)
    return low + (high - low) * unit


def normal(generator: torch.Generator, count: int, width: int) -> Tensor:
    """Return [count, width] float64, standard normal."""
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def at_rest(physics: Physics, qpos: Tensor, target: Tensor | None = None) -> Start:
    """Start states without motion; no ``target`` means none is part of the state."""
    count = len(qpos)
    still = qpos.new_zeros(count, physics.nv)
    return Start(qpos, still, qpos.new_zeros(count, 0) if target is None else target)


def random_joints(physics: Physics, generator: torch.Generator, count: int, unlimited: bool = True) -> Tensor:
    """Return qpos [count, nq]: limited joints uniform in their range, the others as the model has them.

    Args:
        physics: a model of hinges and slides alone.
        generator: source of the draws.
        count: number of rows.
        unlimited: draw hinges without limits, too, uniformly in [-pi, pi).
    """
    model = physics.model
    low, high = torch.from_numpy(model.qpos0).repeat(2, 1).unbind(0)
    limited = torch.from_numpy(model.jnt_limited.astype(bool))
    span = torch.from_numpy(model.jnt_range)
    low, high = torch.where(limited, span[:, 0], low), torch.where(limited, span[:, 1], high)
    if unlimited:
        turning = ~limited & torch.from_numpy(model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE)
        low, high = low.masked_fill(turning, -math.pi), high.masked_fill(turning, math.pi)
    return uniform(generator, count, low, high)


def drawn_apart(physics: Physics, count: int, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Return qpos [count, nq], every row drawn anew until none of the pairs ``never_touch`` touches.

    Args:
        physics: the model.
        count: number of rows.
        draw: numbers of rows [m] -> fresh draws of them [m, nq].

    Raises:
        EnvError: a row still touches after a thousand draws, as many as the suite makes.
    """
    waiting = torch.arange(count)
    qpos = draw(waiting)
    for _ in range(MAX_DRAWS):
        waiting = waiting[physics.clearance(qpos[waiting]) < 0.0]
        if not len(waiting):
            return qpos
        qpos[waiting] = draw(waiting)
    raise EnvError(f"no start state without contacts was found in {MAX_DRAWS} draws")
