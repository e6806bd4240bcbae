"""Every mistake a user can make ends with exit code 2, one clear message, and no run folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.end_to_end.tiny import ANALYTIC, FLOW, HOPPER, contents, only_run, overrides, train, trained

from pwm.launch.cli import main

# Overrides -> what the message must name: the key, the value, and what is allowed.
BAD_OVERRIDES: dict[str, tuple[list[str], list[str]]] = {
    "unknown key": (["alg.actor_lrr=1"], ["alg.actor_lrr", "did you mean alg.actor_lr?", "allowed here"]),
    "unknown general key": (["general.sede=1"], ["general.sede", "did you mean general.seed?"]),
    "unknown env key": (["env.episode_lenght=5"], ["env.episode_lenght", "env.episode_length?"]),
    "unknown section": (["agent.lr=1"], ["agent", "general, env, alg"]),
    "key of another dynamics": (
        ["alg.dynamics.substeps=2"],
        ["alg.dynamics.substeps is there for flow and gated_flow and generative_flow only"],
    ),
    "wrong type": (["alg.num_envs=many"], ["alg.num_envs", "'many'", "Integer"]),
    "fraction for an integer": (["general.seed=1.5"], ["general.seed", "1.5", "Integer"]),
    "null where a number is needed": (["alg.actor_lr=null"], ["alg.actor_lr", "None"]),
    "too large": (["alg.gamma=1.5"], ["alg.gamma=1.5", "[0, 1]"]),
    "too small": (["general.eval_runs=0"], ["general.eval_runs=0", "at least 1"]),
    "negative seed": (["general.seed=-1"], ["general.seed=-1", "at least 0"]),
    "huge seed": (["general.seed=18446744073709551616"], ["general.seed=18446744073709551616", "2**64"]),
    "no epochs": (["general.epochs=0"], ["general.epochs=0", "at least 1"]),
    "no horizon": (["alg.horizon=0"], ["alg.horizon=0", "at least 1"]),
    "no critic updates": (["alg.critic_iterations=0"], ["alg.critic_iterations=0", "at least 1"]),
    "negative learning rate": (["alg.actor_lr=-1"], ["alg.actor_lr=-1", "positive"]),
    "no gradient clip": (["alg.wm_grad_norm=0"], ["alg.wm_grad_norm=0", "positive"]),
    "one Adam rate": (["alg.adam_betas=[0.9]"], ["alg.adam_betas=[0.9]", "two"]),
    "no width": (["alg.encoder_units=[0]"], ["units=[0]", "at least 1"]),
    "latent does not fit simnorm": (["alg.latent_dim=20"], ["latent_dim=20", "simnorm_dim=8", "multiple"]),
    "buffer too small": (["alg.buffer_size=10"], ["alg.buffer_size=10", "num_envs", "24"]),
    "warm-up too short": (
        ["alg.warmup_env_steps=8"],
        ["alg.warmup_env_steps=8", "alg.warmup_updates=2", "at least", "20"],
    ),
    "too few start states": (
        ["alg.actor_batch_size=40", "alg.replay_starts=0.5"],
        [
            "alg.actor_batch_size=40",
            "alg.replay_starts=0.5",
            "20 states",
            "num_envs * horizon = 16",
            "alg.replay_starts to 0.6",
        ],
    ),
    "several tasks": (["alg.task_dim=8"], ["alg.task_dim=8", "must be 0"]),
    "lockstep with many actor updates": (
        ["alg.collect=lockstep", "alg.actor_iterations=2"],
        ["alg.actor_iterations=2", "closed_loop"],
    ),
    "lockstep with open-loop environments": (
        ["alg.collect=lockstep", "alg.actor_iterations=1", "alg.replay_starts=0", "alg.open_loop_share=0.5"],
        ["alg.open_loop_share=0.5", "alg.open_loop_share=0,", "closed_loop"],
    ),
    "lockstep with replayed starts": (
        ["alg.collect=lockstep", "alg.actor_iterations=1", "alg.replay_starts=0.25", "alg.open_loop_share=0"],
        ["alg.replay_starts=0.25", "closed_loop"],
    ),
    "fewer than no world-model updates": (["alg.wm_iterations=-3"], ["alg.wm_iterations=-3", "negative"]),
    "more than all environments": (["alg.open_loop_share=2"], ["alg.open_loop_share=2", "[0, 1]"]),
    "leaning to old data": (["alg.replay_recency=0.5"], ["alg.replay_recency=0.5", "at least 1"]),
    "unknown collect mode": (["alg.collect=open"], ["alg.collect='open'", "closed_loop, lockstep"]),
    "unknown resume mode": (["general.resume=maybe"], ["general.resume='maybe'", "auto, never, force"]),
    "unknown env": (["env=dflex_hoper"], ["env/dflex_hoper", "dflex_hopper", "gym"]),
    "unknown task": (["env=dflex_hopper", "env.task=hoper"], ["env.task='hoper'", "hopper", "humanoid"]),
    "unknown gym id": (["env=gym", "env.id=Pendulom-v1"], ["Pendulom"]),
    "unknown alg": (["alg=pwm_smal"], ["alg/pwm_smal", "pwm_small", "pwm_48M_flow"]),
    "unknown dynamics": (["dynamics=mpl"], ["dynamics/mpl", "flow", "mlp", "residual"]),
    "unknown actor": (["actor=gausian"], ["actor/gausian", "gaussian"]),
    "unknown integrator": ([*FLOW, "alg.flow_integrator=rk5"], ["integrator='rk5'", "euler, heun, rk4"]),
    "no substeps": ([*FLOW, "alg.flow_substeps=0"], ["substeps=0", "at least 1"]),
    "unknown flow source": (
        [*FLOW, "alg.flow_source=student"],
        ["flow_source='student'", "rollout, teacher"],
    ),
    "unknown wandb key": (["wandb.projet=x"], ["wandb.projet", "did you mean wandb.project?"]),
    "unknown wandb mode": (["wandb.mode=on"], ["wandb.mode='on'", "online, offline, disabled"]),
    "wandb project that W&B refuses": (["wandb.project=a/b"], ["wandb.project='a/b'", "/"]),
    "wandb is a group": (["wandb=offline"], ["wandb='offline'", "wandb.<key>"]),
    "unknown device": (["general.device=gpu"], ["general.device='gpu'"]),
    "missing checkpoint": (["general.checkpoint=nowhere.pt"], ["nowhere.pt", "does not exist"]),
    "a folder as checkpoint": (["general.checkpoint=."], [". has no best_policy.pt", "no checkpoints"]),
}


def the_message(capsys: pytest.CaptureFixture[str]) -> str:
    """The only message of a failed command."""
    shown = capsys.readouterr().err
    assert shown.startswith("pwm: ")
    assert shown.count("pwm: ") == 1
    assert "Traceback" not in shown
    return shown


@pytest.fixture(scope="module")
def hopper_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished run on hopper."""
    return trained(tmp_path_factory.mktemp("hopper"), *HOPPER, "general.epochs=1")


@pytest.mark.parametrize("name", BAD_OVERRIDES)
def test_bad_override(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, expected = BAD_OVERRIDES[name]
    base = ANALYTIC if not any(change.startswith("env=") for change in changes) else []
    assert train(tmp_path / "logs", *base, *changes) == 2
    message = the_message(capsys)
    absent = [part for part in expected if part not in message]
    assert not absent, message
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("override", ["general.seed", "alg.reward_units=[1,", "=3", "env=[a", "seed 3"])
def test_malformed_override(override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *overrides(tmp_path / "logs", *ANALYTIC), override]) == 2
    message = the_message(capsys)
    assert override.split("=")[-1] in message
    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is available here")
def test_unavailable_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "logs", *ANALYTIC, "general.device=cuda") == 2
    assert "general.device='cuda' cannot be used here" in the_message(capsys)
    assert not (tmp_path / "logs").exists()


def test_checkpoint_of_another_task(
    hopper_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = hopper_run / "final_policy.pt"
    changes = ["env=dflex_ant", "env.num_threads=1", f"general.checkpoint={policy}"]
    assert train(tmp_path / "logs", *changes) == 2
    message = the_message(capsys)
    assert str(policy) in message
    assert "'dflex_hopper'" in message
    assert "'dflex_ant'" in message
    assert not (tmp_path / "logs").exists()


def test_checkpoint_of_other_sizes(
    hopper_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = hopper_run / "final_policy.pt"
    changes = [*HOPPER, "alg.latent_dim=24", f"general.checkpoint={policy}"]
    assert train(tmp_path / "logs", *changes) == 2
    message = the_message(capsys)
    assert "does not fit this configuration" in message
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99], ids=["empty", "half", "almost whole"])
def test_truncated_checkpoint(
    kept: float, hopper_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (hopper_run / "final_policy.pt").read_bytes()
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(content[: int(kept * len(content))])
    assert train(tmp_path / "logs", *HOPPER, f"general.checkpoint={damaged}") == 2
    message = the_message(capsys)
    assert f"{damaged} cannot be read" in message
    assert not (tmp_path / "logs").exists()
    assert main(["evaluate", str(damaged)]) == 2
    assert f"{damaged} cannot be read" in the_message(capsys)


def test_training_state_is_no_policy(hopper_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(hopper_run / "latest.pt")]) == 2
    message = the_message(capsys)
    assert "flow-pwm/state" in message
    assert "flow-pwm/policy" in message


class Stranger:
    """An object whose class no checkpoint may name."""


FOREIGN = {
    "an object": {"format": "flow-pwm/policy", "version": 1, "config": Stranger()},
    "a network": torch.nn.Linear(2, 2),
    "a class": {"format": "flow-pwm/policy", "version": 1, "config": Stranger},
    "half a policy": {"format": "flow-pwm/policy", "version": 1, "config": {}},
    "numbers": {"weight": torch.zeros(2)},
    "a list": [1, 2],
    "a program": None,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_a_foreign_file_is_refused_without_advice_to_trust_it(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "foreign.pt"
    if name == "a program":
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(path)
    else:
        torch.save(FOREIGN[name], path)
    if command == "train":
        assert train(tmp_path / "logs", *ANALYTIC, f"general.checkpoint={path}") == 2
    else:
        assert main(["evaluate", str(path)]) == 2
    message = the_message(capsys)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    assert "weights_only" not in message
    assert "trust" not in message


def test_damaged_state_leaves_the_run_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, *ANALYTIC, "general.epochs=1") == 0
    folder = only_run(tmp_path)
    state = folder / "latest.pt"
    state.write_bytes(state.read_bytes()[:1000])
    before = contents(folder)
    capsys.readouterr()
    assert train(tmp_path, *ANALYTIC, "general.epochs=2") == 2
    assert f"{state} cannot be read" in the_message(capsys)
    assert contents(folder) == before


def test_evaluate_refuses_another_task(hopper_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(hopper_run), "--task", "dflex_ant"]) == 2
    message = the_message(capsys)
    assert "'dflex_hopper'" in message
    assert "'dflex_ant'" in message
    assert not list(hopper_run.glob("evaluation_*.json"))


def test_evaluate_needs_a_policy(
    hopper_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, absent = tmp_path / "empty", tmp_path / "absent"
    empty.mkdir()
    assert main(["evaluate", str(empty)]) == 2
    message = the_message(capsys)
    assert f"{empty} has no best_policy.pt" in message
    assert "no checkpoints" in message
    # The good run before it must not be evaluated for nothing.
    assert main(["evaluate", str(hopper_run), str(absent)]) == 2
    message = the_message(capsys)
    assert str(absent) in message
    assert "no such folder" in message
    assert not list(hopper_run.glob("evaluation_*.json"))


@pytest.mark.parametrize("arguments", [["--episodes", "0"], ["--device", "gpu"]], ids=str)
def test_evaluate_checks_its_options(
    arguments: list[str], hopper_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(hopper_run), *arguments]) == 2
    assert arguments[0].strip("-") in the_message(capsys)


@pytest.mark.parametrize(
    "arguments", [[], ["trian"], ["evaluate", "x", "--sead", "1"], ["compare", "--measure", "worst"]]
)
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: pwm" in capsys.readouterr().err


def test_unknown_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "speed"]) == 2
    message = the_message(capsys)
    assert "'speed'" in message
    assert "env, replay, epoch, import, logging" in message


def test_benchmarks_need_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pwm.launch.bench.FOLDER", tmp_path / "benchmarks")
    assert main(["bench", "import"]) == 2
    assert "source checkout" in the_message(capsys)
