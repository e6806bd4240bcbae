"""Run folders with files missing, damaged or of another time: one clear answer, and nothing lost."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.end_to_end.tiny import (
    ANALYTIC,
    assert_same_run,
    computed,
    contents,
    interrupt_after,
    metrics,
    only_run,
    status,
    train,
    trained,
)

from pwm.checkpoints import storage
from pwm.envs.analytic import LqrEnv
from pwm.envs.base import StepResult
from pwm.errors import CheckpointError, DamagedCheckpointError
from pwm.launch.cli import INTERRUPTED
from pwm.runs.preemption import EXIT_CODE
from pwm.runs.status import StatusFile
from pwm.training.evaluation import reference_scores
from pwm.training.trainers.online.trainer import OnlineTrainer

RUN = [*ANALYTIC, "general.save_interval=0", "general.epochs=6"]
LONGER = [*RUN, "general.epochs=8"]


def interrupted(logdir: Path, monkeypatch: pytest.MonkeyPatch, *options: str, epochs: int = 3) -> Path:
    """A run that ended after ``epochs`` epochs."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, epochs)
        assert train(logdir, *options) == INTERRUPTED
    return only_run(logdir)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log folder of a run of ``RUN`` that ended after three epochs; not to be changed."""
    logdir = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        interrupted(logdir, patch, *RUN)
    return logdir


@pytest.fixture
def interrupted_run(original: Path, tmp_path: Path) -> Path:
    """A copy of that run below ``tmp_path``."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return only_run(tmp_path)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of ``RUN`` that nothing interrupts; not to be changed."""
    return trained(tmp_path_factory.mktemp("whole"), *RUN)


def remove_states(folder: Path) -> None:
    for path in [*folder.glob("*.pt"), *(folder / "replay").iterdir()]:
        if "policy" not in path.name:
            path.unlink()


def test_finished_run_needs_its_state_only_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tmp_path, *RUN)
    remove_states(folder)
    before = contents(folder)
    capsys.readouterr()
    assert train(tmp_path, *RUN) == 0
    assert "already finished" in (said := capsys.readouterr().out)
    assert f"best evaluated return {max(r['eval/episode_return'] for r in metrics(folder)):.1f}" in said
    assert train(tmp_path, *LONGER) == 2
    assert "latest.pt to continue from is gone" in capsys.readouterr().err
    assert contents(folder) == before

    assert train(tmp_path, *LONGER, "general.resume=force") == 0
    assert [r["epoch"] for r in metrics(folder)] == list(range(9))
    assert (folder / "metrics.before.jsonl").read_bytes() == before["metrics.jsonl"]


def test_state_that_was_saved_and_removed_is_no_reason_to_start_over(
    tmp_path: Path, interrupted_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = interrupted_run
    for name in ("latest.pt", "previous.pt"):
        (folder / name).unlink()
    before = contents(folder)
    assert train(tmp_path, *RUN) == 2
    assert "latest.pt to continue from is gone" in capsys.readouterr().err
    assert "latest.pt to continue from is gone" in str(status(folder)["reason"])
    assert {**contents(folder), "status.json": b""} == {**before, "status.json": b""}


def test_newer_state_is_refused_and_stays_the_latest(
    tmp_path: Path, interrupted_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = interrupted_run
    newer = torch.load(folder / "latest.pt", weights_only=True) | {"version": 99}
    torch.save(newer, folder / "latest.pt")
    before = contents(folder)
    assert train(tmp_path, *RUN) == 2
    assert "has version 99, this release reads 1" in capsys.readouterr().err
    found = status(folder)
    assert found["state"] == "failed"
    assert "version 99" in str(found["reason"])
    assert found["epoch"] == 3
    assert {**contents(folder), "status.json": b""} == {**before, "status.json": b""}


def test_every_flipped_bit_of_a_checkpoint_is_damage_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "latest.pt"
    value = torch.arange(40.0)
    storage.save(path, "kind", {"value": value})
    whole = path.read_bytes()
    damaged = 0
    for position in range(0, len(whole), 3):
        for bit in (0, 3):
            content = bytearray(whole)
            content[position] ^= 1 << bit
            path.write_bytes(content)
            try:
                found = storage.load(path, "kind")
            except DamagedCheckpointError:
                damaged += 1
            else:
                assert torch.equal(found["value"], value)
    assert damaged > 100


def test_checkpoint_without_version_is_refused(tmp_path: Path) -> None:
    torch.save({"format": "kind"}, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="has version None"):
        storage.load(tmp_path / "file.pt", "kind")


def test_reward_that_is_no_number_ends_the_run_at_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = LqrEnv.step

    def exploding(env: LqrEnv, action: Any) -> StepResult:
        result = step(env, action)
        # The evaluation's two copies, not the four that train.
        if env.num_envs == 2:
            result.reward[1] = float("nan")
        return result

    monkeypatch.setattr(LqrEnv, "step", exploding)
    assert train(tmp_path, *RUN) == 2
    assert "return of an evaluation episode is not finite (environments [1])" in capsys.readouterr().err
    assert status(only_run(tmp_path))["state"] == "failed"


@pytest.mark.parametrize("rate", ["actor_lr", "model_lr"])
def test_divergence_is_not_blamed_on_actions(
    rate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, *RUN, f"alg.{rate}=1e30", "alg.lr_schedule=constant") == 2
    message = capsys.readouterr().err
    assert "diverged" in message or "not finite in" in message
    assert "lower" in message
    assert "NonFiniteError" in str(status(only_run(tmp_path))["reason"])


def test_signal_while_the_scores_of_doing_nothing_are_measured(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(*arguments: Any, **named: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return reference_scores(*arguments, **named)

    monkeypatch.setattr("pwm.runs.reference.reference_scores", signalled)
    assert train(tmp_path, *RUN) == EXIT_CODE
    folder = only_run(tmp_path)
    assert status(folder)["state"] == "preempted"
    assert not (folder / "reference.json").exists()
    monkeypatch.undo()
    assert train(tmp_path, *RUN) == 0
    assert_same_run(folder, whole_run)


def test_warm_up_is_saved_while_it_goes_on(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = OnlineTrainer.update_world_model

    def killed(trainer: OnlineTrainer) -> Any:
        if trainer.warmup_updates == 1:
            raise KeyboardInterrupt
        return update(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(OnlineTrainer, "update_world_model", killed)
        assert train(tmp_path / "parts", *RUN) == INTERRUPTED
    folder = only_run(tmp_path / "parts")
    saved = storage.load(folder / "latest.pt", storage.STATE_FORMAT)["trainer"]["counters"]
    assert (saved["env_steps"], saved["warmup_updates"]) == (200, 1)
    assert train(tmp_path / "parts", *RUN) == 0
    assert_same_run(folder, whole_run)


def test_status_says_how_far_the_saved_state_is_and_why_a_run_stopped(
    tmp_path: Path, interrupted_run: Path
) -> None:
    folder = interrupted_run
    found = status(folder)
    assert (found["epoch"], found["env_steps"], found["state"]) == (3, 200 + 3 * 16, "failed")
    assert str(found["updated"]).endswith("+00:00")
    still = [*RUN, "alg.actor_lr=1e-8", "alg.lr_final=0", "general.patience=2", "general.epochs=30"]
    stopped = status(trained(tmp_path / "early", *still))
    assert stopped["state"] == "finished"
    assert stopped["reason"] == "no better evaluation in general.patience=2 evaluations"
    assert int(str(stopped["epoch"])) < 30


def test_failure_is_told_even_where_no_file_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StatusFile(tmp_path)
    file.write("running", "a reason that is longer than the next", {"epoch": 1})

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pwm.runs.status.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        file.write("running", "", {"epoch": 2})
    file.write("failed", "disk full", {"epoch": 2})
    found = file.read()
    assert (found["state"], found["reason"], found["epoch"]) == ("failed", "disk full", 2)


@pytest.mark.parametrize("content", ["", '{"state": "fini', "[]"])
def test_damaged_status_and_manifest_are_written_anew(
    content: str, tmp_path: Path, interrupted_run: Path
) -> None:
    folder = interrupted_run
    (folder / "status.json").write_text(content)
    (folder / "manifest.json").write_text(content)
    with pytest.warns(RuntimeWarning, match=r"manifest\.json was damaged and is written anew"):
        assert train(tmp_path, *RUN) == 0
    assert status(folder)["state"] == "finished"
    assert json.loads((folder / "manifest.json").read_text())["command"]
    assert [r["epoch"] for r in metrics(folder)] == list(range(7))


def test_damaged_record_is_named_by_its_line(
    tmp_path: Path, interrupted_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = interrupted_run
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([lines[0], lines[1][:9] + "\n", *lines[2:]]))
    assert train(tmp_path, *RUN) == 2
    assert "metrics.jsonl is damaged in line 2" in capsys.readouterr().err
    assert "line 2" in str(status(folder)["reason"])


def test_lost_records_are_noticed(tmp_path: Path, interrupted_run: Path) -> None:
    folder = interrupted_run
    (folder / "metrics.jsonl").unlink()
    with pytest.warns(RuntimeWarning, match="holds 0 of the 4 records"):
        assert train(tmp_path, *RUN) == 0
    assert [r["epoch"] for r in metrics(folder)] == [4, 5, 6]


def test_state_without_its_configuration_is_refused(
    whole_run: Path, tmp_path: Path, interrupted_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = interrupted_run
    (folder / "config.yaml").unlink()
    assert train(tmp_path, *RUN) == 2
    assert "config.yaml is missing" in capsys.readouterr().err
    assert train(tmp_path, *RUN, "general.resume=force") == 0
    assert_same_run(folder, whole_run)


@pytest.mark.parametrize("change", ["alg.latent_dim=32", "alg.buffer_size=4000", "dynamics=flow"])
def test_sizes_cannot_be_forced(
    change: str, tmp_path: Path, interrupted_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = interrupted_run
    before = contents(folder)
    # The name of a run follows from its dynamics.
    name = f"general.name={folder.parent.name}"
    assert train(tmp_path, *RUN, change, name, "general.resume=force") == 2
    message = capsys.readouterr().err
    assert "does not fit this configuration" in message or "has other sizes" in message
    assert {**contents(folder), "status.json": b""} == {**before, "status.json": b""}


def test_environment_that_cannot_save_its_state_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = ["env=gym", "env.id=tests.contracts.odd_envs:OddOdd-v0", *RUN[1:]]
    folder = interrupted(tmp_path, monkeypatch, *odd)
    with pytest.warns(RuntimeWarning, match=r"odd_envs-OddOdd-v0 cannot save its state: new episodes begin"):
        assert train(tmp_path, *odd) == 0
    assert [r["epoch"] for r in metrics(folder)] == list(range(7))


def test_policies_from_before_a_restart_do_not_crowd_out_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = [*RUN, "general.checkpoint_every=1", "general.keep_checkpoints=2"]
    folder = interrupted(tmp_path, monkeypatch, *keep)
    (folder / "policies" / "epoch0000009.pt").write_bytes(b"of a longer run")
    assert train(tmp_path, *keep) == 0
    assert sorted(p.name for p in (folder / "policies").iterdir()) == ["epoch0000005.pt", "epoch0000006.pt"]


def test_continued_run_no_longer_needs_the_policy_it_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = trained(tmp_path / "source", *RUN) / "final_policy.pt"
    options = [*RUN, f"general.checkpoint={source}"]
    folder = interrupted(tmp_path / "run", monkeypatch, *options)
    source.unlink()
    assert train(tmp_path / "run", *options) == 0
    assert len(computed(folder)) == 7
