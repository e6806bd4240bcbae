"""Agents: built from a configuration, written to policy files, read back."""

from __future__ import annotations

from pathlib import Path

import torch

from pwm.algorithm.agent import Agent
from pwm.checkpoints import storage
from pwm.checkpoints.pretrained import is_pretrained
from pwm.configuration.building import build_agent
from pwm.configuration.config import ExperimentConfig
from pwm.envs.base import EnvSpec
from pwm.errors import CheckpointError
from pwm.training.trainer import Learner


def save_policy(
    path: Path, learner: Learner, config: ExperimentConfig, spec: EnvSpec, progress: dict
) -> None:
    """Write the learner's weights together with the configuration and task they belong to."""
    content = {
        "config": config.to_dict(),
        "spec": vars(spec),
        "modules": learner.state_dict(),
        "progress": {k: progress[k] for k in ("epoch", "env_steps", "eval/episode_return") if k in progress},
    }
    storage.save(path, storage.POLICY_FORMAT, content)


def load_policy(
    path: Path, device: torch.device
) -> tuple[Agent, ExperimentConfig, EnvSpec, dict[str, float]]:
    """Agent, configuration, task and progress of a policy file.

    Raises:
        CheckpointError: missing, damaged or foreign file.
    """
    content = storage.load(path, storage.POLICY_FORMAT, device)
    if is_pretrained(content):
        raise CheckpointError(f"{path} is a world model without a policy; `pwm extract` makes one from it")
    config = ExperimentConfig.from_dict(content["config"])
    spec = EnvSpec(**content["spec"])
    agent = build_agent(config, spec, device)
    agent.load_state_dict(content["modules"])
    return agent, config, spec, content["progress"]
