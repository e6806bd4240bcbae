"""Densities of policies, and the temperature that holds their entropy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from pwm import components
from pwm.algorithm.agent import Agent
from pwm.configuration.config import compose_config
from pwm.errors import ConfigError
from pwm.models.actors.base import Actor, load_actor

ACTORS = components.names("actor")
# Those that are a Gaussian before the squashing.
GAUSSIANS = ("gaussian", "sac")
ACT = 3


def actor(name: str, **options: float) -> Actor:
    torch.manual_seed(0)
    module = load_actor(name)
    found: Actor = module.build(module.Options(units=[16], **options), 8, ACT)
    return found


def log_std(policy: Actor, z: Tensor) -> Tensor:
    """Log standard deviation at latents [B, 8], measured: what one unit of noise adds before the tanh."""
    with torch.no_grad():
        ones = policy.act(z, torch.ones(len(z), ACT))
        return (torch.atanh(ones) - policy.decide(z).location).log()


@pytest.mark.parametrize("name", GAUSSIANS)
def test_the_density_is_that_of_the_squashed_gaussian(name: str) -> None:
    policy = actor(name)
    z, noise = torch.randn(50, 8), torch.randn(50, ACT)
    decision = policy.decide(z, noise)
    normal = Independent(Normal(decision.location, log_std(policy, z).exp()), 1)
    squashed = TransformedDistribution(normal, TanhTransform())
    torch.testing.assert_close(
        decision.log_prob.sum(-1), squashed.log_prob(decision.action), rtol=1e-3, atol=1e-3
    )
    assert policy.decide(z).log_prob is None


@pytest.mark.parametrize("name", ACTORS)
def test_the_density_is_finite_where_the_tanh_is_saturated(name: str) -> None:
    policy = actor(name)
    z = torch.randn(4, 8)
    decision = policy.decide(z, torch.full((4, ACT), 60.0))
    assert bool((decision.action.abs() > 0.9999).all())
    assert bool(torch.isfinite(decision.log_prob).all())
    decision.log_prob.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in policy.parameters() if p.grad is not None)


def test_the_spread_of_the_sac_policy_depends_on_the_state_within_its_bounds() -> None:
    policy = actor("sac", init_log_std=-1.5, min_log_std=-2.0, max_log_std=-1.0)
    z = torch.randn(100, 8)
    torch.testing.assert_close(log_std(policy, z).mean(), torch.tensor(-1.5), atol=0.05, rtol=0)
    with torch.no_grad():
        policy.net[-1].weight.mul_(300.0)
        spread = policy.net(z)[:, ACT:]
    assert float(spread.std()) > 1.0
    bounded = policy.decide(z, torch.ones(100, ACT)).log_prob.detach()
    assert bool(torch.isfinite(bounded).all())
    assert math.exp(-2.0) < float(policy.mean_std()) < math.exp(-1.0)


@pytest.mark.parametrize(
    "bounds",
    [{"init_log_std": 1.0}, {"min_log_std": -1.0}, {"max_log_std": math.inf}, {"init_log_std": math.nan}],
)
def test_bounds_that_do_not_hold_the_first_spread_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"init_log_std=.* must lie between"):
        load_actor("sac").Options(**bounds)


def agent(*changes: str) -> Agent:
    torch.manual_seed(0)
    config = compose_config(["alg=pwm_small_h16", "alg.latent_dim=16", "alg.horizon=3", *changes])
    return Agent(config.alg, config.chosen, 3, 2, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("target", "rises"), [(5.0, True), (-5.0, False)])
def test_the_temperature_rises_while_entropy_is_short(target: float, rises: bool) -> None:
    learner = agent("actor=sac", f"alg.entropy_target={target}")
    z = learner.world_model.encode(torch.randn(32, 3)).detach()
    first = learner.actor_critic.update_actor(learner.world_model, z)[2]
    second = learner.actor_critic.update_actor(learner.world_model, z)[2]
    assert (float(second["temperature"]) > float(first["temperature"])) == rises
    assert float(first["temperature"]) == pytest.approx(0.01)


@pytest.mark.parametrize("name", ACTORS)
def test_the_entropy_settles_at_its_target(name: str) -> None:
    """Where nothing else pays, because an untrained model predicts no reward."""
    learner = agent(
        f"actor={name}", "alg.entropy_target=-1.2", "alg.temperature_lr=0.02", "alg.actor_lr=0.003",
        "alg.saturation_coef=0", *(["alg.actor.min_log_std=-4"] if name == "gaussian" else []),
    )  # fmt: skip
    z = learner.world_model.encode(torch.randn(64, 3)).detach()
    entropy = [
        float(learner.actor_critic.update_actor(learner.world_model, z)[2]["entropy"]) for _ in range(400)
    ]
    assert entropy[0] > -0.7
    # The temperature lags behind, so that the entropy swings about its target.
    assert sum(entropy[-200:]) / 200 == pytest.approx(-1.2, abs=0.15)


def test_the_actor_alone_is_rewarded_for_entropy() -> None:
    """Critics learn the same targets with and without."""
    targets = []
    for changes in ([], ["alg.entropy_target=-1", "alg.temperature=7.0"]):
        learner = agent("actor=sac", *changes)
        z = learner.world_model.encode(torch.randn(32, 3)).detach()
        targets.append(learner.actor_critic.update_actor(learner.world_model, z)[1])
    torch.testing.assert_close(targets[0], targets[1])


def test_the_temperature_belongs_to_the_training_state() -> None:
    learner, other = (agent("actor=sac", "alg.entropy_target=2") for _ in range(2))
    z = learner.world_model.encode(torch.randn(32, 3)).detach()
    for _ in range(3):
        learner.actor_critic.update_actor(learner.world_model, z)
    other.load_training_state(learner.training_state())
    assert torch.equal(other.actor_critic.log_temperature, learner.actor_critic.log_temperature)
    a, b = (one.actor_critic.update_actor(one.world_model, z)[2] for one in (learner, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_target_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=f"alg.entropy_target={value}; it must be finite, or null"):
        compose_config([f"alg.entropy_target={value}"])
