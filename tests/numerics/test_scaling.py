"""Weights, scales and invariances of the losses, and the fast activations, against plain formulas."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from pwm.algorithm.agent import Agent
from pwm.algorithm.losses import Coefs, Imagined, critic_loss, reach_weights, world_model_loss
from pwm.configuration.config import compose_config
from pwm.data.batch import Batch
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


def _small_agent(*changes: str) -> Agent:
    torch.manual_seed(0)
    config = compose_config(["alg=pwm_small_h16", "alg.latent_dim=16", "alg.horizon=4", *changes])
    return Agent(config.alg, config.chosen, 3, 2, torch.Generator().manual_seed(1))


def _step_with_rewards_times(factor: float, ret_rms: bool) -> dict[str, torch.Tensor]:
    """Metrics of one actor step in a world whose rewards and values are ``factor`` times larger."""
    agent = _small_agent(f"alg.ret_rms={ret_rms}")
    reward = agent.world_model.reward_net[-1]
    with torch.no_grad():
        reward.weight.copy_(factor * torch.randn(reward.weight.shape))
        reward.bias.mul_(factor)
        agent.actor_critic.target_critic.std.mul_(factor)
    z = agent.world_model.encode(torch.randn(64, 3)).detach()
    return agent.actor_critic.update_actor(agent.world_model, z)[2]


@pytest.mark.parametrize("factor", [0.1, 30.0])
def test_rewards_of_any_size_give_the_actor_the_same_gradient(factor: float) -> None:
    plain, scaled = _step_with_rewards_times(1.0, True), _step_with_rewards_times(factor, True)
    torch.testing.assert_close(scaled["imagined_return"], factor * plain["imagined_return"])
    # A variance of 1e-5 is added to that of the returns.
    for name in ("loss", "grad_norm", "saturation"):
        torch.testing.assert_close(scaled[name], plain[name], rtol=1e-3, atol=1e-6)
    unscaled = _step_with_rewards_times(factor, False)["grad_norm"]
    torch.testing.assert_close(unscaled, factor * _step_with_rewards_times(1.0, False)["grad_norm"])


def _batch(agent: Agent) -> Batch:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=agent.generator)

    terminated = torch.zeros(4, 32, dtype=torch.bool)
    terminated[-1, ::5] = True
    return Batch(draw(5, 32, 3), draw(4, 32, 2).tanh(), draw(4, 32), terminated, torch.ones_like(terminated))


@pytest.mark.parametrize("rew_rms", [True, False])
def test_the_model_learns_rewards_in_units_of_their_spread(rew_rms: bool) -> None:
    agent = _small_agent(f"alg.rew_rms={rew_rms}")
    batch, rewards = _batch(agent), 5 + 20 * torch.randn(1000)
    agent.model.observe(torch.randn(1000, 3), rewards)
    scale = float(rewards.std(correction=0)) if rew_rms else 1.0
    assert float(agent.reward_scale) == pytest.approx(scale, rel=1e-3)
    # An untrained model predicts 0, so its reward loss is the weighted mean of the squared targets.
    weights = agent.objective.gamma ** torch.arange(4.0)[:, None]
    _, metrics = agent.model.loss(batch, agent.generator)
    expected = (weights * (batch.reward / scale).square()).mean()
    torch.testing.assert_close(metrics["reward_loss"], expected, rtol=2e-3, atol=0.0)


def test_the_order_of_windows_and_start_states_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = _small_agent("alg.saturation_coef=0.1")
    batch, order = _batch(agent), torch.randperm(32, generator=agent.generator)
    shuffled = Batch(*(part[:, order] for part in batch[:5]))
    losses = [agent.model.loss(b, agent.generator)[0] for b in (batch, shuffled)]
    torch.testing.assert_close(losses[0], losses[1])
    noise, z = torch.randn(4, 32, 2), agent.world_model.encode(batch.obs[0]).detach()
    results = []
    for index in (torch.arange(32), order):
        learner = copy.deepcopy(agent)
        monkeypatch.setattr(learner.actor_critic, "noise", lambda *shape, index=index, **_: noise[:, index])
        _, targets, metrics = learner.actor_critic.update_actor(learner.world_model, z[index])
        results.append((targets[:, index.argsort()], metrics))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_only_actions_that_saturate_are_penalised_by_the_square_of_their_excess() -> None:
    free, penalised = _small_agent("alg.saturation_coef=0"), _small_agent("alg.saturation_coef=0.5")
    zeros, entries = torch.zeros(1, 4, 1), torch.ones(4)
    location = torch.tensor([[[0.9, -1.0], [1.0, 0.0], [3.0, -2.0], [-1.5, 0.5]]])
    rollout = Imagined(zeros, zeros, location, location, zeros[..., 0], None, None, None)
    added = penalised.actor_critic.loss(rollout, entries) - free.actor_critic.loss(rollout, entries)
    assert float(added) == pytest.approx(0.5 * (4 + 1 + 0.25) / 8)


def test_critics_learn_from_every_sample_by_its_weight() -> None:
    """Samples of weight 0 do not count, and the passes take every other one."""
    changes = [
        "alg.value_rms=false",
        "alg.critic_iterations=3",
        "alg.critic_batches=4",
        "alg.target_rate=0.5",
    ]
    z = torch.randn(32, 16, generator=torch.Generator().manual_seed(3))
    targets, weights = z[:, 0].clone(), torch.ones(32)
    weights[::2] = 0.0
    disturbed = torch.where(weights == 0, 1e3, targets)
    learners = [_small_agent(*changes) for _ in range(3)]
    before = learners[0].critic(z)
    metrics = [
        a.actor_critic.update_critic(z, t, weights)
        for a, t in zip(learners[:2], (targets, disturbed), strict=True)
    ]
    for name, value in learners[0].state_dict().items():
        assert torch.equal(value, learners[1].state_dict()[name]), name
    assert torch.equal(metrics[0]["loss"], metrics[1]["loss"])
    assert float(metrics[1]["target_mean"]) == pytest.approx(float(disturbed.mean()))
    assert float(metrics[1]["target_std"]) == pytest.approx(float(disturbed.std()))
    # Three passes of four batches: twelve steps, which the slow copy follows by half of the way.
    steps = {int(s["step"]) for s in learners[0].updaters["critic"].optimizer.state.values()}
    assert steps == {12}
    last = learners[2]
    few = z[:2]
    opts = last.actor_critic.options
    opts.critic_iterations = opts.critic_batches = 1
    last.actor_critic.update_critic(few, few[:, 0], torch.ones(2))
    for slow, fast, start in zip(
        last.actor_critic.target_critic.parameters(),
        last.critic.parameters(),
        _small_agent(*changes).critic.parameters(),
    ):
        torch.testing.assert_close(slow, (fast + start) / 2)
    assert not torch.equal(learners[0].critic(z), before)


def test_metrics_of_critics_are_means_over_their_steps() -> None:
    agent = _small_agent("alg.critic_lr=1e-12", "alg.critic_iterations=3", "alg.value_rms=false")
    z = torch.randn(32, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = critic_loss(agent.critic, z, z[:, 0])
    metrics = agent.actor_critic.update_critic(z, z[:, 0], torch.ones(32))
    torch.testing.assert_close(metrics["loss"], expected)


def test_critics_follow_the_scale_of_their_targets() -> None:
    agent = _small_agent()
    z = torch.randn(256, 16, generator=torch.Generator().manual_seed(3))
    targets = 50 + 7 * torch.randn(256, generator=torch.Generator().manual_seed(4))
    agent.actor_critic.update_critic(z, targets, torch.ones(256))
    for critic in (agent.critic, agent.actor_critic.target_critic):
        torch.testing.assert_close(critic.mean, targets.mean())
        torch.testing.assert_close(critic.std, targets.std(correction=0))


@pytest.mark.parametrize(("final", "expected"), [(1e-5, 1e-5), (1.0, None)])
def test_learning_rates_fall_to_the_final_one_and_never_rise(final: float, expected: float | None) -> None:
    agent = _small_agent("alg.model_lr=1e-3", "alg.actor_lr=2e-3", "alg.critic_lr=4e-3")
    initial = {"wm": 1e-3, "actor": 2e-3, "critic": 4e-3}
    for share in (0.0, 0.25, 1.0):
        rates = {name: agent.updaters[name].decay_lr(share, final) for name in initial}
        for name, start in initial.items():
            end = start if expected is None else expected
            assert rates[name] == pytest.approx(start + share * (end - start))
            used = [group["lr"] / group["scale"] for group in agent.updaters[name].optimizer.param_groups]
            assert used == pytest.approx([rates[name]] * len(used))


def test_the_model_minimises_the_weighted_sum_of_its_losses() -> None:
    agent = _small_agent()
    batch, parts = _batch(agent), ("dynamics_loss", "reward_loss", "termination_loss")
    for coefs in (None, Coefs(2.0, 3.0, 5.0)):
        weights = (1.0, 1.0, 1.0) if coefs is None else coefs
        given = {} if coefs is None else {"coefs": coefs}
        loss, metrics = world_model_loss(agent.world_model, batch, **given)
        assert min(metrics.values()) > 0
        expected = sum(w * float(metrics[part]) for w, part in zip(weights, parts, strict=True))
        assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
        assert torch.equal(metrics["loss"], loss.detach())


def test_acting_builds_no_graph() -> None:
    agent = _small_agent()
    for deterministic in (True, False):
        assert not agent.act(torch.randn(4, 3), deterministic).requires_grad
