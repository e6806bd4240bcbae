"""From a configuration to what it describes: device, environment, agent and trainer."""

from __future__ import annotations

import contextlib

import torch

from pwm import components
from pwm.algorithm.agent import Agent
from pwm.algorithm.ranks import ALONE, Ranks
from pwm.configuration.config import ExperimentConfig
from pwm.envs.base import EnvSpec, VectorEnv
from pwm.envs.disturbances.base import disturb
from pwm.errors import ConfigError
from pwm.training.agents import fresh_agent
from pwm.training.trainer import Setting, Trainer, load_trainer


def pick_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device called ``name``; of several processes on one machine each gets a GPU of its own.

    Raises:
        ConfigError: PyTorch does not know it, or this machine does not have it.
    """
    try:
        device = torch.device(name)
        if ranks.size > 1 and device.type == "cuda":
            device = torch.device("cuda", ranks.local)
            torch.cuda.set_device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"general.device={name!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    return device


def build_env(config: ExperimentConfig, num_envs: int, seed: int, device: torch.device) -> VectorEnv:
    """The configured environment with ``num_envs`` copies, disturbed as configured."""
    env = components.load("env", config.env_name).build(config.env, num_envs, device, seed)
    return disturb(env, config.disturbance, seed)


def task_spec(config: ExperimentConfig) -> EnvSpec:
    """Facts about the configured task, asked of the environment itself."""
    with contextlib.closing(build_env(config, 1, 0, torch.device("cpu"))) as env:
        return env.spec


def build_agent(config: ExperimentConfig, spec: EnvSpec, device: torch.device) -> Agent:
    """A fresh agent for the task ``spec``, made from the seed alone; global generators stay as they are."""
    return fresh_agent(config.alg, config.chosen, spec, config.general.seed, device)


def build_trainer(config: ExperimentConfig, device: torch.device, ranks: Ranks = ALONE) -> Trainer:
    """The configured trainer, before anything is trained, in one process or in each of ``ranks``.

    Raises:
        ConfigError: it does not fit into memory, or several processes cannot train it.
        EnvError: the environment cannot be made.
    """

    def make_env(num_envs: int, seed: int) -> VectorEnv:
        return build_env(config, num_envs, seed, device)

    general = config.general
    setting = Setting(
        config.alg,
        config.chosen,
        general.seed,
        device,
        make_env,
        general.eval_runs,
        general.pretrain,
        general.pretrain_steps,
        ranks,
    )
    trainer = load_trainer(config.trainer).build(setting)
    if ranks.size > 1 and not trainer.shared:
        trainer.close()
        raise ConfigError(
            f"torchrun started {ranks.size} processes, but alg.trainer={config.trainer} trains in one; start "
            "the command without torchrun"
        )
    return trainer
