"""Every shipped twin is as large as its baseline on every shipped task, and an unequal pair is caught."""

from __future__ import annotations

import functools
import re
import resource
import runpy
import sys
from pathlib import Path

import pytest
import torch
from tests.contracts.test_presets import ENVS, TWINS

from pwm.algorithm.agent import Agent
from pwm.analysis.cost.named_size import agent_parameters, explain_size, tdmpc2_parameters
from pwm.analysis.cost.parameter_parity import TOLERANCE, Parity, check_parity, task_sizes, with_units
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.errors import ConfigError
from pwm.launch.cli import main
from pwm.models.world_model import build_world_model

ROOT = Path(__file__).resolve().parents[2]
# Meta-World, whose package is an extra, has widths that nothing depends on.
TASKS = [(f"env={name}",) for name in ENVS if name not in ("gym", "metaworld")]
TASKS += [("env=gym", f"env.id={name}") for name in ("Pendulum-v1", "HalfCheetah-v5")]
ANT = (37, 8)
SMALL_PARTS = compose_config(["alg=pwm_small_h16"]).chosen


@functools.cache
def preset(name: str, *overrides: str) -> ExperimentConfig:
    return compose_config([f"alg={name}", *overrides])


@functools.cache
def sizes(task: tuple[str, ...]) -> tuple[int, int]:
    return task_sizes(compose_config(["alg=pwm_small_h16", *task]))


def check(baseline: str, candidate: str, *overrides: str) -> Parity:
    return check_parity(preset(baseline), preset(candidate, *overrides), *ANT)


@pytest.mark.parametrize("task", TASKS, ids=" ".join)
@pytest.mark.parametrize("name", TWINS)
def test_shipped_twin_passes_on_shipped_task(name: str, task: tuple[str, ...]) -> None:
    parity = check_parity(preset(TWINS[name]), preset(name), *sizes(task))
    assert parity.passed, parity.report()
    assert parity.units is None
    assert "PASS" in parity.report()


def test_sizes_come_from_the_environment() -> None:
    assert sizes(("env=dflex_ant",)) == ANT
    assert sizes(("env=gym", "env.id=Pendulum-v1")) == (3, 1)


@pytest.mark.parametrize("name", ["pwm_small_h16", "pwm_small_h16_flow", "pwm_small_h16_residual"])
def test_counts_are_those_of_a_real_model(name: str) -> None:
    config = preset(name)
    model = build_world_model(config.alg.world_model, config.chosen["dynamics"], *ANT)
    parity = check_parity(config, config, *ANT)
    assert parity.totals == (model.total_params, model.total_params)
    assert parity.difference == 0.0
    for part, net in (
        ("encoder", model.encoder),
        ("dynamics", model.dynamics),
        ("reward", model.reward_net),
        ("termination", model.termination_net),
    ):
        assert parity.baseline[part] == sum(p.numel() for p in net.parameters()), part


def test_task_embeddings_are_counted() -> None:
    config = preset("pwm_small_h16")
    # Online training, whose options these are, learns one task and refuses the value.
    config.alg.world_model.task_dim = 16
    parity = check_parity(config, config, *ANT, n_tasks=30)
    assert parity.baseline["task_embedding"] == 30 * 16
    assert (
        parity.totals[0]
        == build_world_model(config.alg.world_model, config.chosen["dynamics"], *ANT, 30).total_params
    )


@pytest.mark.parametrize(
    ("baseline", "candidate", "units"),
    [
        ("pwm_small_h16", "pwm_small_h16_flow", "[200,200]"),
        ("pwm_small_h16", "pwm_small_h16_flow", "[16,16]"),
        ("pwm_small_h16", "pwm_small_h16_residual", "[256,256]"),
        ("pwm_5M", "pwm_5M_flow", "[512]"),
        ("pwm_5M", "pwm_5M_flow", "[1024,256]"),
        ("pwm_48M", "pwm_48M_flow", "[2304,2304]"),
    ],
)
def test_unequal_pair_fails_and_the_printed_width_passes(baseline: str, candidate: str, units: str) -> None:
    unfair = check(baseline, candidate, f"alg.dynamics.units={units}")
    assert not unfair.passed
    assert "FAIL" in unfair.report()
    assert unfair.override is not None
    assert unfair.override in unfair.report()
    fair = check(baseline, candidate, unfair.override)
    assert fair.passed, fair.report()


@pytest.mark.parametrize("head", ["linear", "simnorm"])
def test_no_other_width_is_closer(head: str) -> None:
    """The solved width is the best of all, found here by trying every one."""
    candidate = preset("pwm_small_h16_flow", f"alg.velocity_head={head}", "alg.dynamics.units=[64,64]")
    solved = check_parity(preset("pwm_small_h16"), candidate, *ANT).units
    assert solved is not None

    def distance(width: int) -> float:
        pair = check_parity(preset("pwm_small_h16"), with_units(candidate, [width, width]), *ANT)
        return abs(pair.difference)

    best = min(range(100, 160), key=distance)
    assert solved == [best, best]


def test_proportions_of_the_baseline_are_kept() -> None:
    baseline = preset("pwm_small_h16", "alg.dynamics.units=[256,64]")
    parity = check_parity(baseline, preset("pwm_small_h16_flow", "alg.dynamics.units=[64,64]"), *ANT)
    assert parity.units is not None
    wide, narrow = parity.units
    assert abs(wide - 4 * narrow) <= 2


def test_tolerance_is_two_percent() -> None:
    assert TOLERANCE == 0.02
    assert Parity({"dynamics": 1000}, {"dynamics": 1020}, [], None).passed
    assert not Parity({"dynamics": 1000}, {"dynamics": 1021}, [], None).passed
    assert not Parity({"dynamics": 1000}, {"dynamics": 979}, [], None).passed


def test_a_change_elsewhere_fails_even_at_equal_totals() -> None:
    """Equal counts with another encoder are no twins, and no width of the dynamics mends it."""
    moved = check("pwm_small_h16", "pwm_small_h16_flow", "alg.reward_units=[128,129]")
    assert abs(moved.difference) < TOLERANCE
    assert not moved.passed
    assert moved.units is None
    assert "reward differs" in moved.report()
    swapped = check_parity(
        preset("pwm_small_h16", "alg.reward_units=[64,32]"),
        preset("pwm_small_h16", "alg.reward_units=[32,64]"),
        *ANT,
    )
    assert not swapped.passed


def test_a_pair_that_no_width_can_mend_says_so() -> None:
    linear = preset("pwm_small_h16", "alg.dynamics.units=[]")
    parity = check_parity(linear, preset("pwm_small_h16_flow"), *ANT)
    assert not parity.passed
    assert parity.units is None
    assert "no width" in parity.report()


def test_nothing_is_allocated() -> None:
    """The largest pair would need more than 100 MB a model; the peak of the process hardly moves."""
    preset("pwm_317M"), preset("pwm_317M_flow", "alg.dynamics.units=[8192,8192]")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert check("pwm_317M", "pwm_317M_flow", "alg.dynamics.units=[8192,8192]").totals[1] > 100e6
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # Kilobytes on Linux, bytes on macOS: a bound that both keep.
    assert grown < 50_000 * (1024 if sys.platform == "darwin" else 1)


@pytest.mark.parametrize(("obs_dim", "act_dim"), [(0, 1), (3, -1)])
def test_impossible_sizes_are_refused(obs_dim: int, act_dim: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        check_parity(preset("pwm_small_h16"), preset("pwm_small_h16_flow"), obs_dim, act_dim)


COMMAND = ["parity", "--baseline", "pwm_48M", "--candidate", "pwm_48M_flow"]
DIMS = ["--obs-dim", "55", "--act-dim", "8"]


def test_command_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, *DIMS, "--latent-dim", "512"]) == 0
    shown = capsys.readouterr().out
    assert "observations 55, actions 8, latents 512" in shown
    for word in ("encoder", "dynamics", "reward", "termination", "total", "PASS"):
        assert word in shown


@pytest.mark.parametrize(("name", "millions"), [("5M", 5.4), ("19M", 19.0), ("48M", 48.8), ("317M", 317.4)])
def test_the_size_in_a_name_is_that_of_tdmpc2s_agent(
    name: str, millions: float, capsys: pytest.CaptureFixture[str]
) -> None:
    config = preset(f"pwm_{name}")
    members = 8 if name == "317M" else 5
    theirs = tdmpc2_parameters(config, 39, 6, members, 96, 80)
    assert theirs / 1e6 == pytest.approx(millions, abs=0.05)
    assert abs(theirs / 1e6 / float(name.removesuffix("M")) - 1) < 0.09
    ours = Agent(preset("pwm_small_h16").alg, SMALL_PARTS, *ANT, torch.Generator())
    expected = sum(p.numel() for net in (ours.world_model, ours.actor, ours.critic) for p in net.parameters())
    assert agent_parameters(preset("pwm_small_h16"), *ANT) == expected
    assert main(["parity", "--baseline", f"pwm_{name}", "--candidate", f"pwm_{name}_flow", *DIMS]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{name} counts what the original counts")
    assert f"{millions} M parameters on its 80 tasks" in last
    assert f"has {agent_parameters(config, 55, 8) / 1e6:.1f} M" in last


def test_a_preset_without_a_size_in_its_name_is_not_explained() -> None:
    assert explain_size(preset("pwm_small_h16"), *ANT) is None


def test_command_takes_the_sizes_of_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--env", "gym", "env.id=HalfCheetah-v5"]) == 0
    assert "observations 17, actions 6" in capsys.readouterr().out


def test_command_fails_with_the_override_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "alg.dynamics.units=[512,512]", *DIMS]) == 1
    (override,) = [
        line.removeprefix("  parity at: ")
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("  parity at: ")
    ]
    assert main([*COMMAND, override, *DIMS]) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--obs-dim", "3"], "--act-dim"),
        ([*DIMS, "--env", "dflex_ant"], "not both"),
        (["--obs-dim", "0", "--act-dim", "8"], "obs_dim=0"),
        (["--candidate", "pwm_48M_flo", *DIMS], "pwm_48M_flo"),
        ([*DIMS, "--latent-dim", "20"], "latent_dim=20"),
    ],
)
def test_command_refuses_bad_input(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, *arguments]) == 2
    assert named in capsys.readouterr().err


def test_script_of_the_predecessor_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ROOT / "scripts" / "verify_param_parity.py"
    monkeypatch.setattr(sys, "argv", [str(script), *DIMS, "--latent-dim", "768"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert "PASS" in capsys.readouterr().out


def test_models_of_a_task_set_are_compared_with_their_task_table(capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["--baseline", "pwm_48M_multitask_baseline", "--candidate", "pwm_48M_multitask_flow_v1"]
    assert main(["parity", *pair, "--tasks", "mt30"]) == 0
    shown = capsys.readouterr().out
    assert "observations 24, actions 6" in shown
    # 30 tasks, 64 numbers each; 18.98 M is what TD-MPC2's model of this size has without actor and values.
    assert re.search(r"task_embedding +1,920 +1,920", shown)
    assert re.search(r"total +18,98\d,\d{3}", shown)
