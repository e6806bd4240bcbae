"""Moments, signal-to-noise ratio and bias of gradients against truths that are known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.end_to_end.tiny import LOCKSTEP, NETWORKS
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.gradient_moments import EPS, GradientMoments, to_db
from pwm.algorithm.gradient_quality import (
    GROUPS,
    MICRO_BATCHES,
    GradientBias,
    actor_gradient,
    actor_gradient_bias,
    gradient_bias,
    model_gradient,
    report,
    stretch_db,
)
from pwm.algorithm.losses import imagine
from pwm.analysis.model_quality.esnr import compute_esnr, compute_esnr_db
from pwm.configuration.building import build_agent, build_env
from pwm.configuration.config import compose_config
from pwm.data.batch import Batch
from pwm.errors import DataError
from pwm.logging.monitoring import PhaseTimer
from pwm.training.trainers.online.trainer import OnlineTrainer

CPU = torch.device("cpu")
SIZES = [
    "env=analytic",
    "alg.horizon=4",
    *NETWORKS,
    "alg.num_envs=4",
    "alg.actor_batch_size=8",
    "alg.wm_batch_size=8",
    "alg.buffer_size=2000",
    "alg.warmup_env_steps=80",
    "alg.warmup_updates=0",
]
DIM = 40


def moments_of(samples: Tensor) -> GradientMoments:
    """Moments of the rows of ``samples`` [M, D], given as gradients of two parameters."""
    moments = GradientMoments()
    for row in samples:
        moments.add([row[:4], row[4:].view(3, -1)])
    return moments


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Noisy:
    """Gradients of known mean and covariance: N(mean, diag(scale^2)), every call a new one.

    Args:
        mean, scale: [D].
        batch: samples averaged per call.
    """

    def __init__(self, mean: Tensor, scale: Tensor, batch: int, seed: int) -> None:
        self.mean, self.scale, self.batch = mean, scale, batch
        self.generator = generator(seed)

    def __call__(self) -> list[Tensor]:
        noise = torch.randn(len(self.mean), generator=self.generator, dtype=torch.float64)
        value = self.mean + self.scale * noise / math.sqrt(self.batch)
        return [value[:7], value[7:]]


# Uneven noise: half of it lies in one of the directions.
SCALE = torch.cat([torch.full((1,), math.sqrt(DIM - 1)), torch.ones(DIM - 1)]).double()
NOISE = float(SCALE.square().sum())


def direction(seed: int) -> Tensor:
    """A random unit vector [D]."""
    vector = torch.randn(DIM, generator=generator(seed), dtype=torch.float64)
    return vector / vector.norm()


# --- moments --------------------------------------------------------------------------------------


def test_streaming_moments_are_those_of_the_whole_matrix() -> None:
    samples = 0.3 + torch.randn(9, DIM, generator=generator(), dtype=torch.float64)
    moments, x = moments_of(samples), samples.numpy()
    assert moments.count == 9
    np.testing.assert_allclose(torch.cat([m.flatten() for m in moments.mean]), x.mean(0), rtol=1e-12)
    variance = x.var(0, ddof=1).sum()
    assert float(moments.variance) == pytest.approx(variance, rel=1e-12)
    assert float(moments.signal) == pytest.approx((x.mean(0) ** 2).sum() - variance / 9, rel=1e-12)
    assert float(moments.esnr) == pytest.approx((x.mean(0) ** 2).sum() / x.var(0).sum(), rel=1e-12)
    assert float(moments.esnr) == pytest.approx(float(compute_esnr(samples)), rel=1e-12)
    assert float(to_db(moments.esnr)) == pytest.approx(float(compute_esnr_db(samples)), rel=1e-12)


def test_a_strong_signal_does_not_hide_the_variance_in_float32() -> None:
    noise = torch.randn(16, 301, generator=generator())
    moments = moments_of(1e3 + noise)
    assert float(moments.variance) == pytest.approx(float(noise.double().var(0).sum()), rel=1e-3)


def test_given_gradients_are_neither_kept_nor_changed() -> None:
    moments, given = GradientMoments(), [torch.ones(3), torch.zeros(2)]
    moments.add(given)
    moments.add([torch.zeros(3), torch.ones(2)])
    assert given[0].tolist() == [1.0] * 3
    assert [m.tolist() for m in moments.mean] == [[0.5] * 3, [0.5] * 2]
    held = [t for value in vars(moments).values() for t in (value if isinstance(value, list) else [value])]
    assert sum(t.numel() for t in held if isinstance(t, Tensor)) == 5 + 1


def test_signal_and_variance_are_unbiased() -> None:
    mean, repeats = 3.0 * direction(1), 4000
    noise = torch.randn(repeats, MICRO_BATCHES, DIM, generator=generator(), dtype=torch.float64)
    found = [moments_of(mean + SCALE * block) for block in noise]
    for values, truth in (
        ([float(m.signal) for m in found], 3.0**2),
        ([float(m.variance) for m in found], NOISE),
    ):
        standard_error = np.std(values) / math.sqrt(repeats)
        assert abs(np.mean(values) - truth) < 4 * standard_error
        assert standard_error < 0.05 * truth


def test_ratio_of_a_known_signal_and_of_none() -> None:
    noise = torch.randn(MICRO_BATCHES, 40_000, generator=generator())
    nothing, known = moments_of(noise), moments_of(noise + 0.7)
    assert float(nothing.esnr) == pytest.approx(1 / (MICRO_BATCHES - 1), rel=0.03)
    assert float(nothing.esnr_unbiased) == pytest.approx(0.0, abs=0.01)
    assert float(known.esnr_unbiased) == pytest.approx(0.49, rel=0.05)
    measured = report(known)
    assert measured["esnr_db"] == pytest.approx(10 * math.log10(measured["esnr"] + EPS))
    assert measured["mean_grad_norm"] == pytest.approx(float(known.mean_square) ** 0.5, rel=1e-5)
    assert (measured["mean_grad_zeros"], measured["mean_grad_non_finite"]) == (0.0, 0.0)


# --- bias -----------------------------------------------------------------------------------------


def biased(shift: Tensor, factor: float, seed: int) -> GradientBias:
    """An estimate with mean ``factor * rho + shift`` against a reference with mean rho, |rho| = 2."""
    rho = 2.0 * direction(1)
    draw = Noisy(factor * rho + shift, SCALE, 1, seed)
    return gradient_bias(draw, Noisy(rho, SCALE, 64, seed + 10_000), batches=512)


@pytest.mark.parametrize("size", [0.0, 0.5, 1.5])
def test_known_bias_is_found_without_bias_of_its_own(size: float) -> None:
    results = [biased(size * direction(2), 1.0, seed) for seed in range(40)]
    truth = (size / 2.0) ** 2
    values = np.array([r.squared_bias for r in results])
    errors = np.array([r.squared_bias_se for r in results])
    # Dividing by an estimated length leaves a bias of the order of its squared relative error, here 1 %.
    assert abs(values.mean() - truth) < 3.5 * values.std() / math.sqrt(len(values)) + 0.02 * truth
    # The standard error is the spread of the results, or rather more, and covers the truth.
    assert 0.8 < errors.mean() / values.std() < 2.5
    assert np.mean(np.abs(values - truth) < 2 * errors) > 0.85
    assert np.mean([r.bias_bound >= size / 2.0 for r in results]) > 0.9
    assert np.mean([r.variance for r in results]) == pytest.approx(NOISE / 4.0, rel=0.05)
    assert np.mean([r.reference_norm for r in results]) == pytest.approx(2.0, rel=0.02)


def test_shrinking_is_bias_without_a_wrong_direction() -> None:
    results = [biased(torch.zeros(DIM).double(), 0.5, seed) for seed in range(20)]
    assert np.mean([r.bias for r in results]) == pytest.approx(0.5, rel=0.03)
    assert np.mean([r.direction for r in results]) == pytest.approx(1.0, abs=0.05)


def test_a_turned_gradient_has_the_known_direction_and_cosine() -> None:
    across = direction(2) - (direction(2) @ direction(1)) * direction(1)
    across = 2.0 * across / across.norm()
    results = [biased(across, 1.0, seed) for seed in range(20)]
    assert np.mean([r.direction for r in results]) == pytest.approx(math.sqrt(0.5), rel=0.03)
    # The mean cosine of a single gradient, from 200 000 of them.
    rho = 2.0 * direction(1)
    draws = rho + across + SCALE * torch.randn(200_000, DIM, generator=generator(), dtype=torch.float64)
    cosine = float(((draws @ rho) / draws.norm(dim=1)).mean() / 2.0)
    assert np.mean([r.cosine for r in results]) == pytest.approx(cosine, rel=0.05)


def test_bias_and_its_error_are_the_u_statistic_and_its_jackknife() -> None:
    draws, references = torch.randn(2, GROUPS, 5, dtype=torch.float64, generator=generator(0)) + 3.0
    given, compared = iter(draws), iter(references)
    found = gradient_bias(lambda: [next(given)], lambda: [next(compared)], batches=GROUPS)

    def pairs(vectors: Tensor) -> float:
        values = [float(a @ b) for i, a in enumerate(vectors) for j, b in enumerate(vectors) if i != j]
        return sum(values) / len(values)

    def ratio(kept: list[int]) -> float:
        return pairs((draws - references)[kept]) / pairs(references[kept])

    everything = list(range(GROUPS))
    assert found.squared_bias == pytest.approx(ratio(everything))
    without = [ratio([k for k in everything if k != left]) for left in everything]
    centre = sum(without) / GROUPS
    spread = sum((value - centre) ** 2 for value in without)
    assert found.squared_bias_se == pytest.approx(((GROUPS - 1) / GROUPS * spread) ** 0.5)
    assert found.reference_norm == pytest.approx(pairs(references) ** 0.5)


def test_the_bound_lies_two_standard_errors_above_the_squared_bias() -> None:
    found = GradientBias(0.01, 0.02, 1.0, 1.0, 1.0, 1.0)
    assert (found.bias, found.bias_bound) == (pytest.approx(0.1), pytest.approx(0.05**0.5))
    unseen = GradientBias(-0.03, 0.01, 1.0, 1.0, 1.0, 1.0)
    assert (unseen.bias, unseen.bias_bound) == (0.0, 0.0)


def test_a_reference_of_pure_noise_gives_no_number() -> None:
    nothing = torch.zeros(DIM).double()
    found = [gradient_bias(Noisy(nothing, SCALE, 1, s), Noisy(nothing, SCALE, 64, s + 99)) for s in range(8)]
    unknown = [result for result in found if math.isnan(result.reference_norm)]
    assert 1 <= len(unknown) < 8
    assert all(math.isnan(result.squared_bias) for result in unknown)


# --- a real agent ---------------------------------------------------------------------------------


def trainer_of(*changes: str) -> OnlineTrainer:
    """A trainer after one epoch."""
    config = compose_config([*SIZES, *changes])
    env = build_env(config, config.alg.num_envs, 0, CPU)
    trainer = OnlineTrainer(config.alg, env, build_agent(config, env.spec, CPU))
    trainer.warm_up()
    trainer.run_epoch(0.0, PhaseTimer())
    return trainer


def norm(gradient: tuple[Tensor, ...]) -> float:
    return float(torch.cat([part.flatten() for part in gradient]).norm())


@pytest.mark.parametrize("alg", ["pwm_small_h16", "pwm_small_h16_flow"])
def test_gradients_are_those_that_training_takes(alg: str) -> None:
    trainer = trainer_of(f"alg={alg}")
    agent = trainer.agent
    # Steps of no length leave the parameters where they are; the normaliser of returns moves before the step.
    for updater in agent.updaters.values():
        updater.decay_lr(1.0, 0.0)
    z = agent.world_model.encode(trainer.visited[:8]).detach()
    batch: Batch = trainer.replay.sample(8, generator(3))

    agent.generator.manual_seed(4)
    _, _, actor = agent.actor_critic.update_actor(agent.world_model, z)
    assert norm(actor_gradient(agent, z, generator(4))) == pytest.approx(float(actor["grad_norm"]), rel=1e-5)
    agent.generator.manual_seed(5)
    model = agent.model.update(batch)
    measured = norm(model_gradient(agent.model, batch, generator(5)))
    assert measured == pytest.approx(float(model["grad_norm"]), rel=1e-5)


def everything(trainer: OnlineTrainer) -> list[Tensor]:
    """All numbers that training continues from, gradients of the last updates and random streams included."""
    state = trainer.state_dict()
    agent, replay = state["agent"], trainer.replay.state_dict()
    tensors = [*agent["modules"].values(), agent["generator"], torch.get_rng_state(), *state["episodes"]]
    tensors += [state["obs"], state["visited"]]
    tensors += [
        p.grad
        for p in (q for net in trainer.networks.values() for q in net.parameters())
        if p.grad is not None
    ]
    for updater in agent["updaters"].values():
        tensors += [updater["skipped"], updater["skipped_in_row"]]
        tensors += [v for slot in updater["optimizer"]["state"].values() for v in slot.values()]
    return [t.clone() for t in [*tensors, *(v for v in replay.values() if isinstance(v, Tensor))]]


@pytest.mark.parametrize("collect", [[], LOCKSTEP], ids=["closed_loop", "lockstep"])
def test_measuring_changes_nothing_and_repeats_itself(collect: list[str]) -> None:
    trainer = trainer_of("alg=pwm_small_h16_flow", "alg.actor_iterations=1", *collect)
    before = everything(trainer)
    passed: list[int] = []
    first = trainer.gradient_quality(lambda: passed.append(1))
    assert trainer.gradient_quality() == first
    assert len(passed) == 2 * MICRO_BATCHES
    after = everything(trainer)
    assert len(before) == len(after) > 50
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(math.isfinite(value) for value in first.values())
    assert first["wm/esnr"] > 0 < first["actor/esnr"]
    assert -100 < first["wm/stretch_db"] < 100


def test_stretch_is_that_of_the_whole_jacobian() -> None:
    agent = trainer_of("alg=pwm_small").agent
    z = torch.randn(200, agent.world_model.latent_dim, generator=generator(1))

    def end(start: Tensor) -> Tensor:
        return imagine(agent.world_model, agent.policy, start, None, 4).next_latents[-1]

    # Rows do not meet, so the Jacobian of the sum over rows holds that of every row.
    jacobian = torch.autograd.functional.jacobian(lambda start: end(start).sum(0), z).transpose(0, 1)
    exact = 10 * torch.log10(jacobian.square().sum((1, 2)) / z.shape[-1])
    assert float(stretch_db(agent, z, generator(2))) == pytest.approx(float(exact.mean()), abs=0.3)


def start_states(agent: Agent, trainer: OnlineTrainer) -> Tensor:
    return trainer.replay.sample(64, generator(7)).obs[0]


def test_gradient_of_a_large_batch_is_the_mean_over_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of("alg=pwm_small_h16")
    agent = trainer.agent
    z = agent.world_model.encode(start_states(agent, trainer)).detach()
    noise = agent.actor_critic.noise(4, 64, generator=generator(8))
    whole, parts = None, []
    for part in (slice(None), slice(0, 32), slice(32, 64)):
        monkeypatch.setattr(agent.actor_critic, "noise", lambda *_, part=part, **__: noise[:, part])
        found = actor_gradient(agent, z[part], generator())
        whole, parts = (found, parts) if whole is None else (whole, [*parts, found])
    for expected, one, other in zip(whole or (), *parts, strict=True):
        torch.testing.assert_close(expected, (one + other) / 2, rtol=1e-4, atol=1e-6)


def test_only_clipping_biases_the_actors_gradient() -> None:
    trainer = trainer_of("alg=pwm_small_h16")
    agent = trainer.agent
    obs = start_states(agent, trainer)
    before = everything(trainer)

    def measured(clip: float, clipped: bool) -> GradientBias:
        agent.actor_critic.options.actor_grad_norm = clip
        return actor_gradient_bias(agent, obs, 8, generator(9), clipped, batches=32)

    plain = measured(1.0, clipped=False)
    assert abs(plain.squared_bias) < 3 * plain.squared_bias_se
    assert plain.bias_bound < 0.5
    assert plain.direction == pytest.approx(1.0, abs=0.1)
    assert 0 < plain.cosine < 1.1
    # A clip that nothing reaches changes nothing; one far below every gradient takes nearly all of it.
    assert measured(1e9, clipped=True) == plain
    short = measured(1e-3 * plain.reference_norm, clipped=True)
    assert short.bias == pytest.approx(1.0, abs=0.01)
    assert short.direction > 0.8
    assert short.variance < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(before, everything(trainer), strict=True))


@pytest.mark.parametrize(("states", "size", "batches"), [(0, 8, 8), (4, 0, 8), (4, 8, 0)])
def test_nothing_to_measure_is_refused(states: int, size: int, batches: int) -> None:
    trainer = trainer_of("alg=pwm_small_h16")
    with pytest.raises(DataError, match="of size 0"):
        actor_gradient_bias(trainer.agent, trainer.obs[:states], size, generator(), batches=batches)
