"""All 30 tasks as environments of dm_control itself: the suite's 19, and 11 of our own over its physics.

Rewards of our own tasks follow the specification (section 2) and are written with the suite's own
``tolerance``; the batched tasks are written independently. This module imports dm_control.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from dm_control.rl import control
from dm_control.suite import ball_in_cup, cheetah, common, hopper, pendulum, reacher, walker
from dm_control.utils.rewards import tolerance

from pwm.envs.dmc.package import import_suite, model_text
from pwm.envs.task_table import task_row

FEET = ("bfoot", "ffoot")


def load(name: str, seed: int) -> Any:
    """Return the ``dm_control`` environment of a task; its episodes do not end by themselves.

    Args:
        name: name of the table.
        seed: of its random start states.

    Raises:
        EnvError: dm_control does not run with the installed MuJoCo.
    """
    row = task_row(name)
    suite = import_suite()
    if row.custom:
        physics, task, control_timestep = CUSTOM[name](seed)
        return control.Environment(physics, task, control_timestep=control_timestep)
    return suite.load(row.domain, row.task, task_kwargs={"random": seed, "time_limit": math.inf})


class WalkerBackwards(walker.PlanarWalker):
    """Move backwards along x at ``speed`` m/s while standing."""

    def __init__(self, speed: float, random: int) -> None:
        super().__init__(move_speed=speed, random=random)

    def get_reward(self, physics: Any) -> float:
        """Stand as for the suite's walker, times (5 move + 1) / 6."""
        standing = tolerance(physics.torso_height(), bounds=(1.2, math.inf), margin=0.6)
        stand = (3.0 * standing + (1.0 + physics.torso_upright()) / 2.0) / 4.0
        speed = self._move_speed
        move = tolerance(
            physics.horizontal_velocity(), (-math.inf, -speed), speed / 2, "linear", value_at_margin=0.5
        )
        return stand * (5.0 * move + 1.0) / 6.0


class CheetahVariant(cheetah.Cheetah):
    """The suite's cheetah with another reward."""

    def __init__(self, reward: Callable[[Any], float], random: int) -> None:
        super().__init__(random=random)
        self._reward = reward

    def get_reward(self, physics: Any) -> float:
        """The reward that it was made with."""
        return self._reward(physics)


def cheetah_backwards(physics: Any) -> float:
    """Run backwards at 8 m/s."""
    return tolerance(physics.speed(), (-math.inf, -8.0), margin=8.0, value_at_margin=0, sigmoid="linear")


def high(z: float) -> float:
    """How close ``z`` is to a height of 1.2 m."""
    return tolerance(z, bounds=(1.2, math.inf), margin=0.6)


def cheetah_raised(foot: str) -> Callable[[Any], float]:
    """The reward of running at 6 m/s with one foot and the torso raised."""

    def reward(physics: Any) -> float:
        z = physics.named.data.xpos[["torso", foot], "z"]
        up = (3.0 * high(z[1]) + 2.0 * high(z[0])) / 5.0
        move = tolerance(physics.speed(), (6.0, math.inf), margin=6.0, value_at_margin=0, sigmoid="linear")
        return up * (5.0 * move + 1.0) / 6.0

    return reward


def cheetah_jump(physics: Any) -> float:
    """Jump without running away: the mean over both feet."""
    slow = tolerance(physics.speed(), (-0.5, 0.5), margin=0.5, value_at_margin=0, sigmoid="linear")
    torso = physics.named.data.xpos["torso", "z"]
    scores = [(5.0 * high((torso + physics.named.data.xpos[f, "z"]) / 2.0) + slow) / 6.0 for f in FEET]
    return sum(scores) / 2.0


class HopperBackwards(hopper.Hopper):
    """Hop backwards at 1 m/s or faster."""

    def __init__(self, random: int) -> None:
        super().__init__(hopping=True, random=random)

    def get_reward(self, physics: Any) -> float:
        """Standing times speed."""
        standing = tolerance(physics.height(), (0.6, 2.0))
        return standing * tolerance(
            physics.speed(), (-math.inf, -1.0), margin=0.5, value_at_margin=0.5, sigmoid="linear"
        )


class CupSpin(ball_in_cup.BallInCup):
    """Let the ball spin fast and far from the cup."""

    def initialize_episode(self, physics: Any) -> None:
        """Ball free of contacts; in nine of ten episodes it also begins in the cup."""
        anywhere = self.random.uniform() < 0.1
        while True:
            super().initialize_episode(physics)
            if anywhere or physics.in_target():
                return

    def get_reward(self, physics: Any) -> float:
        """Distance and speed of the ball, nothing while it is in the cup."""
        far = min(1.0, 2.0 * float(np.linalg.norm(physics.ball_to_target())))
        speed = float(np.linalg.norm(physics.named.data.qvel[["ball_x", "ball_z"]]))
        return (1.0 - physics.in_target()) * (far + 2.0 * min(1.0, speed / 6.0)) / 3.0


class PendulumSpin(pendulum.SwingUp):
    """Turn at 9 rad/s or faster, either way."""

    def get_reward(self, physics: Any) -> float:
        """Share of that speed."""
        return min(1.0, abs(float(physics.angular_velocity()[0])) / 9.0)


def _physics(domain: Any, model: str) -> Any:
    return domain.Physics.from_xml_string(model_text(model), common.ASSETS)


def _walker(speed: float) -> Callable[[int], tuple[Any, Any, float]]:
    return lambda seed: (_physics(walker, "walker"), WalkerBackwards(speed, seed), 0.025)


def _cheetah(reward: Callable[[Any], float]) -> Callable[[int], tuple[Any, Any, float]]:
    return lambda seed: (_physics(cheetah, "cheetah"), CheetahVariant(reward, seed), 0.01)


def _three_links(radius: float) -> Callable[[int], tuple[Any, Any, float]]:
    return lambda seed: (_physics(reacher, "reacher_three"), reacher.Reacher(radius, seed), 0.02)


# From a seed to physics, task and seconds of a control step.
CUSTOM: dict[str, Callable[[int], tuple[Any, Any, float]]] = {
    "walker-walk-backwards": _walker(1.0),
    "walker-run-backwards": _walker(8.0),
    "cheetah-run-backwards": _cheetah(cheetah_backwards),
    "cheetah-run-front": _cheetah(cheetah_raised("bfoot")),
    "cheetah-run-back": _cheetah(cheetah_raised("ffoot")),
    "cheetah-jump": _cheetah(cheetah_jump),
    "hopper-hop-backwards": lambda seed: (_physics(hopper, "hopper"), HopperBackwards(seed), 0.02),
    "reacher-three-easy": _three_links(0.05),
    "reacher-three-hard": _three_links(0.015),
    "cup-spin": lambda seed: (_physics(ball_in_cup, "ball_in_cup"), CupSpin(seed), 0.02),
    "pendulum-spin": lambda seed: (_physics(pendulum, "pendulum"), PendulumSpin(seed), 0.02),
}
