"""Fresh agents, made from a seed alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pwm.algorithm.agent import Agent, Options
from pwm.envs.base import EnvSpec
from pwm.training.seeding import seeded_weights, stream_seed


def fresh_agent(
    options: Options, chosen: Mapping[str, Any], spec: EnvSpec, seed: int, device: torch.device
) -> Agent:
    """Return an untrained agent for the task ``spec``; global generators stay as they are.

    Args:
        options: sizes and training rule.
        chosen: options of its components ``dynamics`` and ``actor``.
        spec: the task.
        seed: what weights and random streams follow from.
        device: where it lives.
    """
    generator = torch.Generator(device).manual_seed(stream_seed(seed, "agent"))
    with seeded_weights(seed):
        return Agent(options, chosen, spec.obs_dim, spec.act_dim, generator, device)
