"""Training really learns: scored against the exact optimum of a linear-quadratic system."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pwm.checkpoints.policies import load_policy
from pwm.configuration.building import build_env
from pwm.configuration.config import compose_config
from pwm.envs.analytic import LqrEnv
from pwm.logging.loggers import read_metrics
from pwm.runs.run import train
from pwm.training.evaluation import evaluate, zero_policy

EPISODES = 256
HELD_OUT = 12_345
SIZES = [
    "env=analytic",
    "env.state_dim=2",
    "alg=pwm_small_h16",
    "alg.horizon=8",
    "alg.gamma=0.95",
    "alg.num_envs=16",
    "alg.latent_dim=32",
    "alg.encoder_units=[64]",
    "alg.reward_units=[64]",
    "alg.critic_units=[64,64]",
    "alg.dynamics.units=[64]",
    "alg.actor.units=[64]",
    "alg.buffer_size=50000",
    "alg.warmup_env_steps=6400",
    "alg.actor_lr=1e-3",
    "alg.critic_lr=1e-3",
    "alg.model_lr=1e-3",
    "alg.actor_iterations=4",
    "alg.critic_iterations=2",
    "alg.target_rate=0.05",
    "general.eval_every=50",
    "general.progress=false",
]
# Regressing whole next latents takes more updates than learning how they change.
DYNAMICS = {
    "flow": ["dynamics=flow", "alg.warmup_updates=400", "general.epochs=40"],
    "residual": ["dynamics=residual", "alg.warmup_updates=1000", "general.epochs=140"],
    "mlp": ["dynamics=mlp", "alg.warmup_updates=4000", "general.epochs=150"],
}


def optimality(policy: Path) -> float:
    """Return of a saved policy, 0 for doing nothing and 1 for the exact optimum."""
    device = torch.device("cpu")
    agent, config, _, _ = load_policy(policy, device)
    env = build_env(config, EPISODES, HELD_OUT, device)
    assert isinstance(env, LqrEnv)
    learned = evaluate(env, lambda obs: agent.act(obs, deterministic=True), EPISODES, HELD_OUT).mean
    nothing = evaluate(env, zero_policy(env.spec.act_dim), EPISODES, HELD_OUT).mean
    return (learned - nothing) / (env.optimal_return() - nothing)


@pytest.mark.parametrize(
    "dynamics",
    ["flow", pytest.param("residual", marks=pytest.mark.slow), pytest.param("mlp", marks=pytest.mark.slow)],
)
def test_reaches_the_optimum_of_a_linear_quadratic_system(dynamics: str, tmp_path: Path) -> None:
    overrides = [*SIZES, *DYNAMICS[dynamics], f"general.logdir={tmp_path}", "general.seed=1"]
    folder = train(compose_config(overrides)).folder
    assert optimality(folder / "final_policy.pt") >= 0.95


def evaluated_returns(logdir: Path, *overrides: str) -> list[float]:
    """Returns of all evaluations of a Gymnasium run with seed 1, in order."""
    fixed = ["env=gym", "general.progress=false", "general.seed=1", "general.threads=1"]
    folder = train(compose_config([*fixed, *overrides, f"general.logdir={logdir}"])).folder
    records = read_metrics(folder / "metrics.jsonl")
    return [r["eval/episode_return"] for r in records if "eval/episode_return" in r]


@pytest.mark.slow
@pytest.mark.parametrize("dynamics", ["flow", "residual"])
def test_recipe_swings_a_pendulum_up_and_keeps_it_there(dynamics: str, tmp_path: Path) -> None:
    """Guards the recipe of the presets: reaches what it should, and does not fall back."""
    returns = evaluated_returns(
        tmp_path,
        f"alg=pwm_small_h16_{dynamics}",
        "env.id=Pendulum-v1",
        "general.epochs=80",
        "general.eval_every=5",
    )
    # Doing nothing scores about -1190, a perfect policy about -120 on these episodes.
    assert returns[0] < -1000
    assert min(returns[-6:]) > -180


@pytest.mark.slow
def test_a_cheetah_runs_after_15_thousand_steps(tmp_path: Path) -> None:
    """What nobody reaches by luck: model-free agents earn some hundred there, a random policy -280."""
    returns = evaluated_returns(
        tmp_path,
        "alg=pwm_small_residual",
        "env.id=HalfCheetah-v5",
        "general.epochs=500",
        "general.eval_every=100",
    )
    assert returns[-1] > 4000
