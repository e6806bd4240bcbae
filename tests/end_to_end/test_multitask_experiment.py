"""An experiment whose arms pretrain a shared world model, from which a policy is extracted for every task."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.end_to_end.processes import Forked
from tests.end_to_end.test_experiment import Starts
from tests.end_to_end.tiny import metrics

from pwm.checkpoints import storage
from pwm.checkpoints.policy_evaluation import policy_digest
from pwm.data.offline.manifest import StoreFiles
from pwm.launch.cli import main
from pwm.study import run_pool

TASKS = ("pendulum-swingup", "reacher-easy")
PRETRAINING = {
    "general.epochs": "2",
    "alg.latent_dim": "32",
    "alg.encoder_units": "[32]",
    "alg.reward_units": "[16]",
    "alg.dynamics.units": "[32]",
    "alg.task_dim": "4",
    "alg.wm_batch_size": "16",
    "alg.wm_iterations": "4",
    "alg.horizon": "3",
}
POLICY = [
    "general.epochs=2",
    "general.eval_every=1",
    "general.eval_runs=2",
    "general.progress=false",
    "alg.horizon=3",
    "alg.actor_batch_size=8",
    "alg.actor_iterations=3",
    "alg.critic_units=[8]",
    "alg.actor.units=[8]",
    "env.episode_length=20",
    # So short a training leaves a model that predicts nothing.
    "alg.max_model_error=1e9",
]


def words(logdir: Path, data: Path, **pretraining: str) -> list[str]:
    """Overrides of ``pwm experiment`` with two arms, two tasks and one seed."""
    tasks = ", ".join(f"dmc env.task={task}" for task in TASKS)
    model = ",".join(f"{key}={value}" for key, value in (PRETRAINING | pretraining).items())
    own = ["experiment=multitask_flow_vs_mlp", "arms.residual=null", f"tasks=[{tasks}]", "seeds=[1]"]
    return [*own, f"data={data}", f"pretraining=[{model}]", f"general.logdir={logdir}", *POLICY]


def experiment(logdir: Path, data: Path, *options: str, **pretraining: str) -> int:
    return main(
        ["experiment", *words(logdir, data, **pretraining), "--jobs", "1", "--episodes", "2", *options]
    )


def folder(logdir: Path) -> Path:
    return logdir / "experiments" / "multitask_flow_vs_mlp"


def begun(starts: Starts) -> list[str]:
    """Task and arm of every run that was trained, in order."""
    found = []
    for arguments in starts.arguments:
        if arguments[0] == "train":
            given = dict(word.split("=", 1) for word in arguments[1:])
            found.append(f"{given.get('env.task', 'model')} {given['general.name']}")
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random episodes of two tasks of different widths."""
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    found = tmp_path_factory.mktemp("collected") / "data"
    assert main(["data", "collect", f"tasks={','.join(TASKS)}", "episodes=3", "envs=3", f"to={found}"]) == 0
    return found


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Processes are forked instead of started afresh."""
    found = Starts()
    monkeypatch.setattr(run_pool, "start_process", found)
    return found


@pytest.fixture(scope="module")
def interrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Starts, str]:
    """An experiment in whose first call the pretraining of flow was killed; what was started; its output."""
    logdir = tmp_path_factory.mktemp("experiment")

    def kill(arguments: Sequence[str], process: Forked) -> None:
        if "general.name=flow_model" in arguments:
            process.kill()

    starts = Starts(kill)
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as streams:
        patch.setattr(run_pool, "start_process", starts)
        said: list[str] = []
        streams.setattr("builtins.print", lambda *text, **_: said.append(" ".join(map(str, text))))
        assert experiment(logdir, data) == 1
    return logdir, starts, "\n".join(said)


@pytest.fixture(scope="module")
def whole(interrupted: tuple[Path, Starts, str], data: Path) -> tuple[Path, Starts]:
    """The same experiment after a second call, and what that started."""
    starts = Starts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_pool, "start_process", starts)
        assert experiment(interrupted[0], data) == 0
    return interrupted[0], starts


@pytest.fixture
def logdir(whole: tuple[Path, Starts], tmp_path: Path) -> Iterator[Path]:
    """The log folder of that experiment, whose runs a test may change."""
    shutil.copytree(whole[0], tmp_path / "kept")
    found = whole[0]
    yield found
    shutil.rmtree(found)
    shutil.copytree(tmp_path / "kept", found)


def test_runs_of_an_arm_whose_pretraining_fails_say_so_and_others_are_made(
    interrupted: tuple[Path, Starts, str],
) -> None:
    _, starts, said = interrupted
    assert begun(starts) == ["model mlp_model", f"{TASKS[0]} mlp", "model flow_model", f"{TASKS[1]} mlp"]
    for task in TASKS:
        reason = "mt30 flow seed 1, which it begins from, failed: killed by SIGKILL"
        assert f"FAILED dmc_{task} flow seed 1: {reason}" in said


def test_the_same_command_makes_what_is_missing_and_reports_all(whole: tuple[Path, Starts]) -> None:
    logdir, starts = whole
    assert begun(starts) == ["model flow_model", f"{TASKS[0]} flow", f"{TASKS[1]} flow"]
    report = (folder(logdir) / "report.md").read_text()
    assert "Nothing else that can change results differs." in report
    assert "start.alg.dynamics.name | mlp | flow" in report
    assert "| flow | mt30 |" in report  # Parity of the shared models.
    assert "| mean of 2 tasks |" in report
    assert "Evaluated return over updates." in report
    # Two epochs of three updates.
    assert "| mlp | dmc_reacher-easy | 1 | finished | 6 |" in report
    assert [record["updates"] for record in metrics(folder(logdir) / "dmc_reacher-easy/mlp/seed1")[1:]] == [
        3,
        6,
    ]


def test_the_report_has_the_models_with_their_cost_and_their_fit(whole: tuple[Path, Starts]) -> None:
    text = (folder(whole[0]) / "report.md").read_text()
    assert "## Pretrained models" in text
    content = json.loads((folder(whole[0]) / "results.json").read_text())
    assert [(model["arm"], model["seed"], model["runs"]) for model in content["models"]] == [
        ("mlp", 1, 2),
        ("flow", 1, 2),
    ]
    for model in content["models"]:
        recorded = metrics(folder(whole[0]) / "mt30" / f"{model['arm']}_model" / "seed1")[-1]
        fit = model["fit"]
        # Two epochs of four updates.
        assert fit["updates"] == recorded["updates"] == 8
        assert fit["minutes"] == pytest.approx(recorded["wall_time"] / 60)
        assert fit["mean"]["latent"] == pytest.approx(recorded["heldout/latent_error_k3"])
        assert set(fit["tasks"]) == set(TASKS)
        for task in TASKS:
            assert fit["tasks"][task]["reward"] == pytest.approx(recorded[f"heldout/reward_rmse/{task}"])
            assert f"| {task} | {model['arm']} |" in text
        assert f"| {model['arm']} | 1 | 8 |" in text
        assert f"| {fit['parameters']:,} |" in text


def test_scores_are_those_of_the_held_out_episodes(whole: tuple[Path, Starts]) -> None:
    content = json.loads((folder(whole[0]) / "results.json").read_text())
    for run in content["runs"]:
        assert run["score"] == pytest.approx(sum(run["held_out"]["final"]) / 2000)


def test_a_run_states_what_it_began_from_and_on_which_data(whole: tuple[Path, Starts], data: Path) -> None:
    for arm in ("mlp", "flow"):
        model = folder(whole[0]) / "mt30" / f"{arm}_model" / "seed1"
        stated = json.loads((folder(whole[0]) / "dmc_reacher-easy" / arm / "seed1/manifest.json").read_text())
        assert stated["start"]["sha256"] == policy_digest(model / "final_policy.pt")
        assert stated["start"]["configuration"]["alg.dynamics.name"] == arm
        assert stated["data"] == stated["start"]["manifest"]["data"] == StoreFiles(data).digest


@pytest.mark.slow
def test_an_extraction_that_is_gone_is_made_again_and_nothing_else(
    logdir: Path, data: Path, starts: Starts
) -> None:
    run = folder(logdir) / "dmc_reacher-easy" / "flow" / "seed1"
    before = metrics(run)
    shutil.rmtree(run)
    # Its model is there, and of another arm nothing is needed.
    shutil.rmtree(folder(logdir) / "mt30" / "mlp_model")
    assert experiment(logdir, data) == 0
    assert begun(starts) == ["reacher-easy flow"]
    returns = [[record["eval/episode_return"] for record in records] for records in (before, metrics(run))]
    assert returns[0] == returns[1]


def test_models_that_were_trained_again_are_noticed(
    logdir: Path,
    whole: tuple[Path, Starts],
    data: Path,
    starts: Starts,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # To be trained further.
    assert experiment(logdir, data, **{"general.epochs": "3"}) == 2
    assert "is to be trained further" in capsys.readouterr().err
    file = folder(logdir) / "mt30" / "flow_model" / "seed1" / "final_policy.pt"
    content = storage.load(file, storage.POLICY_FORMAT)
    name = next(iter(content["modules"]))
    content["modules"][name] = content["modules"][name] + 1.0
    kept = {key: value for key, value in content.items() if key not in ("format", "version")}
    storage.save(file, storage.POLICY_FORMAT, kept)
    run = folder(logdir) / "dmc_reacher-easy" / "flow" / "seed1"
    assert experiment(logdir, data) == 2
    said = capsys.readouterr().err
    assert str(run) in said
    assert "mlp" not in said.partition(":")[2].replace("multitask_flow_vs_mlp", "")
    assert not starts.arguments
    # The run itself refuses as well.
    (command,) = [a for a in whole[1].arguments if a[0] == "train" and f"env.task={TASKS[1]}" in a]
    assert main(command) == 2
    assert f"{run} began from another model than general.checkpoint=" in capsys.readouterr().err


def test_the_plan_counts_updates_and_a_cluster_gets_the_models_first(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever SLURM this machine may have.
    monkeypatch.setattr("pwm.cluster.slurm.installed", lambda: False)
    assert experiment(tmp_path, data, "--dry-run", "--only", "dmc_reacher-easy/flow") == 0
    lines = capsys.readouterr().out.splitlines()
    (header,) = [line for line in lines if line.startswith("task ")]
    assert header.split() == ["task", "arm", "seed", "parameters", "updates", "TFLOP", "time", "state"]
    rows = [line.split() for line in lines if line.startswith(("mt30", "dmc_")) and "%" not in line]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("mt30", "flow", "8"),
        ("dmc_reacher-easy", "flow", "6"),
    ]
    submission = ["experiment", *words(tmp_path, data), "launch=slurm", "--dry-run"]
    assert main(submission) == 2
    assert "submit these first, with --only mt30" in capsys.readouterr().err
    assert main([*submission, "--only", "mt30"]) == 0
    assert "task 1: mt30 flow seed 1" in capsys.readouterr().out


def test_missing_data_are_named_with_the_command_that_collects_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    for given, wrong in (("", "data= is missing"), (tmp_path / "none", "none is no data set")):
        assert main(["experiment", *words(tmp_path, given), "--dry-run"]) == 2
        said = capsys.readouterr().err
        assert wrong in said
        assert f"pwm data collect tasks={','.join(TASKS)}" in said
