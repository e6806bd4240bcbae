"""Runs that are killed, preempted or find their files damaged end as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.processes import start, stop_after, wait
from tests.end_to_end.tiny import (
    ANALYTIC,
    FLOW,
    HOPPER,
    LOCKSTEP,
    assert_same_run,
    computed,
    contents,
    interrupt_after,
    only_run,
    status,
    train,
    trained,
)

from pwm.data.replay import ReplayBuffer
from pwm.envs.base import StepResult
from pwm.envs.dflex.env import DflexEnv
from pwm.launch.cli import INTERRUPTED
from pwm.runs import reference, state_store
from pwm.runs.preemption import EXIT_CODE
from pwm.training.hooks import go_on

SAC = ["actor=sac", "alg.entropy_target=-1"]
RUNS = {
    "hopper-flow-closed_loop": [*HOPPER, *FLOW],
    "hopper-mlp-lockstep": [*HOPPER, *LOCKSTEP],
    "analytic-residual": [*ANALYTIC, "dynamics=residual"],
    "gym-observations": ["env=gym", "env.id=Pendulum-v1", "alg.latents=observations", *SAC],
    "analytic-flow_actor": [*ANALYTIC, "actor=flow", "alg.entropy_target=-1", "alg.actor_average=0.5"],
    "analytic-sampled": [*ANALYTIC, "dynamics=generative_flow"],
    "analytic-pushed": [*ANALYTIC, "env.disturbance=pushes"],
    "hopper-delayed": [*HOPPER, "env.disturbance=delay", "env.disturbance_strength=3"],
}
SAVE_ALWAYS = "general.save_interval=0"
# Small enough to be saved, resumed and overwritten several times. One thread, here as in the processes that
# are killed: sums of two threads round otherwise.
LONG = [
    *HOPPER,
    *FLOW,
    SAVE_ALWAYS,
    "general.threads=1",
    "general.epochs=20",
    "general.eval_every=5",
    "alg.buffer_size=400",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of ``LONG`` that nothing interrupts."""
    return trained(tmp_path_factory.mktemp("whole"), *LONG)


@pytest.mark.parametrize("name", RUNS)
def test_interrupted_run_ends_bit_identical(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*RUNS[name], "general.epochs=4", SAVE_ALWAYS]
    uninterrupted = trained(tmp_path / "whole", *options)

    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert train(tmp_path / "parts", *options) == INTERRUPTED
    parts = only_run(tmp_path / "parts")
    assert status(parts)["state"] == "failed"
    assert "KeyboardInterrupt" in str(status(parts)["reason"])
    assert not (parts / "final_policy.pt").exists()
    assert (parts / "metrics.csv").exists()

    assert train(tmp_path / "parts", *options) == 0
    assert status(parts)["state"] == "finished"
    assert_same_run(parts, uninterrupted)


def test_run_without_saved_state_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uninterrupted = trained(tmp_path / "whole", *ANALYTIC)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert train(tmp_path / "parts", *ANALYTIC) == INTERRUPTED
    assert train(tmp_path / "parts", *ANALYTIC) == 0
    assert_same_run(only_run(tmp_path / "parts"), uninterrupted)


@pytest.mark.parametrize("name", RUNS)
def test_preempted_at_every_safe_point_ends_bit_identical(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal before every single update, evaluation step and warm-up step; each time the run goes on."""
    options = [*RUNS[name], "general.epochs=2", "alg.warmup_env_steps=40", "env.episode_length=10"]
    # Training alone: the scores of doing nothing are repeated until a sitting lasts long enough for them.
    provide = reference.provide
    monkeypatch.setattr(reference, "provide", lambda *run: provide(*run[:-1], go_on))
    uninterrupted = trained(tmp_path / "whole", *options)
    passed = 0

    def safe_point_that_fails_once(guard: Any) -> None:
        # Each sitting gets one safe point further than the one before; the evaluations start over.
        nonlocal passed
        passed += 1
        if passed == 13:
            os.kill(os.getpid(), signal.SIGUSR1)
            passed = 0
        original(guard)

    guard_class = "pwm.runs.preemption.PreemptionGuard"
    from pwm.runs.preemption import PreemptionGuard

    original = PreemptionGuard.safe_point
    monkeypatch.setattr(f"{guard_class}.safe_point", safe_point_that_fails_once)
    sittings = 0
    while (code := train(tmp_path / "parts", *options)) == EXIT_CODE:
        parts = only_run(tmp_path / "parts")
        assert status(parts)["state"] == "preempted"
        assert "SIGUSR1" in str(status(parts)["reason"])
        sittings += 1
        assert sittings < 30
    assert code == 0
    assert sittings >= 2
    assert_same_run(parts, uninterrupted)


def kill_repeatedly(logdir: Path, kills: int, seconds: float, seed: int) -> tuple[int, Path]:
    """Train with SIGKILLs at random moments; returns the number of kills that hit, and the run folder."""
    draw = random.Random(seed)
    hits = 0
    while hits < kills:
        pid = start(logdir, *LONG)
        if stop_after(pid, draw.uniform(0.05, seconds), signal.SIGKILL) == 0:
            # It finished before the kill: start over, there are kills left.
            logdir = logdir.with_name(f"{logdir.name}x")
            continue
        hits += 1
    assert wait(start(logdir, *LONG)) == 0, (logdir / "output.txt").read_text()
    return hits, only_run(logdir)


def test_killed_at_random_moments_ends_bit_identical(whole: Path, tmp_path: Path) -> None:
    hits, parts = kill_repeatedly(tmp_path / "parts", kills=8, seconds=1.0, seed=0)
    assert hits == 8
    assert_same_run(parts, whole)
    assert not list(parts.rglob("*.tmp"))


@pytest.mark.slow
def test_killed_fifty_times_ends_bit_identical(whole: Path, tmp_path: Path) -> None:
    for seed in range(5):
        _, parts = kill_repeatedly(tmp_path / f"parts{seed}", kills=10, seconds=1.5, seed=seed)
        assert_same_run(parts, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda n: n.name)
def test_signal_saves_and_exits_with_its_own_code(
    number: signal.Signals, whole: Path, tmp_path: Path
) -> None:
    pid = start(tmp_path, *LONG)
    while not list(tmp_path.glob("*/*/*/latest.pt")):
        time.sleep(0.02)
    begun = time.monotonic()
    assert stop_after(pid, 0.1, number) == EXIT_CODE
    assert time.monotonic() - begun < 20
    folder = only_run(tmp_path)
    assert status(folder)["state"] == "preempted"
    assert number.name in str(status(folder)["reason"])
    assert "the same command continues it" in (tmp_path / "output.txt").read_text()
    assert train(tmp_path, *LONG) == 0
    assert_same_run(folder, whole)


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "missing", "segment truncated"])
def test_damaged_latest_state_falls_back_to_the_one_before(
    damage: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 15)
        assert train(tmp_path, *LONG) == INTERRUPTED
    folder = only_run(tmp_path)
    victim = folder / "latest.pt"
    if damage == "segment truncated":
        victim = max((folder / "replay").iterdir())
    content = bytearray(victim.read_bytes())
    if damage == "missing":
        victim.unlink()
    elif damage == "flipped bit":
        # Inside an entry: what lies between two of them is padding.
        with zipfile.ZipFile(victim) as archive:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        content[largest.header_offset + largest.file_size // 2 + 256] ^= 1
        victim.write_bytes(content)
    else:
        victim.write_bytes(content[: len(content) // 2])
    with pytest.warns(RuntimeWarning, match="continuing from"):
        assert train(tmp_path, *LONG) == 0
    assert_same_run(folder, whole)


def test_both_states_damaged_is_an_error_that_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tmp_path, *ANALYTIC, SAVE_ALWAYS)
    for name in ("latest.pt", "previous.pt"):
        (folder / name).write_bytes(b"nonsense")
    before = contents(folder)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert train(tmp_path, *ANALYTIC, SAVE_ALWAYS, "general.epochs=5") == 2
    assert "previous.pt cannot be read" in capsys.readouterr().err
    assert contents(folder) == before


def test_run_killed_while_it_finished_is_completed(whole: Path, tmp_path: Path) -> None:
    folder = trained(tmp_path, *LONG)
    (folder / "final_policy.pt").unlink()
    (folder / "metrics.csv").unlink()
    (folder / "status.json").write_text(json.dumps({"state": "running"}))
    assert train(tmp_path, *LONG) == 0
    assert status(folder)["state"] == "finished"
    assert (folder / "metrics.csv").exists()
    assert_same_run(folder, whole)


def test_replay_files_stay_bounded_and_grow_by_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_store, "MAX_SEGMENTS", 6)
    written: list[int] = []
    state_dict = ReplayBuffer.state_dict

    def counted(buffer: ReplayBuffer, since: Any = None) -> dict[str, Any]:
        state = state_dict(buffer, since)
        written.append(len(state["rows"]))
        return state

    monkeypatch.setattr(ReplayBuffer, "state_dict", counted)
    folder = trained(tmp_path, *LONG, "general.epochs=40", "general.eval_every=10", "alg.buffer_size=2000")
    # The untrained policy is saved with an empty buffer, then one transition of 4 environments at a time in
    # warm-up; every epoch adds 16 of them and at most 3 END rows each, until the files are merged.
    assert written[0] == 0
    assert max(written[1:6]) <= 4 + 4
    assert max(rows for number, rows in enumerate(written) if number % 6) <= 16 + 3 * 4
    assert max(written[6::6]) > 800
    assert len(list((folder / "replay").iterdir())) <= 2 * 6


def test_second_process_on_a_run_is_turned_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pid = start(tmp_path, *LONG, "general.epochs=4000")
    try:
        while not list(tmp_path.glob("*/*/*/latest.pt")):
            time.sleep(0.02)
        assert train(tmp_path, *LONG, "general.epochs=4000") == 2
        assert "another process is working on" in capsys.readouterr().err
        assert status(only_run(tmp_path))["state"] == "running"
    finally:
        assert stop_after(pid, 0.0, signal.SIGKILL) == -signal.SIGKILL
    # The lock died with the process.
    assert train(tmp_path, *LONG, "general.epochs=4000", "general.patience=1") == 0


def test_early_stopping_and_kept_policies(tmp_path: Path) -> None:
    options = [*ANALYTIC, "general.epochs=12", "general.checkpoint_every=2", "general.keep_checkpoints=2"]
    folder = trained(tmp_path, *options, "alg.actor_lr=1e-8", "alg.lr_final=0", "general.patience=3")
    records = computed(folder)
    returns = [record["eval/episode_return"] for record in records]
    best = max(range(len(returns)), key=returns.__getitem__)
    assert len(records) == best + 4 < 13
    kept = sorted(path.name for path in (folder / "policies").iterdir())
    assert kept == [f"epoch{epoch:07d}.pt" for epoch in range(2, len(records), 2)][-2:]
    before = contents(folder)
    assert train(tmp_path, *options, "alg.actor_lr=1e-8", "alg.lr_final=0", "general.patience=3") == 0
    assert contents(folder) == before
    # More patience continues it.
    assert train(tmp_path, *options, "alg.actor_lr=1e-8", "alg.lr_final=0", "general.patience=30") == 0
    assert len(computed(folder)) == 13


def test_file_that_cannot_be_written_is_one_clear_error_and_keeps_what_was_saved(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files, set by the kernel, stands in for a disk that is full."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, 10)
        assert train(tmp_path, *LONG) == INTERRUPTED
    folder = only_run(tmp_path)
    before = (folder / "latest.pt").read_bytes()
    assert wait(start(tmp_path, *LONG, largest_file=len(before) // 2)) == 2
    assert "File too large" in (tmp_path / "output.txt").read_text()
    assert status(folder)["state"] == "failed"
    assert "File too large" in str(status(folder)["reason"])
    assert (folder / "latest.pt").read_bytes() == before
    assert train(tmp_path, *LONG) == 0
    assert_same_run(folder, whole)


def test_log_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert train(tmp_path / "file", *ANALYTIC) == 2
    message = capsys.readouterr().err
    assert "cannot be written" in message
    assert "general.logdir" in message


def test_environment_that_explodes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, calls = DflexEnv.step, 0

    def exploding(env: DflexEnv, action: Any) -> StepResult:
        nonlocal calls
        calls += env.num_envs == 4
        result = step(env, action)
        if calls == 60:
            result.final_obs[2, 1] = float("nan")
        return result

    monkeypatch.setattr(DflexEnv, "step", exploding)
    assert train(tmp_path, *HOPPER) == 2
    message = capsys.readouterr().err
    assert "dflex_hopper: final_obs of environment 2 is not finite (entries [1]) after 236 steps" in message
    assert "EnvError" in str(status(only_run(tmp_path))["reason"])


def test_losses_that_explode_end_the_run_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ["alg.critic_lr=1e30", "alg.lr_schedule=constant", "alg.max_skipped_updates=2"]
    assert train(tmp_path, *ANALYTIC, *wild, SAVE_ALWAYS) == 2
    message = capsys.readouterr().err
    assert "critic gradient was not finite in" in message
    assert "lower its learning rate" in message
    folder = only_run(tmp_path)
    assert status(folder)["state"] == "failed"
    assert "NonFiniteError" in str(status(folder)["reason"])
    assert computed(folder)[0]["epoch"] == 0


def test_state_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pwm.checkpoints.storage.VERSION", 99)
        folder = trained(tmp_path, *ANALYTIC)
    before = contents(folder)
    capsys.readouterr()
    assert train(tmp_path, *ANALYTIC, "general.epochs=5") == 2
    assert "has version 99, this release reads 1" in capsys.readouterr().err
    assert contents(folder) == before
