"""From a configuration to what it describes: device, environment and agent."""

from __future__ import annotations

import contextlib

import torch

from pwm import components
from pwm.algorithm.agent import Agent
from pwm.configuration.config import ExperimentConfig
from pwm.envs.base import EnvSpec, VectorEnv
from pwm.errors import ConfigError
from pwm.training.seeding import stream_seed

# Copies of the evaluation environment; more episodes take several rounds.
EVAL_ENVS = 16


def pick_device(name: str) -> torch.device:
    """The device called ``name``.

    Raises:
        ConfigError: PyTorch does not know it, or this machine does not have it.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"general.device={name!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    return device


def build_env(config: ExperimentConfig, num_envs: int, seed: int, device: torch.device) -> VectorEnv:
    """The configured environment with ``num_envs`` copies."""
    return components.load("env", config.env_name).build(config.env, num_envs, device, seed)


def task_spec(config: ExperimentConfig) -> EnvSpec:
    """Facts about the configured task, asked of the environment itself."""
    with contextlib.closing(build_env(config, 1, 0, torch.device("cpu"))) as env:
        return env.spec


def build_agent(config: ExperimentConfig, spec: EnvSpec, device: torch.device) -> Agent:
    """A fresh agent for the task ``spec``, made from the seed alone; global generators stay as they are."""
    seed = config.general.seed
    generator = torch.Generator(device).manual_seed(stream_seed(seed, "agent"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "weights"))
        return Agent(config.alg, config.dynamics, config.actor, spec.obs_dim, spec.act_dim, generator)
