"""What is optimised in imagination: rewards of how many steps, and what later ones are worth."""

from __future__ import annotations

from dataclasses import dataclass

from pwm import checks


@dataclass
class Options:
    """Length and discount, which world model, actor, critics and data share.

    Attributes:
        horizon: imagined steps H, transitions of a training window, and environment steps per epoch.
        gamma: discount; gamma**t also weights transition t in the world model's loss.
    """

    horizon: int = 16
    gamma: float = 0.99

    def __post_init__(self) -> None:
        checks.at_least_one(self, "horizon")
        checks.share(self, "gamma")
