"""Counted operations against those that PyTorch sees in real epochs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pwm.analysis.cost.operations import PHASES, epoch_flops, match_compute, warmup_flops
from pwm.configuration.building import build_agent, build_env
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.errors import ConfigError
from pwm.training.trainers.online.trainer import OnlineTrainer

# Widths that are all different, so that no product can stand in for another; a simulator without tensors.
SIZES = [
    "env=gym",
    "env.id=Pendulum-v1",
    "alg=pwm_small_h16",
    "alg.horizon=4",
    "alg.latent_dim=40",
    "alg.encoder_units=[24,28]",
    "alg.reward_units=[20,36]",
    "alg.termination_units=[12]",
    "alg.critic_units=[44,26]",
    "alg.num_critics=3",
    "alg.dynamics.units=[32,30]",
    "alg.actor.units=[22,18]",
    "alg.num_envs=6",
    "alg.actor_batch_size=10",
    "alg.wm_batch_size=14",
    "alg.wm_iterations=3",
    "alg.critic_iterations=2",
    "alg.critic_batches=3",
    "alg.actor_iterations=2",
    "alg.replay_starts=0.5",
    "alg.buffer_size=2000",
    "alg.warmup_env_steps=60",
    "alg.warmup_updates=2",
]
LOCKSTEP = [
    "alg.collect=lockstep",
    "alg.actor_iterations=1",
    "alg.replay_starts=0",
    "alg.open_loop_share=0",
]
# Every integrator and source, one and two substeps.
FLOWS = [
    ["dynamics=flow", f"alg.flow_integrator={name}", f"alg.flow_substeps={k}", f"alg.flow_source={source}"]
    for name, k, source in (("euler", 2, "teacher"), ("heun", 1, "rollout"), ("rk4", 1, "rollout"))
]
DYNAMICS = [["dynamics=mlp"], ["dynamics=residual"], *FLOWS]
VARIANTS = [
    ["alg.predict_termination=false", "alg.saturation_coef=0"],
    ["alg.reward_head.name=two_hot"],
    ["alg.target_rate=1.0", "alg.value_rms=false", "alg.activation_first=true"],
    ["alg.horizon=1", "dynamics=flow", "alg.flow_integrator=heun"],
    ["alg.wm_iterations=0"],
    ["alg.critic_units=[]", "alg.encoder_units=[]", "alg.actor.units=[]", "alg.dynamics.units=[]"],
    ["dynamics=flow", "alg.open_loop_share=0.5", "alg.flow_integrator=heun"],
    ["dynamics=flow", "alg.velocity_head=tangent"],
    ["actor=sac", "alg.entropy_target=-1"],
    ["actor=flow", "alg.entropy_target=-1", "alg.actor.integrator=heun"],
    ["dynamics=flow", "alg.velocity_head=simnorm"],
]
# FlopCounterMode sees every matrix product; vector products (the bins of two_hot) it leaves out, as we do.
TOLERANCE = 1e-9


def compose(*overrides: str) -> ExperimentConfig:
    """The small configuration with ``overrides``; of two values of one key the later one counts."""
    chosen = dict(override.split("=", 1) for override in [*SIZES, *overrides])
    return compose_config([f"{key}={value}" for key, value in chosen.items()])


class Measured:
    """One real epoch of training, its products counted by phase."""

    def __init__(self, config: ExperimentConfig) -> None:
        env = build_env(config, config.alg.num_envs, 0, torch.device("cpu"))
        self.sizes = (env.spec.obs_dim, env.spec.act_dim)
        self.trainer = OnlineTrainer(config.alg, env, build_agent(config, env.spec, torch.device("cpu")))
        self.flops = dict.fromkeys(("sim", "actor", "critic", "wm"), 0)
        with FlopCounterMode(display=False) as counter:
            self.trainer.warm_up()
            self.warmup = counter.get_total_flops()
        self.counter = FlopCounterMode(display=False)
        with self.counter:
            self.trainer.run_epoch(0.0, self.timer)
        self.total = self.counter.get_total_flops()

    @contextlib.contextmanager
    def timer(self, name: str) -> Iterator[None]:
        before = self.counter.get_total_flops()
        yield
        self.flops[name] += self.counter.get_total_flops() - before


@pytest.mark.parametrize("dynamics", DYNAMICS, ids=" ".join)
def test_counts_are_those_of_a_real_epoch(dynamics: list[str]) -> None:
    assert_right(compose(*dynamics))


@pytest.mark.parametrize("dynamics", [DYNAMICS[0], DYNAMICS[-1]], ids=" ".join)
def test_counts_are_those_of_a_real_epoch_in_lockstep(dynamics: list[str]) -> None:
    assert_right(compose(*dynamics, *LOCKSTEP))


@pytest.mark.parametrize("variant", VARIANTS, ids=" ".join)
def test_options_that_change_the_cost_are_counted(variant: list[str]) -> None:
    assert_right(compose(*variant))


@pytest.mark.parametrize(
    "variant", [["alg.predict_termination=false"], ["alg.horizon=1", "dynamics=flow"]], ids=" ".join
)
def test_they_are_in_lockstep(variant: list[str]) -> None:
    assert_right(compose(*variant, *LOCKSTEP))


def assert_right(config: ExperimentConfig) -> None:
    """Every phase, the total and the warm-up agree with a real epoch."""
    real = Measured(config)
    counted = epoch_flops(config, *real.sizes)
    assert set(counted) == {*PHASES, "total"}
    assert counted["world_model"] == pytest.approx(real.flops["wm"], rel=TOLERANCE)
    assert counted["critic"] == pytest.approx(real.flops["critic"], rel=TOLERANCE)
    rest = real.total - real.flops["wm"] - real.flops["critic"]
    if config.alg.collect == "closed_loop":
        assert counted["actor"] == pytest.approx(real.flops["actor"], rel=TOLERANCE)
        assert counted["interaction"] == pytest.approx(rest - real.flops["actor"], rel=TOLERANCE)
    else:
        # The environment answers inside the imagined rollout.
        assert counted["actor"] + counted["interaction"] == pytest.approx(rest, rel=TOLERANCE)
    assert counted["total"] == pytest.approx(real.total, rel=TOLERANCE)
    assert warmup_flops(config, *real.sizes) == pytest.approx(real.warmup, rel=TOLERANCE)


def test_shipped_pair_at_full_size() -> None:
    """What a reader can check by hand: Euler with one substep costs nearly what the MLP costs."""
    # Every part of an epoch is nearly proportional to the horizon, and so is the time to trace it.
    mlp, flow, heun = (
        epoch_flops(compose_config([*overrides, "alg.horizon=4"]), 37, 8)
        for overrides in (
            ["alg=pwm_48M"],
            ["alg=pwm_48M_flow", "alg.flow_integrator=euler", "alg.flow_substeps=1"],
            ["alg=pwm_48M_flow"],
        )
    )
    assert mlp["critic"] == flow["critic"] == heun["critic"]
    # Some of the environments act on imagined latents.
    assert mlp["interaction"] < flow["interaction"] < heun["interaction"]
    assert 1.0 < flow["total"] / mlp["total"] < 1.5
    assert 1.5 < heun["total"] / flow["total"] < 4.0


def test_matched_baseline_really_costs_as_much() -> None:
    baseline = compose()
    candidate = compose("dynamics=flow", "alg.flow_integrator=heun", "alg.flow_substeps=2")
    real = Measured(candidate)
    match = match_compute(baseline, candidate, *real.sizes)
    assert match.wm_iterations > baseline.alg.model_learning.wm_iterations
    assert match.overrides[0] == f"alg.wm_iterations={match.wm_iterations}"
    equal = Measured(compose(*match.overrides))
    # Whole updates cannot be closer than half of one.
    warmup, wanted = (warmup_flops(c, *real.sizes) for c in (compose(*match.overrides), candidate))
    assert abs(warmup - wanted) <= warmup / match.warmup_updates / 2
    assert wanted > warmup_flops(baseline, *real.sizes)
    assert equal.total == pytest.approx(match.matched, rel=TOLERANCE)
    assert match.mismatch == pytest.approx((equal.total - real.total) / real.total, abs=1e-9)
    # Nor can whole iterations.
    one = equal.flops["wm"] / match.wm_iterations
    assert abs(equal.total - real.total) <= one / 2
    assert Measured(baseline).total == pytest.approx(match.baseline, rel=TOLERANCE)


def test_equal_arms_need_no_more_iterations() -> None:
    config = compose()
    match = match_compute(config, config, 8, 2)
    assert (match.wm_iterations, match.mismatch) == (config.alg.model_learning.wm_iterations, 0.0)
    assert match.warmup_updates == config.alg.warmup_updates


def test_a_much_cheaper_candidate_leaves_a_mismatch() -> None:
    cheap = compose("alg.actor_iterations=1", "alg.wm_iterations=1")
    match = match_compute(compose(), cheap, 8, 2)
    assert match.wm_iterations == 1
    assert match.mismatch > 0.1


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="obs_dim=0"):
        epoch_flops(compose(), 0, 2)
