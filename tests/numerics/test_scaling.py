"""Critic weights, value scaling and the fast activations against plain formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pwm.algorithm.agent import Agent
from pwm.algorithm.losses import Imagined, critic_loss, reach_weights
from pwm.experiment.config import compose_config
from pwm.models.critic import CriticEnsemble
from pwm.models.layers import SimNorm, mish
from pwm.models.normalization import MovingMeanStd


def test_reach_weights_shift_survival_by_one_step() -> None:
    rewards, survival = torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(0))
    latents = torch.zeros(6, 5, 2)
    rollout = Imagined(latents, latents, latents, latents, rewards, None, None, survival)
    weights = reach_weights(rollout)
    assert (weights[0] == 1).all()
    torch.testing.assert_close(weights[3], survival[0] * survival[1] * survival[2])
    assert (reach_weights(rollout._replace(survival=None)) == 1).all()


@pytest.mark.parametrize("units", [[], [16], [16, 8]])
def test_rescaling_keeps_every_value_and_normalises_the_loss(units: list[int]) -> None:
    torch.manual_seed(0)
    critic = CriticEnsemble(8, units, 3)
    z, target = torch.randn(32, 8), 100 + 20 * torch.randn(32)
    before = critic(z)
    raw_loss = critic_loss(critic, z, target)
    critic.rescale(torch.tensor(100.0), torch.tensor(20.0))
    critic.rescale(torch.tensor(80.0), torch.tensor(10.0))
    torch.testing.assert_close(critic(z), before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(critic_loss(critic, z, target), raw_loss / 100, rtol=1e-4, atol=1e-4)


def test_moving_statistics_start_as_the_plain_mean_and_then_forget() -> None:
    stats = MovingMeanStd(rate=0.1)
    values = torch.tensor([1.0, 5.0, 9.0])
    for value in values:
        stats.update(value.repeat(4))
    assert float(stats.mean) == pytest.approx(5.0)
    assert float(stats.std) == pytest.approx(float(values.std(correction=0)), rel=1e-5)
    for _ in range(200):
        stats.update(torch.tensor([-3.0, -1.0]))
    assert float(stats.mean) == pytest.approx(-2.0, abs=1e-3)
    assert float(stats.std) == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("mean", [0.0, 2e3, -1e5])
def test_moving_std_is_exact_far_from_zero(mean: float) -> None:
    stats = MovingMeanStd()
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(50):
        seen.append(mean + torch.randn(512, generator=generator))
        stats.update(seen[-1])
    expected = torch.cat(seen).double().std(correction=0)
    assert float(stats.std) == pytest.approx(float(expected), rel=1e-3)


def test_mish_equals_its_definition_in_value_and_slope() -> None:
    x = torch.cat([torch.linspace(-30, 30, 601), torch.tensor([-1e4, -100.0, 100.0, 1e4])]).requires_grad_()
    mish(x).sum().backward()
    exact = x.detach().double().requires_grad_()
    (exact * torch.tanh(F.softplus(exact))).sum().backward()
    assert x.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mish(x.detach()).double(), F.mish(exact.detach()), rtol=1e-5, atol=1e-6)


def test_simnorm_is_a_softmax_in_consecutive_groups() -> None:
    x = torch.randn(3, 4, 24, dtype=torch.float64)
    expected = torch.cat([torch.softmax(group, -1) for group in x.split(8, -1)], -1)
    torch.testing.assert_close(SimNorm(8)(x), expected)
    torch.testing.assert_close(SimNorm(8, 8.0)(x), 8 * expected)


def _step_with_rewards_times(factor: float, ret_rms: bool) -> dict[str, torch.Tensor]:
    """Metrics of one actor step in a world whose rewards and values are ``factor`` times larger."""
    torch.manual_seed(0)
    config = compose_config(["alg=pwm_small", "alg.latent_dim=16", "alg.horizon=4", f"alg.ret_rms={ret_rms}"])
    agent = Agent(config.alg, config.dynamics, config.actor, 3, 2, torch.Generator().manual_seed(1))
    reward = agent.world_model.reward_net[-1]
    with torch.no_grad():
        reward.weight.copy_(factor * torch.randn(reward.weight.shape))
        reward.bias.mul_(factor)
        agent.target_critic.std.mul_(factor)
    z = agent.world_model.encode(torch.randn(64, 3)).detach()
    return agent.update_actor(z)[2]


@pytest.mark.parametrize("factor", [0.1, 30.0])
def test_rewards_of_any_size_give_the_actor_the_same_gradient(factor: float) -> None:
    plain, scaled = _step_with_rewards_times(1.0, True), _step_with_rewards_times(factor, True)
    torch.testing.assert_close(scaled["imagined_return"], factor * plain["imagined_return"])
    # A variance of 1e-5 is added to that of the returns.
    for name in ("loss", "grad_norm", "saturation"):
        torch.testing.assert_close(scaled[name], plain[name], rtol=1e-3, atol=1e-6)
    unscaled = _step_with_rewards_times(factor, False)["grad_norm"]
    torch.testing.assert_close(unscaled, factor * _step_with_rewards_times(1.0, False)["grad_norm"])
