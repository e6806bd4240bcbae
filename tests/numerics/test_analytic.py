"""The linear-quadratic environment's exact optimum."""

from __future__ import annotations

import pytest
import torch

from pwm.envs import analytic
from pwm.errors import ConfigError


def average_return(env: analytic.LqrEnv, kind: str) -> tuple[float, float]:
    """Return mean and standard error of the undiscounted episode return of a simple policy."""
    env.reset(seed=0)
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros(env.num_envs)
    for _ in range(env.spec.episode_length):
        if kind == "optimal":
            action = env.optimal_action()
        elif kind == "zero":
            action = torch.zeros(env.num_envs, env.spec.act_dim)
        else:
            action = torch.rand(env.num_envs, env.spec.act_dim, generator=generator) * 2 - 1
        result = env.step(action)
        total += result.reward
    assert bool(result.truncated.all())
    return float(total.mean()), float(total.std() / env.num_envs**0.5)


def make(num_envs: int = 4096, **changes: int) -> analytic.LqrEnv:
    env = analytic.build(analytic.Options(**changes), num_envs, "cpu", seed=0)
    assert isinstance(env, analytic.LqrEnv)
    return env


@pytest.mark.parametrize(("state_dim", "episode_length"), [(4, 100), (2, 7), (8, 50)])
def test_optimal_return_is_what_the_optimal_feedback_earns(state_dim: int, episode_length: int) -> None:
    env = make(state_dim=state_dim, episode_length=episode_length)
    mean, error = average_return(env, "optimal")
    assert abs(mean - env.optimal_return()) < 4 * error
    assert error < 0.2


def test_optimal_value_is_exact_for_one_start() -> None:
    env = make(num_envs=1)
    start = env.reset(seed=5)[0].double()
    total = sum(float(env.step(env.optimal_action()).reward) for _ in range(100))
    assert total == pytest.approx(100 - float(start @ env.cost_to_go[0] @ start), abs=1e-3)


def test_doing_nothing_and_random_actions_score_clearly_lower() -> None:
    env = make(num_envs=1024)
    zero, _ = average_return(env, "zero")
    random, _ = average_return(env, "random")
    assert env.optimal_return() - zero > 200
    assert random < zero


def test_perturbed_feedback_is_worse() -> None:
    env = make(num_envs=512)
    best, _ = average_return(env, "optimal")
    for factor in (0.7, 1.3):
        other = make(num_envs=512)
        other.gains = other.gains * factor
        assert average_return(other, "optimal")[0] < best


def test_optimal_actions_never_saturate() -> None:
    env = make(num_envs=4096)
    largest = analytic.largest_optimal_action(env.A, env.B, env.gains, analytic.LQR_START)
    env.reset(seed=2)
    seen = 0.0
    for _ in range(env.spec.episode_length - 1):
        action = env.optimal_action()
        seen = max(seen, float(action.abs().max()))
        env.step(action)
    assert seen <= largest < 1.0


def test_saturating_optimum_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "LQR_START", 5.0)
    with pytest.raises(ConfigError, match="optimal action"):
        make(num_envs=1)


def test_riccati_matches_the_scalar_solution() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    gains, costs = analytic.riccati(one, one, one, one, 3)
    # x' = x + u, q = r = 1: P = 0, 1, 3/2, 8/5 counted from the end.
    assert costs.flatten().tolist() == pytest.approx([1.6, 1.5, 1.0, 0.0])
    assert gains.flatten().tolist() == pytest.approx([0.6, 0.5, 0.0])
