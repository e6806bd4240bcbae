"""Agents: built from a configuration, written to policy files, read back."""

from __future__ import annotations

from pathlib import Path

import torch

from pwm.algorithm.agent import Agent
from pwm.envs.base import EnvSpec
from pwm.experiment import checkpoints
from pwm.experiment.config import ExperimentConfig
from pwm.experiment.reproducibility import stream_seed


def build_agent(config: ExperimentConfig, spec: EnvSpec, device: torch.device) -> Agent:
    """A fresh agent for the task ``spec``, made from the seed alone; global generators stay as they are."""
    seed = config.general.seed
    generator = torch.Generator(device).manual_seed(stream_seed(seed, "agent"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "weights"))
        return Agent(config.alg, config.dynamics, config.actor, spec.obs_dim, spec.act_dim, generator)


def save_policy(path: Path, agent: Agent, config: ExperimentConfig, spec: EnvSpec, progress: dict) -> None:
    """Write the agent's weights together with the configuration and task they belong to."""
    content = {
        "config": config.to_dict(),
        "spec": vars(spec),
        "modules": agent.state_dict(),
        "progress": {k: progress[k] for k in ("epoch", "env_steps", "eval/episode_return") if k in progress},
    }
    checkpoints.save(path, checkpoints.POLICY_FORMAT, content)


def load_policy(
    path: Path, device: torch.device
) -> tuple[Agent, ExperimentConfig, EnvSpec, dict[str, float]]:
    """Agent, configuration, task and progress of a policy file.

    Raises:
        CheckpointError: missing, damaged or foreign file.
    """
    content = checkpoints.load(path, checkpoints.POLICY_FORMAT, device)
    config = ExperimentConfig.from_dict(content["config"])
    spec = EnvSpec(**content["spec"])
    agent = build_agent(config, spec, device)
    agent.load_state_dict(content["modules"])
    return agent, config, spec, content["progress"]
