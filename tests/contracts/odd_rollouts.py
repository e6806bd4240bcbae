"""Building odd environments and stepping them, for the tests of the Gymnasium adapter."""

from __future__ import annotations

from typing import Any

import tests.contracts.odd_processes  # noqa: F401 - registers environments
import torch
from tests.contracts.odd_envs import LENGTH

from pwm.envs import gym
from pwm.envs.base import StepResult, VectorEnv

N = 3


def make(name: str, mode: str = "sync", num_envs: int = N, seed: int = 0, **kwargs: Any) -> VectorEnv:
    length = kwargs.pop("episode_length", None)
    options = gym.Options(f"Odd{name}-v0", kwargs, length, mode)
    return gym.build(options, num_envs, "cpu", seed)


def zeros(env: VectorEnv) -> torch.Tensor:
    return torch.zeros(env.num_envs, env.spec.act_dim)


def rollout(env: VectorEnv, steps: int = 2 * LENGTH) -> list[StepResult]:
    generator = torch.Generator().manual_seed(7)
    shape = (env.num_envs, env.spec.act_dim)
    return [env.step(torch.rand(shape, generator=generator) * 2 - 1) for _ in range(steps)]


def same(first: list[StepResult], second: list[StepResult]) -> bool:
    return all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two))
