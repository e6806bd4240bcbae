"""The flow policy: its density is exact, its steps can be inverted, and it finds what a Gaussian cannot."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from pwm import components
from pwm.algorithm.agent import Agent
from pwm.configuration.config import compose_config
from pwm.errors import ConfigError
from pwm.models.actors import flow
from pwm.models.actors.flow import FlowActor

LATENT, B = 6, 20
INTEGRATORS = components.names("integrator")


def actor(act_dim: int, **options: object) -> FlowActor:
    """A float64 policy with velocities as large as ``project`` lets them be."""
    torch.manual_seed(0)
    found = flow.build(flow.Options(units=[16], velocity_units=24, **options), LATENT, act_dim).double()
    with torch.no_grad():
        # Far from its start: latents matter, and the noise is bent.
        found.net[-1].weight.mul_(100.0)
        found.outward.normal_()
    found.project()
    return found


def inputs(act_dim: int) -> tuple[Tensor, Tensor]:
    return torch.randn(B, LATENT).double(), torch.randn(B, act_dim).double()


@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize(("act_dim", "substeps"), [(1, 4), (3, 4), (8, 9)])
def test_the_density_is_that_of_the_jacobian(integrator: str, act_dim: int, substeps: int) -> None:
    policy = actor(act_dim, integrator=integrator, substeps=substeps)
    z, noise = inputs(act_dim)
    jacobian = vmap(jacrev(lambda n, z: policy.act(z, n)))(noise, z)
    normal = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1)
    expected = normal - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(policy.decide(z, noise).log_prob.sum(-1), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_density_of_one_action_integrates_to_one(integrator: str) -> None:
    policy = actor(1, integrator=integrator)
    noise = torch.linspace(-9, 9, 20_001).double()[:, None]
    for z in inputs(1)[0][:4]:
        decision = policy.decide(z.expand(len(noise), -1), noise)
        action, density = decision.action[:, 0].detach(), decision.log_prob[:, 0].detach().exp()
        assert bool((action.diff() > 0).all())
        assert float(torch.trapezoid(density, action)) == pytest.approx(1.0, abs=1e-4)
        # It is no squashed Gaussian: with its mean and spread before the squashing it would be another.
        x = decision.location[:, 0].detach()
        weight = (-0.5 * noise[:, 0].square()).exp()
        mean = (weight * x).sum() / weight.sum()
        third = (weight * (x - mean) ** 3).sum() / weight.sum()
        assert abs(float(third)) > 1e-4


def test_the_first_entries_have_the_density_that_they_have_alone() -> None:
    """What tasks with fewer actions need: later entries, whatever their noise, do not reach earlier ones."""
    policy = actor(4)
    z, noise = inputs(4)
    other = noise.clone()
    other[:, 2:] = torch.randn(B, 2).double()
    a, b = policy.decide(z, noise), policy.decide(z, other)
    assert torch.equal(a.action[:, :2], b.action[:, :2])
    assert torch.equal(a.log_prob[:, :2], b.log_prob[:, :2])
    assert not torch.allclose(a.action[:, 2:], b.action[:, 2:])
    # Earlier ones reach later ones: the entries depend on one another.
    other = noise.clone()
    other[:, 0] += 1.0
    assert float((policy.act(z, other) - a.action)[:, 3].detach().abs().max()) > 0.01


@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("substeps", [2, 4])
def test_every_step_can_be_inverted_however_far_the_weights_go(integrator: str, substeps: int) -> None:
    rate = 0.99 * flow.INVERTIBLE * substeps
    policy = actor(3, integrator=integrator, substeps=substeps, max_rate=rate)
    with torch.no_grad():
        policy.outward.mul_(1e6)
        policy.inward.mul_(10.0)
    policy.project()
    z, noise = inputs(3)
    density = policy.decide(z, 3 * noise).log_prob
    assert bool(torch.isfinite(density).all())
    slopes = (policy.outward * policy.writes * policy.inward[:, :-1].T).abs().sum(1)
    torch.testing.assert_close(slopes, torch.full((3,), rate).double())


def test_projection_leaves_slow_velocities_and_wide_spreads_alone() -> None:
    policy = flow.build(flow.Options(units=[16]), LATENT, 3)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    policy.project()
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    with torch.no_grad():
        policy.log_std.fill_(-9.0)
    policy.project()
    assert policy.log_std.tolist() == [-3.0] * 3


def test_an_untrained_policy_acts_near_zero_with_the_spread_of_the_others() -> None:
    torch.manual_seed(0)
    policy = flow.build(flow.Options(units=[64, 64]), LATENT, 3)
    z, noise = torch.randn(500, LATENT), torch.randn(500, 3)
    assert float(policy.act(z).detach().abs().max()) < 0.2
    spread = torch.atanh(policy.act(z, noise)).std()
    assert float(spread) == pytest.approx(math.exp(-1.0), rel=0.1)
    assert float(policy.mean_std()) == pytest.approx(float(spread), rel=0.1)


def test_what_is_reported_is_the_spread_where_the_flow_is_nearly_linear() -> None:
    policy = actor(2)
    with torch.no_grad():
        policy.log_std.fill_(-6.0)
    z = inputs(2)[0][:1].expand(4000, -1)
    x = policy.decide(z, torch.randn(4000, 2).double()).location
    # Given the first entry, the second has the spread that is left.
    centred = x - x.mean(0)
    slope = (centred[:, 0] * centred[:, 1]).mean() / centred[:, 0].square().mean()
    spreads = torch.stack([x[:, 0].std(), (centred[:, 1] - slope * centred[:, 0]).std()])
    assert float(policy.mean_std()) == pytest.approx(float(spreads.mean()), rel=0.05)


def test_gradients_of_action_and_density_are_right() -> None:
    policy = actor(2)
    z, noise = (x[:3].requires_grad_() for x in inputs(2))

    def outputs(z: Tensor, noise: Tensor, *_: nn.Parameter) -> tuple[Tensor, Tensor]:
        decision = policy.decide(z, noise)
        return decision.action, decision.log_prob

    assert torch.autograd.gradcheck(outputs, (z, noise, *policy.parameters()))
    assert torch.autograd.gradcheck(lambda z: policy.act(z), (z,))


def test_it_finds_a_policy_of_two_modes() -> None:
    """Where two actions are equally good, a Gaussian has to choose; this policy keeps both."""
    torch.manual_seed(0)
    policy = flow.build(flow.Options(units=[16], max_rate=2.5), LATENT, 1)
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.01)
    z = torch.zeros(256, LATENT)
    for _ in range(400):
        decision = policy.decide(z, torch.randn(256, 1))
        # Rewards of 1 about -0.6 and 0.6, and entropy.
        reward = -((decision.action.square() - 0.36) / 0.15).square()
        loss = (decision.log_prob - reward).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        policy.project()
    with torch.no_grad():
        actions = policy.act(z, torch.randn(256, 1))[:, 0]
    above, below = (float((side * actions > 0.3).float().mean()) for side in (1, -1))
    assert min(above, below) > 0.1
    # A Gaussian that reaches both has more than this between them.
    assert above + below > 0.8


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"integrator": "eulr"}, "alg.actor.integrator='eulr'; choose one of: euler"),
        ({"substeps": 0}, "alg.actor.substeps=0"),
        ({"velocity_units": 0}, "alg.actor.velocity_units=0"),
        ({"max_rate": 3.0}, "alg.actor.max_rate=3.0; it must lie between 0 and 0.69 times"),
        ({"max_rate": 0.0}, "alg.actor.max_rate=0.0"),
        ({"init_log_std": -4.0}, "not below alg.actor.min_log_std"),
        ({"min_log_std": -math.inf}, "must be finite"),
        ({"units": [0]}, "alg.actor.units"),
    ],
)
def test_options_that_are_not_allowed_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        flow.Options(**options)


def test_a_velocity_that_is_narrower_than_the_action_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"velocity_units=2; it must be at least the number of actions, 3"):
        flow.build(flow.Options(velocity_units=2), LATENT, 3)


@pytest.mark.parametrize(("obs_dim", "act_dim"), [(11, 3), (17, 6), (10, 2)])
def test_the_width_of_the_experiment_makes_it_as_large_as_the_gaussian(obs_dim: int, act_dim: int) -> None:
    """Hopper, HalfCheetah and Reacher; ``experiment=flow_policy`` relies on it."""
    sizes = []
    for changes in (["actor=sac"], ["actor=flow", "alg.actor.units=[228,228]"]):
        config = compose_config(["alg=pwm_small", *changes])
        agent = Agent(config.alg, config.chosen, obs_dim, act_dim, None, "meta")
        sizes.append(sum(p.numel() for p in agent.actor.parameters()))
    assert abs(sizes[1] / sizes[0] - 1) < 0.02
