"""``pwm train`` and ``pwm evaluate`` from the outside: files, metrics, determinism, resuming."""

from __future__ import annotations

import csv
import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.end_to_end.tiny import (
    ANALYTIC,
    FLOW,
    HOPPER,
    LOCKSTEP,
    assert_same_run,
    assert_same_weights,
    computed,
    contents,
    metrics,
    only_run,
    overrides,
    status,
    train,
    trained,
    weights,
)

from pwm.launch.cli import main
from pwm.logging.monitoring import TrainingMonitor

DYNAMICS = {"mlp": ["dynamics=mlp"], "residual": ["dynamics=residual"], "flow": FLOW}
COLLECT = {"closed_loop": ["alg.collect=closed_loop"], "lockstep": LOCKSTEP}
OTHER_ENVS = {
    "analytic-closed_loop": [*ANALYTIC, *FLOW, "alg.collect=closed_loop"],
    "analytic-lockstep": [*ANALYTIC, *LOCKSTEP],
    "gym": ["env=gym", "env.id=Pendulum-v1"],
}
RUNS = {
    f"hopper-{name}-{collect}": [*HOPPER, *changes, *how]
    for name, changes in DYNAMICS.items()
    for collect, how in COLLECT.items()
} | OTHER_ENVS

# Every environment, dynamics and way of collecting in one of them.
EVERY_PART = ["hopper-flow-lockstep", "hopper-residual-closed_loop", "analytic-lockstep", "gym"]

FILES = {
    ".lock",
    "config.yaml",
    "config.sha256",
    "manifest.json",
    "metrics.jsonl",
    "metrics.csv",
    "reference.json",
    "status.json",
    "best_policy.pt",
    "final_policy.pt",
    "latest.pt",
    "replay",
}
PICTURES = {
    "learning_curves.png",
    "world_model_losses.png",
    "gradient_norms.png",
    "training_summary.png",
}
EVERY_RECORD = {"epoch", "env_steps", "wall_time", "cpu_time"}
EVERY_EVALUATION = {"eval/episode_return", "eval/episode_return_std", "eval/episode_length"}
EVERY_EPOCH = {
    "wm/latent_error_k1",
    "wm/latent_error_k4",
    "fps",
    "wm/loss",
    "wm/dynamics_loss",
    "wm/reward_loss",
    "wm/termination_loss",
    "wm/grad_norm",
    "actor/loss",
    "actor/grad_norm",
    "actor/std",
    "actor/saturation",
    "critic/loss",
    "critic/grad_norm",
    "lr/wm",
    "lr/actor",
    "lr/critic",
    "velocity_evals",
    "skipped_updates",
    "time/wm",
    "time/actor",
    "time/critic",
    "memory/rss",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the finished run of a name, not to be changed; each is trained once."""
    return functools.cache(lambda name: trained(tmp_path_factory.mktemp("run"), *RUNS[name]))


@pytest.fixture(scope="module")
def hopper_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished flow run on hopper."""
    return trained(tmp_path_factory.mktemp("hopper"), *HOPPER, *FLOW)


@pytest.mark.parametrize("name", RUNS)
def test_run_leaves_every_file_and_metric(name: str, finished: Callable[[str], Path]) -> None:
    folder = finished(name)
    assert {path.name for path in folder.iterdir()} == FILES
    assert folder.parts[-2:] == ("pwm_small_h16", "seed42")
    assert status(folder)["state"] == "finished"
    assert status(folder)["epoch"] == 3
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parameters"]["world_model"] > manifest["parameters"]["dynamics"] > 0

    records = metrics(folder)
    assert [record["epoch"] for record in records] == [0, 1, 2, 3]
    assert [record["env_steps"] for record in records] == [0, 216, 232, 248]
    assert set(records[0]) >= EVERY_RECORD | EVERY_EVALUATION
    for record in records[1:]:
        missing = (EVERY_RECORD | EVERY_EVALUATION | EVERY_EPOCH) - set(record)
        assert not missing
    assert any("train/episode_return" in record and "train/episode_length" in record for record in records)
    bad = [(k, v) for record in records for k, v in record.items() if v is None or not math.isfinite(v)]
    assert not bad
    assert records[-1]["skipped_updates"] == 0
    assert (records[-1]["velocity_evals"] > 0) == ("dynamics=flow" in RUNS[name])

    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records)
    assert set(rows[0]) == {key for record in records for key in record}


def test_evaluate_shows_reference_scores_and_repeats_itself(
    hopper_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs, tables = [tmp_path / "a.json", tmp_path / "b.json"], []
    for output in outputs:
        arguments = ["evaluate", str(hopper_run), "--episodes", "3", "--output", str(output)]
        assert main(arguments) == 0
        tables.append(capsys.readouterr().out)
    header = tables[0].splitlines()[0]
    assert "zero action" in header
    assert "random" in header
    assert tables[0] == tables[1]
    assert outputs[0].read_text() == outputs[1].read_text()

    (result,) = json.loads(outputs[0].read_text())
    assert result["task"] == "dflex_hopper"
    assert len(result["returns"]) == len(result["lengths"]) == result["episodes"] == 3
    assert set(result["reference"]) == {"zero_action", "random_action"}
    stored = json.loads((hopper_run / "evaluation_best_policy.json").read_text())
    assert stored == result
    (hopper_run / "evaluation_best_policy.json").unlink()


def test_evaluate_reads_the_policy_it_is_told_to(hopper_run: Path, tmp_path: Path) -> None:
    progress = {}
    for which in ("best", "final"):
        output = tmp_path / f"{which}.json"
        arguments = ["evaluate", str(hopper_run), "--episodes", "1", "--checkpoint", which]
        assert main([*arguments, "--output", str(output)]) == 0
        (hopper_run / f"evaluation_{which}_policy.json").unlink()
        (result,) = json.loads(output.read_text())
        progress[which] = result["progress"]["epoch"]
    records = metrics(hopper_run)
    best = max(records, key=lambda record: record["eval/episode_return"])
    assert progress == {"best": best["epoch"], "final": 3}


def test_same_command_again_says_finished_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tmp_path, *ANALYTIC, pictures=True)
    assert {path.name for path in folder.iterdir()} == FILES | PICTURES
    before = contents(folder)
    capsys.readouterr()
    assert train(tmp_path, *ANALYTIC, pictures=True) == 0
    assert "already finished" in capsys.readouterr().out
    assert contents(folder) == before


def test_more_epochs_continue_a_finished_run(tmp_path: Path) -> None:
    folder = trained(tmp_path, *ANALYTIC)
    first = computed(folder)
    assert train(tmp_path, *ANALYTIC, "general.epochs=5") == 0
    records = computed(folder)
    assert [record["epoch"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert records[:4] == first
    assert status(folder)["epochs"] == 5


@pytest.mark.parametrize("name", RUNS)
def test_the_same_seed_gives_the_same_run(name: str, finished: Callable[[str], Path], tmp_path: Path) -> None:
    assert_same_run(finished(name), trained(tmp_path, *RUNS[name]))


@pytest.mark.parametrize("name", EVERY_PART)
def test_another_seed_gives_another_run(name: str, finished: Callable[[str], Path], tmp_path: Path) -> None:
    run, other = finished(name), trained(tmp_path, *RUNS[name], "general.seed=2")
    first, second = weights(run / "final_policy.pt"), weights(other / "final_policy.pt")
    assert not torch.equal(first["actor.log_std"], second["actor.log_std"])
    assert computed(run) != computed(other)


def train_in_a_process(logdir: Path, *changes: str, hash_seed: int = 0) -> Path:
    """``trained`` in a process of its own, whose sets of strings are ordered by ``hash_seed``."""
    command = [sys.executable, "-m", "pwm.launch.cli", "train", *overrides(logdir, *changes)]
    environment = {
        **{key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"},
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return only_run(logdir)


def test_seed_decides_the_run_in_every_process(tmp_path: Path) -> None:
    changes = [*HOPPER, *FLOW]
    runs = [train_in_a_process(tmp_path / str(i), *changes, hash_seed=i) for i in (1, 2)]
    assert computed(runs[0]) == computed(runs[1])
    assert_same_weights(runs[0] / "final_policy.pt", runs[1] / "final_policy.pt")


@pytest.fixture
def own_torch_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back afterwards what deterministic training changes in the process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("own_torch_settings")
@pytest.mark.parametrize("name", EVERY_PART)
def test_deterministic_training_works_and_repeats_itself(name: str, tmp_path: Path) -> None:
    changes = [*RUNS[name], "general.deterministic=true"]
    runs = [trained(tmp_path / str(i), *changes) for i in range(2)]
    assert torch.are_deterministic_algorithms_enabled()
    assert computed(runs[0]) == computed(runs[1])
    assert_same_weights(runs[0] / "final_policy.pt", runs[1] / "final_policy.pt")
    bad = [(k, v) for record in metrics(runs[0]) for k, v in record.items() if v is None]
    assert not bad


@pytest.mark.usefixtures("own_torch_settings")
def test_a_run_may_become_deterministic_later(tmp_path: Path) -> None:
    folder = trained(tmp_path, *ANALYTIC)
    digest = (folder / "config.sha256").read_text()
    assert not torch.are_deterministic_algorithms_enabled()
    assert train(tmp_path, *ANALYTIC, "general.epochs=5", "general.deterministic=true") == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert status(folder)["epoch"] == 5
    assert "deterministic: true" in (folder / "config.yaml").read_text()
    other = trained(tmp_path / "other", *ANALYTIC, "general.deterministic=true")
    assert (other / "config.sha256").read_text() == digest


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dynamics", ["mlp", "flow"])
@pytest.mark.parametrize("collect", COLLECT)
def test_deterministic_training_repeats_itself_on_a_gpu(dynamics: str, collect: str, tmp_path: Path) -> None:
    changes = [*HOPPER, *DYNAMICS[dynamics], *COLLECT[collect], "general.device=cuda"]
    runs = [train_in_a_process(tmp_path / str(i), *changes, "general.deterministic=true") for i in range(2)]
    assert computed(runs[0]) == computed(runs[1])
    assert_same_weights(runs[0] / "final_policy.pt", runs[1] / "final_policy.pt")


def test_changed_configuration_is_refused_with_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tmp_path, *ANALYTIC)
    before = contents(folder)
    capsys.readouterr()
    assert train(tmp_path, *ANALYTIC, "alg.gamma=0.9", "general.epochs=5") == 2
    message = capsys.readouterr().err
    assert "alg.gamma: 0.995 -> 0.9" in message
    assert "general.epochs" not in message
    assert "general.resume=force" in message
    assert contents(folder) == before
    assert train(tmp_path, *ANALYTIC, "alg.gamma=0.9", "general.epochs=5", "general.resume=force") == 0
    assert status(folder)["epoch"] == 5


def test_resume_never_refuses_an_existing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, *ANALYTIC)
    capsys.readouterr()
    assert train(tmp_path, *ANALYTIC, "general.resume=never") == 2
    assert "general.resume=never" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [HOPPER, ANALYTIC], ids=["hopper", "analytic"])
def test_run_starts_from_another_runs_policy(changes: list[str], tmp_path: Path) -> None:
    source = trained(tmp_path / "first", *changes) / "final_policy.pt"
    options = [*changes, f"general.checkpoint={source}", "alg.warmup_updates=0", "alg.warmup_env_steps=0"]
    second = trained(tmp_path / "second", *options)
    evaluated = metrics(source.parent)[-1]["eval/episode_return"]
    assert metrics(second)[0]["eval/episode_return"] == evaluated


def test_print_config_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--print-config", "alg=pwm_5M_flow", "general.seed=7"]) == 0
    shown = capsys.readouterr().out
    assert "seed: 7" in shown
    assert "name: flow" in shown
    assert not list(tmp_path.iterdir())


def test_warm_up_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(TrainingMonitor, "warm_up", lambda monitor, share: shares.append(share))
    trained(tmp_path, *ANALYTIC)
    # 200 steps of 4 environments and 2 updates.
    assert shares == pytest.approx([done / 52 for done in range(52)])


@pytest.mark.parametrize(("sizes", "expected"), [([], 1), (["alg.reward_units=[1024,1024]"], 3)])
@pytest.mark.parametrize("asked", [0, 2])
def test_small_networks_train_on_one_thread_unless_told_otherwise(
    tmp_path: Path, sizes: list[str], expected: int, asked: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert train(tmp_path, *ANALYTIC, *sizes, "general.epochs=1", f"general.threads={asked}") == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert json.loads((only_run(tmp_path) / "manifest.json").read_text())["threads"] == (asked or expected)
