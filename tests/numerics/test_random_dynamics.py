"""Dynamics that sample: what they learn of distributions that are known, and the scores that say so."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import forecast_scores
from pwm.analysis.cost.operations import epoch_flops
from pwm.configuration.config import compose_config
from pwm.data.batch import Batch
from pwm.errors import ConfigError
from pwm.models import world_model
from pwm.models.dynamics.base import Dynamics, load_dynamics
from pwm.models.latent_space import Observations, Simplices
from pwm.models.layers import SimNorm
from pwm.models.world_model import WorldModel, build_world_model

SAMPLED = ["gaussian", "mixture", "generative_flow", "flow_map"]
ADDED = [*SAMPLED, "gated_flow"]
# Trained by likelihood: not for latents that move.
DENSITIES = ["gaussian", "mixture"]
OBS, ACT, TASK = 6, 2, 3
UPDATES = 250


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transitions(kind: str, count: int, generator: torch.Generator) -> Batch:
    """One-step windows: the action is reversed in 30 % of them, or noise grows with the first entry."""
    z = torch.rand(count, 2, generator=generator) * 2 - 1
    a = torch.rand(count, 1, generator=generator) * 2 - 1
    noise = torch.randn(count, 2, generator=generator)
    if kind == "bimodal":
        a = 0.5 * (a + a.sign())
        sign = torch.where(torch.rand(count, 1, generator=generator) < 0.3, -1.0, 1.0)
        after = z + sign * a * torch.tensor([1.0, -0.5]) + 0.05 * noise
    else:
        after = z + 0.3 * a + (0.05 + 0.8 * z[:, :1].abs()) * noise
    no = torch.zeros(1, count)
    return Batch(torch.stack([z, after]), a[None], no, no.bool(), ~no.bool())


def small_model(name: str, obs_dim: int = 2, act_dim: int = 1, width: int = 64, **options: Any) -> WorldModel:
    torch.manual_seed(0)
    sizes = world_model.Options(
        latents="observations", obs_rms=False, predict_termination=False, reward_units=[8]
    )
    dynamics = load_dynamics(name).Options(units=[width, width], **options)
    return build_world_model(sizes, dynamics, obs_dim, act_dim)


@functools.cache
def learned(kind: str, name: str) -> tuple[WorldModel, dict[str, float]]:
    """A trained model, its scores on new transitions, and as ``error`` its mean's squared distance."""
    model, generator = small_model(name), seeded(0)
    dynamics = model.dynamics
    optimiser = torch.optim.Adam(dynamics.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, UPDATES)
    for _ in range(UPDATES):
        batch = transitions(kind, 256, generator)
        model.observe(batch.obs, batch.valid)
        draws = dynamics.draw((1, 256), batch.obs, generator)
        weights = torch.ones(1, 256)
        loss = dynamics.loss(batch.obs[:1], batch.action, batch.obs[1:], weights, None, draws).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    batch = transitions(kind, 4000, seeded(1))
    with torch.no_grad():
        error = (model.next(batch.obs[0], batch.action[0]) - batch.obs[1]).square().mean()
    return model, {**forecast_scores(model, batch, seeded(2)), "error": float(error)}


# --- what they learn ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bimodal", "heteroscedastic"])
@pytest.mark.parametrize("name", SAMPLED)
def test_a_distribution_is_learned_better_than_its_mean(name: str, kind: str) -> None:
    _, certain = learned(kind, "residual")
    _, found = learned(kind, name)
    assert found["energy_score"] < 0.8 * certain["energy_score"]
    assert 0.8 < found["coverage"] < 0.99
    # Without noise they predict the mean, as the residual MLP does.
    assert found["error"] < 1.05 * certain["error"]
    assert ("nll" in found) == (name in DENSITIES)
    assert "coverage" not in certain


@pytest.mark.parametrize("name", ["mixture", "generative_flow", "flow_map"])
def test_two_modes_are_more_than_a_gaussian_knows(name: str) -> None:
    gaussian, found = (learned("bimodal", other)[1]["energy_score"] for other in ("gaussian", name))
    assert found < 0.92 * gaussian
    model, _ = learned("bimodal", name)
    z, a = torch.zeros(1, 2), torch.full((1, 1), 0.8)
    noise = torch.randn(2000, 1, model.dynamics.noise_dim, generator=seeded(3))
    with torch.no_grad():
        after = model.dynamics.next(z.expand(2000, 1, 2), a.expand(2000, 1, 1), None, noise)[:, 0, 0]
    # 30 % near -0.8, 70 % near 0.8, next to nothing between; the best Gaussian has 38 % there.
    assert (after < 0).float().mean() == pytest.approx(0.3, abs=0.08)
    assert (after.abs() < 0.4).float().mean() < 0.2
    assert after.abs().median() == pytest.approx(0.8, abs=0.1)


def test_a_mixture_gives_two_modes_more_likelihood() -> None:
    gaussian, mixture = (learned("bimodal", name)[1]["nll"] for name in DENSITIES)
    assert mixture < gaussian - 1.0
    # Differential entropy per entry: a coin and a normal number, in the units of the changes.
    model, _ = learned("bimodal", "mixture")
    unit = model.dynamics.space.relative(torch.ones(2)).log().mean()
    coin = -(0.3 * torch.tensor(0.3).log() + 0.7 * torch.tensor(0.7).log())
    entropy = Normal(0.0, torch.tensor(0.05)).entropy() + unit + coin / 2
    assert mixture == pytest.approx(float(entropy), abs=0.15)


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.25, 1.0, 2.0])
def test_scores_of_a_known_distribution(spread: float) -> None:
    """The model says N(0, e^-1) for every change; real changes are spread ``spread`` times as much."""
    model = small_model("gaussian", obs_dim=8)
    for parameter in model.dynamics.parameters():
        torch.nn.init.zeros_(parameter)
    std = torch.exp(torch.tensor(-1.0))
    z, change = torch.randn(2, 4000, 8, generator=seeded(0)).unbind(0)
    no = torch.zeros(1, 4000)
    obs = torch.stack([z, z + model.dynamics.space.change(spread * std * change)])
    batch = Batch(obs, no[..., None], no, no.bool(), ~no.bool())
    found = forecast_scores(model, batch, seeded(1))
    # 19 samples lie below y with probability F(y)^19.
    real = spread * torch.randn(10**6, generator=seeded(3), dtype=torch.float64)
    coverage = 1 - 2 * torch.special.ndtr(real).pow(19).mean()
    assert found["coverage"] == pytest.approx(float(coverage), abs=0.01)
    expected = 0.5 * torch.tensor(2 * torch.pi).log() + std.log() + 0.5 * spread**2
    assert found["nll"] == pytest.approx(float(expected), abs=0.02)
    # |X - y| and |X - X'| of 8 entries are std * sqrt(1 + spread^2) and std * sqrt(2) times one chi mean.
    energy = ((1 + spread**2) ** 0.5 - 0.5 * 2**0.5) / spread
    assert found["energy_score"] == pytest.approx(energy, rel=0.02)


def test_padding_is_not_scored_and_certain_models_score_their_distance() -> None:
    model = small_model("residual")
    batch = transitions("bimodal", 100, seeded(0))
    predicted = model.next(batch.obs[0], batch.action[0]).detach()
    relative = model.dynamics.space.relative
    known = torch.arange(100) < 60
    spoiled = torch.where(known[:, None], batch.obs[1], 1e6)
    batch = batch._replace(obs=torch.stack([batch.obs[0], spoiled]), valid=known[None])
    error, change = (relative(batch.obs[1] - start).norm(dim=-1) for start in (predicted, batch.obs[0]))
    found = forecast_scores(model, batch, seeded(0))
    assert found == {"energy_score": pytest.approx(float(error[:60].sum() / change[:60].sum()))}


def test_densities_are_those_of_their_distributions() -> None:
    z, a, target = (torch.randn(5, 4, width, generator=seeded(width)) for width in (OBS, ACT, OBS))
    for name in DENSITIES:
        dynamics = small_model(name, OBS, ACT).dynamics
        change = dynamics.space.relative(target - z)
        if name == "gaussian":
            mean, log_std = dynamics.moments(z, a)
            expected: Any = Independent(Normal(mean, log_std.exp()), 1)
        else:
            log_weights, mean, log_std = dynamics.mixture(z, a)
            parts = Independent(Normal(mean, log_std.exp()), 1)
            expected = MixtureSameFamily(Categorical(logits=log_weights), parts)
        torch.testing.assert_close(dynamics.log_density(z, a, target), expected.log_prob(change))
        noise = torch.randn(20000, dynamics.noise_dim, generator=seeded(1))
        samples = dynamics.next(z[0, :1].expand(20000, -1), a[0, :1].expand(20000, -1), None, noise)
        found = dynamics.space.relative(samples - z[0, :1])
        torch.testing.assert_close(found.mean(0), expected.mean[0, 0], atol=0.03, rtol=0.0)
        torch.testing.assert_close(found.std(0), expected.stddev[0, 0], atol=0.03, rtol=0.0)


# --- the contract ---------------------------------------------------------------------------------


def dynamics_of(name: str, space: Observations | Simplices, task_dim: int = TASK) -> Dynamics:
    torch.manual_seed(0)
    module = load_dynamics(name)
    return module.build(module.Options(units=[16, 16]), space, ACT, task_dim)


def inputs(*shape: int, width: int = OBS) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(5)
    z, a, e = (torch.randn(*shape, size, generator=generator) for size in (width, ACT, TASK))
    return z, a, e


@pytest.mark.parametrize("name", ADDED)
def test_shapes_noise_and_gradients(name: str) -> None:
    dynamics = dynamics_of(name, Observations(OBS))
    for shape in [(4,), (3, 4)]:
        z, a, e = inputs(*shape)
        mean = dynamics.next(z, a, e)
        assert mean.shape == z.shape
        if dynamics.noise_dim:
            noise = torch.randn(*shape, dynamics.noise_dim, generator=seeded(1))
            sample = dynamics.next(z, a, e, noise)
            assert sample.shape == z.shape
            assert torch.equal(sample, dynamics.next(z, a, e, noise))
            assert (sample != mean).any(-1).all()
            assert (sample != dynamics.next(z, a, e, -noise)).any(-1).all()
    z, a, e = inputs(3, 4)
    target = torch.randn(3, 4, OBS, generator=seeded(2))
    draws = dynamics.draw((3, 4), z, seeded(3))
    source = z if dynamics.teacher_forced else z[:1]
    found = dynamics.loss(source, a, target, torch.ones(3, 4), e[0], draws)
    assert found.loss.shape == ()
    assert found.latents.shape == z.shape
    assert torch.equal(found.loss, dynamics.loss(source, a, target, torch.ones(3, 4), e[0], draws).loss)
    found.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in dynamics.parameters())


@pytest.mark.parametrize("name", ADDED)
def test_transitions_without_weight_count_for_nothing(name: str) -> None:
    dynamics = dynamics_of(name, Observations(OBS))
    z, a, e = inputs(1, 4)
    target, weights = torch.randn(1, 4, OBS, generator=seeded(2)), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    draws = dynamics.draw((1, 4), z, seeded(3))
    spoiled = target.clone()
    spoiled[:, 2:] = 7.0
    losses = [dynamics.loss(z, a, end, weights, e[0], draws).loss for end in (target, spoiled)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", ADDED)
def test_learned_latents_keep_their_groups_or_are_refused(name: str) -> None:
    space = Simplices(16, SimNorm(8, 8.0))
    if name in DENSITIES:
        with pytest.raises(ConfigError, match=f"alg.dynamics.name={name}.*needs alg.latents=observations"):
            dynamics_of(name, space)
        return
    dynamics = dynamics_of(name, space)
    z, a, e = inputs(5, width=16)
    z = space.simnorm(z)
    noise = (torch.randn(5, 16, generator=seeded(1)),) if dynamics.noise_dim else ()
    sums = dynamics.next(z, a, e, *noise).unflatten(-1, (2, 8)).sum(-1)
    torch.testing.assert_close(sums, torch.full((5, 2), 8.0), rtol=1e-4, atol=0.0)


def agent(name: str, *words: str) -> Agent:
    config = compose_config(["alg=pwm_small", f"dynamics={name}", "alg.dynamics.units=[16,16]", *words])
    torch.manual_seed(0)
    return Agent(config.alg, config.chosen, OBS, ACT, seeded(7))


@pytest.mark.parametrize("name", ADDED)
def test_imagination_samples_and_the_actor_gets_its_gradient(name: str) -> None:
    made = agent(name)
    learner, model = made.actor_critic, made.world_model
    z = torch.randn(4, OBS, generator=seeded(1))
    first, same, other = (learner.imagine(model, z, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.next_latents, same.next_latents)
    assert not torch.equal(first.next_latents[0], other.next_latents[0])
    mean = model.dynamics.next(first.latents[0], first.actions[0])
    assert torch.equal(first.next_latents[0], mean) == (model.dynamics.noise_dim == 0)
    # Through the dynamics alone: nothing else ties the last latent to the actor.
    parameters = list(made.actor.parameters())
    gradients = torch.autograd.grad(first.next_latents[-1].sum(), parameters, allow_unused=True)
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0


@pytest.mark.parametrize("name", ["mlp", "residual", "flow", "gated_flow"])
def test_certain_dynamics_draw_nothing_in_imagination(name: str) -> None:
    made = agent(name)
    used, alone = seeded(3), seeded(3)
    made.actor_critic.imagine(made.world_model, torch.zeros(4, OBS), generator=used)
    made.actor_critic.noise(made.actor_critic.objective.horizon, 4, generator=alone)
    assert torch.equal(used.get_state(), alone.get_state())


@pytest.mark.parametrize("name", ADDED)
def test_operations_are_counted(name: str) -> None:
    words = ["alg=pwm_small", "alg.dynamics.units=[256,256]"]
    found = epoch_flops(compose_config([*words, f"dynamics={name}"]), 11, 3)
    residual = epoch_flops(compose_config([*words, "dynamics=residual"]), 11, 3)
    assert all(found[phase] > 0.8 * residual[phase] for phase in ("world_model", "actor"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixture", {"components": 1}, r"alg\.dynamics\.components=1; it must be at least 2"),
        ("generative_flow", {"substeps": 0}, r"alg\.dynamics\.substeps=0; it must be at least 1"),
        ("generative_flow", {"integrator": "euclid"}, "'euclid'; choose one of: euler, heun, rk4"),
        ("generative_flow", {"noise_std": 0.0}, r"alg\.dynamics\.noise_std=0\.0; it must be positive"),
        ("flow_map", {"noise_std": float("inf")}, "must be positive and finite"),
        ("gated_flow", {"velocity_head": "tangent"}, r"alg\.dynamics\.velocity_head='tangent'.*linear"),
        ("gaussian", {"units": [0]}, r"alg\.dynamics\.units=\[0\]"),
    ],
)
def test_bad_options_name_the_key(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dynamics(name).Options(**options)
