"""What is typed arrives as typed, and what belongs to other programs gets one message with our form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.end_to_end.test_cli_errors import the_message
from tests.end_to_end.tiny import ANALYTIC, metrics, train

import pwm
from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.analysis.tables.runs import load_runs
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.launch.cli import UNREAD, main

# A folder whose name holds what shells, YAML, Hydra, Git, glob and printf read as something else.
AWKWARD = "my runs #1 [a=b] {c, d} $HOME ${x ${y} 100%d 'é' \"ü\" a:b \\ ! & ; ~x"


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"flow-pwm {pwm.__version__}\n"


def test_output_that_nobody_reads_any_more_ends_the_command_quietly() -> None:
    command = [sys.executable, "-m", "pwm.launch.cli", "train", "--print-config"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == UNREAD
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_a_command_works_without_an_output() -> None:
    command = [
        "sh",
        "-c",
        'exec "$@" >&-',
        "sh",
        sys.executable,
        "-m",
        "pwm.launch.cli",
        "train",
        "--print-config",
    ]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_fills_the_disk_gets_one_message() -> None:
    command = [sys.executable, "-m", "pwm.launch.cli", "train", "--print-config"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"pwm: No space left on device\n")


def test_a_run_lives_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is trained, continued, started from, drawn and evaluated there."""
    monkeypatch.setattr(TrainingVisualizer, "generate_all_plots", TrainingVisualizer.plot_learning_curves)
    monkeypatch.chdir(tmp_path)
    changes = [*ANALYTIC, "general.name=2024_05_01", "general.epochs=1"]
    assert train(Path(AWKWARD), *changes) == 0
    run = Path(AWKWARD) / "analytic_lqr" / "2024_05_01" / "seed42"
    assert yaml.safe_load((run / "config.yaml").read_text())["general"]["logdir"] == AWKWARD
    assert ExperimentConfig.load(run / "config.yaml").general.name == "2024_05_01"
    assert train(Path(AWKWARD), *changes) == 0
    assert train(Path(AWKWARD), *changes[:-1], "general.epochs=2") == 0
    assert len(metrics(run)) == 3
    start = ["general.name=second", f"general.checkpoint={run / 'final_policy.pt'}"]
    assert train(Path(AWKWARD), *ANALYTIC, "general.epochs=1", *start) == 0
    capsys.readouterr()
    for given in (str(run), AWKWARD, f"{run}/best_policy.pt"):
        assert main(["evaluate", given, "--episodes", "1"]) == 0
        assert "2024_05_01" in capsys.readouterr().out
    assert main(["diff", str(run), str(run)]) == 0
    assert len(load_runs([AWKWARD]).runs) == 2


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train(Path("~/logs"), *ANALYTIC, "general.epochs=1") == 0
    assert main(["evaluate", "~/logs/*/*/seed42", "--episodes", "1"]) == 0
    assert (tmp_path / "logs" / "analytic_lqr" / "pwm_small_h16" / "seed42" / "final_policy.pt").is_file()


@pytest.mark.parametrize("value", ["1e5", "007", "null", "true", "on", "2024-05-01", "1_000", "12.50"])
def test_names_arrive_as_typed(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--print-config", f"general.name={value}"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["general"]["name"] == value


def test_text_that_looks_like_nothing_is_warned_of() -> None:
    with pytest.warns(
        RuntimeWarning, match=r"wandb.group=null is the text 'null'; wandb.group= leaves it out"
    ):
        assert compose_config(["wandb.group=null"]).wandb.group == "null"
    assert compose_config(["wandb.group=", "general.epochs=null", "env.episode_length=None"]).epochs == 4750


@pytest.mark.parametrize("name", ["a b", "a/b", "..", "-x", "a:b", "'", "[a]", "e\u0301"])
def test_names_that_are_no_folders_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"general.name={name}"]) == 2
    assert "letters, digits" in the_message(capsys)


def test_arguments_of_environments_keep_their_types(capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = ["env.kwargs.file=a b #1.xml", "env.kwargs={n: 3, x: 1e-3, on: true, t: '007', l: [1, a]}"]
    assert main(["train", "--print-config", "env=gym", *kwargs]) == 0
    found = yaml.safe_load(capsys.readouterr().out)["env"]["kwargs"]
    assert found == {"file": "a b #1.xml", "n": 3, "x": 1e-3, "on": True, "t": "007", "l": [1, "a"]}


# Arguments after `pwm` -> what the only message must name.
FOREIGN = {
    "a sweep of seeds": (["train", "seed=1,2,3"], ["seed=1,2,3", "pwm experiment", "seeds=[1,2,3]"]),
    "a sweep of another number": (["train", "alg.gamma=0.9,0.99"], ["alg.gamma=0.9,0.99", "arms.a"]),
    "a sweep of a truth value": (["train", "alg.rew_rms=true,false"], ["pwm experiment"]),
    "a range": (["train", "general.seed=range(1,5)"], ["range(1,5)", "seeds=[1,2,3]"]),
    "a sweep of tasks": (["train", "env=dflex_ant,dflex_hopper"], ["'tasks=[dflex_ant, dflex_hopper]'"]),
    "a sweep of presets": (["train", "alg=pwm_5M,pwm_48M"], ["alg=pwm_5M,pwm_48M", "pwm experiment"]),
    "a sweep of dynamics": (["train", "dynamics=mlp,flow"], ["pwm experiment"]),
    "seeds in one run": (["train", "seeds=[1,2]"], ["seeds", "pwm experiment"]),
    "tasks in one run": (["train", "tasks=[a]"], ["tasks", "pwm experiment"]),
    "-m": (["train", "-m", "seed=1,2"], ["-m", "Hydra", "pwm experiment"]),
    "-m at the end": (["train", "seed=1", "-m"], ["-m", "pwm experiment"]),
    "--multirun": (["train", "--multirun", "seed=1,2"], ["--multirun", "pwm experiment"]),
    "--config-name": (["train", "--config-name", "config_mt30"], ["--config-name", "env=NAME", "alg=NAME"]),
    "--config-name=": (["train", "--config-name=config_mt30"], ["--config-name", "alg=NAME"]),
    "-cn": (["train", "-cn", "config_mt30"], ["-cn", "alg=NAME"]),
    "--cfg": (["train", "--cfg", "job"], ["--cfg", "--print-config"]),
    "hydra.run.dir": (["train", "hydra.run.dir=x"], ["hydra.run.dir=x", "general.logdir"]),
    "hydra.sweep.dir": (["train", "hydra.sweep.dir=x"], ["seeds=[1,2,3]"]),
    "hydra/launcher": (["train", "hydra/launcher=joblib"], ["--jobs", "launch=slurm"]),
    "a task as a preset": (["train", "env=gym_Pendulum-v1"], ["a task of gym is written env=gym"]),
    "+hydra.verbose": (["train", "+hydra.verbose=true"], ["Hydra"]),
    "--key=value": (["train", "--general.seed=3"], ["--general.seed=3", ": general.seed=3"]),
    "--key value": (["train", "--general.seed", "3"], [": general.seed=3"]),
    "-key value": (["train", "-seed", "3", "env=analytic"], [": seed=3"]),
    "-key=value": (["train", "-general.seed=3"], [": general.seed=3"]),
    "key value": (["train", "general.seed", "3"], ["'general.seed'", "general.seed=3"]),
    "key = value": (["train", "general.seed", "=", "3"], ["'general.seed'", "general.seed=3"]),
    "a lone dash": (["train", "-"], ["key=value"]),
    "no key": (["train", "=3"], ["'=3'"]),
    "~key": (["train", "~alg.gamma=1"], ["no key can be taken away"]),
    "bytes": (["train", "general.logdir=\udcff"], ["no text (UTF-8)"]),
    "two values": (["train", "seed=1", "general.seed=2"], ["seed=1 and general.seed=2 contradict"]),
    "two tasks": (["train", "general=dflex_ant", "env=dflex_hopper"], ["contradict each other"]),
    "flow and not": (["train", "alg.use_flow_dynamics=true", "dynamics=mlp"], ["contradict each other"]),
    "flow or what": (["train", "alg.use_flow_dynamics=maybe"], ["maybe", "true", "false"]),
    "general is no task": (["train", "general=dflex_cat"], ["did you mean dflex_ant?", "general.<key>"]),
    "a group of a value": (["train", "general.seed.x=1"], ["general.seed is a value"]),
    "only the last name": (["train", "epochs=3"], ["epochs", "did you mean general.epochs?"]),
    "another's group": (["train", "general.gamma=0.9"], ["general.gamma", "did you mean alg.gamma?"]),
    "a list without brackets": (["train", "alg.encoder_units=8,8"], ["write [8,8]"]),
    "an open list": (["train", "alg.encoder_units=[8,8"], ["write [8,8]"]),
    "kwargs without braces": (["train", "env=gym", "env.kwargs=a: 1"], ["write {a: 1}"]),
    "a place nearly": (["train", "alg.dynamics=flwo"], ["alg.dynamics=flwo", "did you mean flow?"]),
    "another component's option": (["train", "alg.flow_substeps=3"], ["substeps", "flow", "dynamics=NAME"]),
    "another task's option": (["train", "env.id=Pendulum-v1"], ["env.id", "gym", "env=NAME"]),
    "a preset as a mapping": (["train", "env={name: gym, id: X}"], ["env=NAME", "env.<key>=..."]),
    "a preset nearly": (["train", "alg=pwm_48M_flo"], ["did you mean pwm_48M_flow?"]),
    "a preset elsewhere": (["train", "alg=../x"], ["there is no alg/../x"]),
    "nothing": (["train", "alg="], ["there is no alg/;", "pwm_small"]),
    "no list": (["train", "alg.encoder_units=null"], ["write []"]),
    "no mapping": (["train", "env=gym", "env.kwargs=[1]"], ["write {key: value}"]),
    "a group inside alg": (["train", "alg.reward_head=two_hot"], ["alg.reward_head.<key>"]),
    "no parts of a key": (["train", "general..seed=1"], ["'general..seed=1' is not an override"]),
    "experiment: -m": (["experiment", "-m", "experiment=flow_vs_mlp"], ["-m", "pwm experiment"]),
    "experiment: --key=value": (["experiment", "--seeds=[1,2]"], [": seeds=[1,2]"]),
    "experiment: hydra": (["experiment", "hydra.run.dir=x"], ["general.logdir"]),
    "experiment: a sweep": (["experiment", "experiment=flow_vs_mlp", "seeds=1,2"], ["write [1,2]"]),
    "experiment: two values": (
        ["experiment", "experiment=flow_vs_mlp", "seeds=[1]", "seeds=[2]"],
        ["seeds=[1] and seeds=[2] contradict each other"],
    ),
    "experiment: the original's key": (
        ["experiment", "experiment=flow_vs_mlp", "units=[1]"],
        ["alg.dynamics.units"],
    ),
    "parity: two values": (
        ["parity", "--baseline", "pwm_5M", "alg.gamma=1", "alg.gamma=0", "--candidate", "pwm_5M_flow"],
        ["contradict each other"],
    ),
    "parity: the original's key": (
        ["parity", "--baseline", "pwm_5M", "alg.wm_buffer_size=1", "--candidate", "pwm_5M_flow"],
        ["alg.buffer_size"],
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_forms_get_one_message_with_ours(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, expected = FOREIGN[name]
    assert main(arguments) == 2
    message = the_message(capsys)
    absent = [part for part in expected if part not in message]
    assert not absent, message
    assert not list(tmp_path.iterdir())


# Keys of the published configurations of PWM and Flow-MBPO-PWM that do not exist here -> what they are told.
ORIGINAL = {
    "units=[512,512]": "alg.dynamics.units and alg.reward_units",
    "alg.world_model_config.units=[512,512]": "alg.dynamics.units and alg.reward_units",
    "alg.world_model_config.encoder_units=[256]": "alg.encoder_units",
    "alg.world_model_config.num_bins=101": "alg.reward_head.num_bins",
    "alg.world_model_config.vmin=-10": "alg.reward_head.vmin",
    "alg.world_model_config.task_dim=96": "alg.task_dim",
    "alg.world_model_config.multitask=True": "pwm pretrain",
    "alg.world_model_config.encoder.last_layer_kwargs.act.simnorm_dim=8": "alg.simnorm_dim",
    "alg.world_model_config.dynamics.last_layer=linear": "alg.velocity_head",
    "alg.world_model_config._target_=x": "alg.encoder_units",
    "alg.flow_model_config.units=[1788,1788]": "alg.dynamics.units",
    "flow_model_config.integrator=heun": "alg.dynamics.units, .integrator",
    "alg.actor_config.units=[400]": "alg.actor.units",
    "alg.actor_config.init_logstd=-1": "alg.actor.init_log_std",
    "alg.actor_config.min_logstd=-1": "alg.actor.min_log_std",
    "alg.actor_config.activation_class=nn.Mish": "alg.actor.act",
    "alg.actor_config.init_gain=1": "alg.actor.units",
    "alg.critic_config.units=[400,200]": "alg.critic_units",
    "alg.wm_buffer_size=1000000": "alg.buffer_size",
    "alg.critic_method=one-step": "alg.lam",
    "alg.detach=True": "always so",
    "alg.planning=True": "--planner mppi",
    "alg.save_interval=500": "general.checkpoint_every",
    "alg.device=cuda": "general.device",
    "alg._target_=pwm.algorithms.pwm.PWM": "dynamics=NAME",
    "alg._recursive_=False": "dynamics=NAME",
    "alg.betas=[0.7,0.95]": "alg.adam_betas",
    "num_actors=64": "alg.num_envs",
    "alg.steps_min=16": "alg.horizon",
    "horizon=16": "alg.horizon",
    "env.config.num_envs=64": "alg.num_envs",
    "env.config.episode_length=1000": "env.episode_length",
    "env.config.stochastic_init=True": "always so",
    "env.config.action_penalty=0.1": "rewards of dflex tasks are fixed",
    "env.shac.actor_lr=1e-3": "SHAC",
    "general.train=False": "pwm evaluate",
    "general.render=True": "--video",
    "general.checkpoint_with_buffer=True": "general.resume",
    "general.resume_training=True": "general.resume",
    "alg.pretrain=x": "general.pretrain=FOLDER",
    "general.data_dir=x": "data=FOLDER",
    "general.finetune_wm=True": "alg.wm_iterations=1",
    "general.eval_freq=200": "general.eval_every",
    "general.multitask=True": "pwm pretrain",
    "epochs=100": "general.epochs",
    "task=reacher-easy": "env=NAME",
    "buffer.batch_size=512": "alg.wm_batch_size",
    "obs=state": "env=NAME",
    "wandb.tags=[a]": "wandb.group",
    "wandb.notes=a": "wandb.group",
}


@pytest.mark.parametrize("override", ORIGINAL)
def test_keys_of_the_original_name_their_successors(
    override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "alg=pwm_48M_flow", override]) == 2
    message = the_message(capsys)
    assert f"unknown key {override.partition('=')[0]}" in message
    assert ORIGINAL[override] in message


def test_options_may_stand_between_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--print-config", "seed=7", "env=analytic"],
        ["seed=7", "--print-config", "env=analytic"],
        ["seed=7", "env=analytic", "--print-config"],
    ):
        assert main(["train", *arguments]) == 0
        found = yaml.safe_load(capsys.readouterr().out)
        assert (found["general"]["seed"], found["env"]["name"]) == (7, "analytic")


def test_documented_override_forms_compose() -> None:
    first = compose_config(["general=dflex_ant", "alg=pwm_5M", "general.epochs=100", "seed=42"])
    assert (first.env.task, first.preset, first.epochs, first.general.seed) == ("ant", "pwm_5M", 100, 42)
    second = compose_config(
        [
            *["env=dflex_ant", "alg=pwm_48M", "general.seed=42", "general.run_wandb=True"],
            *["wandb.project=P", "wandb.group=G", "general.logdir=L"],
        ]
    )
    assert second.general.run_wandb
    assert (second.wandb.project, second.wandb.group, second.general.logdir) == ("P", "G", "L")
    third = compose_config(
        [
            *["alg=pwm_48M", "alg.use_flow_dynamics=true", "alg.flow_integrator=heun", "alg.flow_substeps=2"],
            *["alg.flow_tau_sampling=uniform", "alg.wm_batch_size=512", "alg.wm_iterations=16"],
            *["alg.lr_schedule=linear", "alg.lr_decay_start=10000"],
        ]
    )
    dynamics = third.chosen["dynamics"]
    assert (dynamics.integrator, dynamics.substeps) == ("heun", 2)
    assert third.alg.model_learning.wm_batch_size == 512
    assert third.alg.optimisation.lr_decay_start == 10000.0


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["bench", "import", "--output", str(tmp_path / "file" / "x.json")]) == 2
    assert str(tmp_path / "file") in the_message(capsys)
