"""The dm_control tasks of MT30: 19 of the DeepMind Control Suite and 11 that are defined by their formulas.

Two implementations of every task: ``rollout`` steps all copies together on MuJoCo's threads, with
observations, rewards and resets in torch; ``dm_control`` runs the suite itself, one copy after the other in
one process per core, and is what the first is tested against. The models come from the installed package
dm_control. Every agent step is two control steps of the suite, whose rewards are added up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pwm.envs.base import VectorEnv
from pwm.envs.task_table import check_task
from pwm.errors import ConfigError

ENGINES = ("rollout", "dm_control")


@dataclass
class Options:
    """Configuration of a dm_control environment.

    Attributes:
        task: name of the table, for example ``walker-walk``.
        engine: ``rollout`` (all copies together) or ``dm_control`` (the suite itself, much slower).
        episode_length: agent steps before truncation; None takes the table's 500.
        num_threads: simulator threads of ``rollout``; 0 means all cores.

    Raises:
        ConfigError: a value is not allowed.
    """

    task: str = "walker-walk"
    engine: str = "rollout"
    episode_length: int | None = None
    num_threads: int = 0

    def __post_init__(self) -> None:
        check_task("dm_control", self.task)
        if self.engine not in ENGINES:
            raise ConfigError(f"env.engine={self.engine!r}: choose one of: {', '.join(ENGINES)}")
        for key, least in (("episode_length", 1), ("num_threads", 0)):
            value = getattr(self, key)
            if key == "episode_length" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"env.{key}={value!r}: must be an integer of at least {least}")

    @property
    def task_name(self) -> str:
        """``EnvSpec.name`` of the environment."""
        return f"dmc_{self.task}"


def build(options: Options, num_envs: int, device: torch.device | str, seed: int) -> VectorEnv:
    """Return ``num_envs`` copies of the task, reset with ``seed``; tensors live on ``device``.

    Raises:
        ConfigError: ``num_envs`` is not positive.
        EnvError: dm_control is not installed, or does not run with the MuJoCo that is.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs={num_envs}: must be at least 1")
    # Simulators are imported here, not with the options, which every command reads.
    if options.engine == "dm_control":
        from pwm.envs.dmc.oracle import build_oracle

        return build_oracle(options, num_envs, torch.device(device), seed)
    from pwm.envs.dmc.env import DmcEnv

    return DmcEnv(options, num_envs, torch.device(device), seed)
