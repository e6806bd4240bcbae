"""Ball in cup: catch the ball, or let it spin fast and far from the cup.

Observation (8): positions of cup and ball (4), velocities (4).
"""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics, position
from pwm.envs.dmc.tasks.common import Start, Task, at_rest, drawn_apart, indicator

RECIPE = ModelRecipe(
    "ball_in_cup",
    control_dt=0.02,
    sensors={"target": (position("target", mujoco.mjtObj.mjOBJ_SITE),), "ball": (position("ball"),)},
    never_touch=tuple(("ball", f"cup_part_{i}") for i in range(5)),
)
# Half the size of the target minus the radius of the ball, m.
INSIDE = 0.05 - 0.025
SPIN_SPEED = 6.0
# Corners between which the ball is drawn, and the middle of the cup, relative to the ball's place in the
# model: (x, z), m.
LOW, HIGH = (-0.2, 0.2), (0.2, 0.5)
MIDDLE = (0.0, 0.6 - 0.05 - 0.2)
# Share of the episodes of ``cup-spin`` in which the ball may begin outside the cup.
ANYWHERE = 0.1


def observe(moment: Moment) -> Tensor:
    """Return [n, 8]: position, velocity."""
    return torch.cat((moment.qpos, moment.qvel), dim=1)


def to_target(moment: Moment) -> Tensor:
    """Return [n, 2]: from the ball to the middle of the cup, x and z, m."""
    return (moment.read("target") - moment.read("ball"))[:, ::2]


def caught(moment: Moment) -> Tensor:
    """Return [n]: 1 where the ball is in the cup, else 0."""
    return indicator((to_target(moment).abs() < INSIDE).all(1))


def spin(moment: Moment) -> Tensor:
    """Return [n]: (1 - in) (min(1, 2 d) + 2 min(1, s / 6)) / 3 with distance d and speed s of the ball."""
    distance = torch.linalg.vector_norm(to_target(moment), dim=1)
    speed = torch.linalg.vector_norm(moment.qvel[:, 2:], dim=1)
    far, fast = (2.0 * distance).clamp_max(1.0), (speed / SPIN_SPEED).clamp_max(1.0)
    return (1.0 - caught(moment)) * (far + 2.0 * fast) / 3.0


def drawn(physics: Physics, generator: torch.Generator, low: Tensor, high: Tensor) -> Start:
    """Cup at rest; ball uniform between ``low`` [n, 2] and ``high`` [n, 2] where it touches nothing."""

    def draw(rows: Tensor) -> Tensor:
        unit = torch.rand(len(rows), 2, generator=generator, dtype=torch.float64)
        ball = low[rows] + (high[rows] - low[rows]) * unit
        return torch.cat((torch.zeros_like(ball), ball), dim=1)

    return at_rest(physics, drawn_apart(physics, len(low), draw))


def start(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Ball uniform where it touches nothing."""
    low, high = torch.tensor([LOW, HIGH], dtype=torch.float64).expand(count, -1, -1).unbind(1)
    return drawn(physics, generator, low, high)


def start_mostly_inside(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Ball uniform where it touches nothing, in nine of ten episodes also inside the cup.

    The specification draws from the whole rectangle until the ball is inside. What it accepts is uniform
    inside, and one draw in fifty, so it is drawn there.
    """
    anywhere = torch.rand(count, 1, generator=generator, dtype=torch.float64) < ANYWHERE
    low, high, middle = torch.tensor([LOW, HIGH, MIDDLE], dtype=torch.float64)
    low = torch.where(anywhere, low, middle - INSIDE)
    high = torch.where(anywhere, high, middle + INSIDE)
    return drawn(physics, generator, low, high)


TASKS = {
    "cup-catch": Task(RECIPE, observe, caught, start),
    "cup-spin": Task(RECIPE, observe, spin, start_mostly_inside),
}
