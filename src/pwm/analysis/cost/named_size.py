"""What ``48M`` in the name of a preset counts.

The presets have the sizes of TD-MPC2 (Hansen et al. 2024), whose names count a whole agent on its 80 tasks:
encoder, dynamics, reward, policy and an ensemble of Q networks as wide as the dynamics. Only the first three
have a counterpart of the same size here.
"""

from __future__ import annotations

import dataclasses
import re

import torch
from torch import nn

from pwm.algorithm.agent import Agent
from pwm.configuration.config import ExperimentConfig
from pwm.models import scalar_heads
from pwm.models.layers import mlp
from pwm.models.world_model import build_world_model

NAMED = re.compile(r"pwm_(\d+)M")
BINS = 101
# Observations and actions are padded to the widest of the 80 tasks; each task has an embedding.
OBS_DIM, ACT_DIM, TASK_DIM, TASKS = 39, 6, 96, 80
# Q networks of the ensemble, by size; all other sizes have 5.
Q_NETWORKS = {"317": 8}


def explain_size(config: ExperimentConfig, obs_dim: int, act_dim: int) -> str | None:
    """A sentence on the size in the preset's name, with our counts; None without such a size or a policy."""
    named = NAMED.match(config.preset)
    if named is None or "actor" not in config.chosen:
        return None
    members = Q_NETWORKS.get(named[1], 5)
    theirs = tdmpc2_parameters(config, OBS_DIM, ACT_DIM, members, TASK_DIM, TASKS)
    here = tdmpc2_parameters(config, obs_dim, act_dim, members)
    ours = agent_parameters(config, obs_dim, act_dim)
    return (
        f"{named[1]}M counts what the original counts, TD-MPC2's whole agent with its {members} Q networks: "
        f"{theirs / 1e6:.1f} M parameters on its {TASKS} tasks, {here / 1e6:.1f} M on this one alone, where "
        f"our agent with its smaller actor and critics has {ours / 1e6:.1f} M"
    )


def tdmpc2_parameters(
    config: ExperimentConfig, obs_dim: int, act_dim: int, members: int, task_dim: int = 0, n_tasks: int = 0
) -> int:
    """Parameters of TD-MPC2's agent at the widths of ``config``; nothing is allocated.

    Args:
        config: encoder, dynamics and reward network; policy and Q networks are as wide as the latter.
        obs_dim, act_dim: widths of observations and actions.
        members: Q networks.
        task_dim, n_tasks: size of the task table; 0 for a single task.
    """
    # TD-MPC2's latents are always learned.
    sizes = dataclasses.replace(
        config.alg.world_model,
        task_dim=task_dim,
        predict_termination=False,
        reward_head=scalar_heads.Options("two_hot", BINS),
        latents="simnorm",
    )
    state, units = sizes.latent_dim + task_dim, sizes.reward_units
    with torch.device("meta"):
        model = build_world_model(sizes, config.chosen["dynamics"], obs_dim, act_dim, n_tasks)
        policy = mlp(state, units, nn.Linear([state, *units][-1], 2 * act_dim))
        value = mlp(state + act_dim, units, nn.Linear([state + act_dim, *units][-1], BINS))
    return model.total_params + _count(policy) + members * _count(value)


def agent_parameters(config: ExperimentConfig, obs_dim: int, act_dim: int) -> int:
    """Parameters of our agent: world model, actor and critics; nothing is allocated."""
    with torch.device("meta"):
        agent = Agent(config.alg, config.chosen, obs_dim, act_dim, None, "meta")
    return agent.world_model.total_params + _count(agent.actor) + _count(agent.critic)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
