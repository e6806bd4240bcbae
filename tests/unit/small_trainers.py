"""Trainers so small that an epoch takes milliseconds, in environments with known answers."""

from __future__ import annotations

import torch
from tests.end_to_end.tiny import NETWORKS

from pwm.configuration.building import build_agent, build_env
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.training.trainers.online.trainer import OnlineTrainer

CPU = torch.device("cpu")
ENVS, HORIZON = 3, 4
SMALL = dict(override.split("=") for override in NETWORKS) | {
    "alg": "pwm_small_h16_flow",
    "env": "analytic",
    "alg.num_envs": str(ENVS),
    "alg.horizon": str(HORIZON),
    "alg.actor_batch_size": "8",
    "alg.wm_batch_size": "8",
    "alg.buffer_size": "2000",
    "alg.warmup_env_steps": "0",
    "alg.warmup_updates": "0",
}
LOCKSTEP = {
    "alg.collect": "lockstep",
    "alg.actor_iterations": "1",
    "alg.replay_starts": "0",
    "alg.open_loop_share": "0",
}
# Environment i ends after 2, 3, 5 steps; whether for good alternates.
COUNTING = {"env.task": "counting", "env.episode_lengths": "[2,3,5]", "env.ends": "[terminated,truncated]"}


def config_of(changes: dict[str, str]) -> ExperimentConfig:
    """Configuration of ``SMALL`` with ``changes``."""
    return compose_config([f"{key}={value}" for key, value in (SMALL | changes).items()])


def trainer_of(changes: dict[str, str]) -> OnlineTrainer:
    """A trainer that has done nothing yet."""
    config = config_of(changes)
    env = build_env(config, ENVS, 0, CPU)
    return OnlineTrainer(config.alg, env, build_agent(config, env.spec, CPU))
