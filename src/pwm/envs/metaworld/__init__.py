"""The 50 Meta-World tasks of MT80, in their third version, with the goal in the observation.

The simulation is that of the installed package metaworld, one copy after the other in one process per core.
Every agent step is two simulator steps with one action, whose rewards are added up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pwm.envs.base import VectorEnv
from pwm.envs.task_table import check_task, task_row
from pwm.errors import ConfigError
from pwm.packages import optional

# Meta-World refuses to go on after 500 simulator steps, the first of which begins the episode.
MAX_EPISODE_LENGTH = 249


@dataclass
class Options:
    """Configuration of a Meta-World environment.

    Attributes:
        task: name of the table, for example ``mw-reach``.
        episode_length: agent steps before truncation; None takes the table's 100.

    Raises:
        ConfigError: a value is not allowed.
    """

    task: str = "mw-reach"
    episode_length: int | None = None

    def __post_init__(self) -> None:
        check_task("metaworld", self.task)
        length = self.episode_length
        if length is None:
            return
        if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= MAX_EPISODE_LENGTH:
            raise ConfigError(
                f"env.episode_length={length!r}: must be an integer of 1 to {MAX_EPISODE_LENGTH}, or null"
            )

    @property
    def task_name(self) -> str:
        """``EnvSpec.name`` of the environment."""
        return f"metaworld_{self.task}"


def build(options: Options, num_envs: int, device: torch.device | str, seed: int) -> VectorEnv:
    """Return ``num_envs`` copies of the task, reset with ``seed``; more than one in one process per core.

    Raises:
        ConfigError: ``num_envs`` is not positive, or metaworld is not installed.
        EnvError: metaworld does not run with the MuJoCo that is installed.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs={num_envs}: must be at least 1")
    # Asked before processes are started, which would each say so; it brings Gymnasium and MuJoCo, which are
    # imported here and not with the options, which every command reads.
    optional("metaworld.env_dict", "environment 'metaworld'", "metaworld")
    import gymnasium

    from pwm.envs.gym.adapter import GymEnv
    from pwm.envs.metaworld.adapter import AdapterOptions, MetaworldTask

    name = f"metaworld/{options.task}-v3"
    if name not in gymnasium.registry:
        entry_point = f"{MetaworldTask.__module__}:{MetaworldTask.__name__}"
        gymnasium.register(name, entry_point=entry_point, kwargs={"task": options.task})
    length = options.episode_length or task_row(options.task).episode_length
    vectorization = "async" if num_envs > 1 else "sync"
    adapter = AdapterOptions(id=name, episode_length=length, vectorization=vectorization)
    return GymEnv(adapter, num_envs, torch.device(device), seed)
