"""The critic also learns what really followed: targets from visited steps, and their weight in the loss."""

from __future__ import annotations

import pytest
import torch

from pwm.algorithm.agent import Agent
from pwm.algorithm.losses import critic_loss, imagine
from pwm.data.batch import Visited
from pwm.envs.base import EnvSpec
from pwm.experiment.config import compose_config
from pwm.experiment.policies import build_agent

SPEC = EnvSpec("test", 3, 2, 100, 0.0)
STEPS, ENVS = 5, 4


@pytest.fixture
def agent() -> Agent:
    """A small agent whose rewards have another scale than 1."""
    sizes = ["alg.latent_dim=16", "alg.encoder_units=[16]", "alg.critic_units=[16]", "alg.horizon=3"]
    built = build_agent(compose_config(["alg=pwm_small", *sizes]), SPEC, torch.device("cpu"))
    built.observe(torch.randn(64, 3), 5.0 * torch.randn(64))
    return built


def visited(seed: int) -> Visited:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(STEPS, ENVS, generator=generator) < 0.3
    return Visited(
        obs=torch.randn(STEPS, ENVS, 3, generator=generator),
        reward=torch.randn(STEPS, ENVS, generator=generator),
        terminated=ends & (torch.rand(STEPS, ENVS, generator=generator) < 0.5),
        ends=ends,
        next_obs=torch.randn(STEPS, ENVS, 3, generator=generator),
    )


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_the_lambda_return_of_each_step(agent: Agent, seed: int) -> None:
    """Against the recursion of Sutton & Barto (eq. 12.20), written for one environment at a time."""
    data = visited(seed)
    z, targets = agent.real_targets(data)
    assert torch.equal(z, agent.world_model.encode(data.obs).flatten(0, 1).detach())
    gamma, lam = agent.options.gamma, agent.options.lam
    values = agent.target_critic(agent.world_model.encode(data.next_obs)).amin(0).detach()
    for env in range(ENVS):
        following = 0.0
        for t in reversed(range(STEPS)):
            value = 0.0 if data.terminated[t, env] else float(values[t, env])
            last = t == STEPS - 1 or bool(data.ends[t, env])
            after = value if last else (1 - lam) * value + lam * following
            following = float(data.reward[t, env] / agent.reward_scale) + gamma * after
            assert float(targets.view(STEPS, ENVS)[t, env]) == pytest.approx(following, abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share_is_the_weight_of_what_really_happened(agent: Agent, share: float) -> None:
    data = visited(0)
    with torch.no_grad():
        start = agent.world_model.encode(torch.randn(7, 3))
        rollout = imagine(agent.world_model, agent.actor, start, None, 3)._replace(survival=None)
    targets = torch.randn(3, 7)
    seen = {}

    def record(z: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        seen["loss"] = critic_loss(agent.critic, z, target, weights)
        return {}

    agent.update_critic = record  # type: ignore[method-assign]
    agent.learn_values(rollout, targets, data, share)
    imagined = critic_loss(agent.critic, rollout.latents.flatten(0, 1), targets.flatten())
    real = critic_loss(agent.critic, *agent.real_targets(data))
    assert float(seen["loss"]) == pytest.approx(float((1 - share) * imagined + share * real), rel=1e-5)
