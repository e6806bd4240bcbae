"""Configuration of a Gymnasium environment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from pwm.errors import ConfigError

VECTORIZATIONS = ("sync", "async")
# Evaluations run whole episodes, so longer ones would look like a program that hangs.
MAX_EPISODE_LENGTH = 100_000


@dataclass
class Options:
    """Configuration of a Gymnasium environment.

    Attributes:
        id: registered id, e.g. ``Pendulum-v1``, or ``module:Id`` where importing the module registers it.
        kwargs: passed to the environment's constructor.
        episode_length: steps before truncation; None takes the limit that the environment declares.
        vectorization: ``sync`` steps all copies in this process, ``async`` in one process per CPU core;
            only the state of the former can be saved.

    Raises:
        ConfigError: a value is not allowed.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    episode_length: int | None = None
    vectorization: str = "sync"

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ConfigError(f"env.id={self.id!r}: must be a Gymnasium id such as Pendulum-v1")
        length = self.episode_length
        if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
            raise ConfigError(f"env.episode_length={length!r}: must be a positive integer, or null")
        if length is not None and length > MAX_EPISODE_LENGTH:
            raise ConfigError(
                f"env.episode_length={length}: must be at most {MAX_EPISODE_LENGTH}, because evaluations "
                "run whole episodes"
            )
        if self.vectorization not in VECTORIZATIONS:
            raise ConfigError(
                f"env.vectorization={self.vectorization!r}: choose one of: {', '.join(VECTORIZATIONS)}"
            )
        self.kwargs = dict(self.kwargs)

    @property
    def task_name(self) -> str:
        """``EnvSpec.name``, fit for a folder: ``gym_Id``, or ``gym_module-Id`` where a module registers it.

        Modules have no hyphen in their names, so no two of them share one.
        """
        return "gym_" + re.sub(r"[^\w.-]+", "_", self.id.replace(":", "-"))
