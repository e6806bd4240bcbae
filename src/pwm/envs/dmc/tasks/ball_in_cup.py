"""Ball in cup: catch the ball, or let it spin fast and far from the cup.

Observation (8): positions of cup and ball (4), velocities (4).
"""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from pwm.envs.dmc.physics import ModelRecipe, Moment, Physics, position
from pwm.envs.dmc.tasks.common import Start, Task, at_rest, indicator, redrawn, uniform

RECIPE = ModelRecipe(
    "ball_in_cup",
    control_dt=0.02,
    sensors={"target": (position("target", mujoco.mjtObj.mjOBJ_SITE),), "ball": (position("ball"),)},
    never_touch=tuple(("ball", f"cup_part_{i}") for i in range(5)),
)
# Half the size of the target minus the radius of the ball, m.
INSIDE = 0.05 - 0.025
SPIN_SPEED = 6.0
# Where the ball is drawn, relative to its place in the model: (x, z), m.
LOW, HIGH = (-0.2, 0.2), (0.2, 0.5)
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


def draw(physics: Physics, generator: torch.Generator, count: int) -> Tensor:
    """Return qpos [count, 4]: cup at rest, ball uniform in a rectangle."""
    low, high = torch.tensor([LOW, HIGH], dtype=torch.float64).unbind(1)
    ball = uniform(generator, count, low, high)
    return torch.cat((ball.new_zeros(count, physics.nq - 2), ball), dim=1)


def start(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Ball uniform where it touches nothing."""

    def good(rows: Tensor, _numbers: Tensor) -> Tensor:
        return physics.clearance(rows) >= 0.0

    qpos = redrawn(physics, draw(physics, generator, count), lambda n: draw(physics, generator, n), good)
    return at_rest(physics, qpos)


def start_mostly_inside(physics: Physics, generator: torch.Generator, count: int) -> Start:
    """Ball uniform where it touches nothing, in nine of ten episodes also inside the cup."""
    anywhere = torch.rand(count, generator=generator, dtype=torch.float64) < ANYWHERE

    def good(rows: Tensor, numbers: Tensor) -> Tensor:
        still = at_rest(physics, rows)
        inside = caught(physics.look(still.qpos, still.qvel, still.target)) > 0.0
        return (physics.clearance(rows) >= 0.0) & (inside | anywhere[numbers])

    qpos = redrawn(physics, draw(physics, generator, count), lambda n: draw(physics, generator, n), good)
    return at_rest(physics, qpos)


TASKS = {
    "cup-catch": Task(RECIPE, observe, caught, start),
    "cup-spin": Task(RECIPE, observe, spin, start_mostly_inside),
}
