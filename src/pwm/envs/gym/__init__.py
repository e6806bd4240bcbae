"""Adapter to every Gymnasium environment with bounded Box actions and observations that can be flattened.

``adapter`` is the vector environment, ``creation`` makes one environment, ``copies`` steps several in this
process and ``processes`` in others; ``spaces`` translates actions and observations.
"""

from __future__ import annotations

import torch

from pwm.envs.base import VectorEnv
from pwm.envs.gym.options import Options
from pwm.errors import ConfigError, EnvError

__all__ = ["Options", "build"]


def build(options: Options, num_envs: int, device: torch.device | str, seed: int) -> VectorEnv:
    """Return ``num_envs`` copies of the environment, reset with ``seed``.

    Raises:
        ConfigError: ``num_envs`` is not positive.
        EnvError: unknown id, missing dependency, unsupported spaces, or whatever the environment raised.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs={num_envs}: must be at least 1")
    # Gymnasium is imported here, not with the options, which every command reads.
    try:
        from pwm.envs.gym.adapter import GymEnv
    except ModuleNotFoundError as error:
        raise EnvError(
            f"environment 'gym' needs the package {error.name}; install it with: "
            "pip install 'gymnasium[mujoco,classic-control]'"
        ) from error
    return GymEnv(options, num_envs, torch.device(device), seed)
