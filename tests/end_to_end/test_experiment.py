"""An experiment from one command to its report: failures, interruption, continuation, nothing done twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.end_to_end.processes import Forked
from tests.end_to_end.tiny import metrics, overrides, status

import pwm
import pwm.runs.run
import pwm.study.findings  # so that forked processes have everything they need
from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED
from pwm.launch.cli import main
from pwm.runs.preemption import EXIT_CODE
from pwm.study import run_pool
from pwm.study.run_progress import MetricsTail

EPISODES = 3


def experiment(logdir: Path, *changes: str, options: Sequence[str] = ()) -> int:
    """``pwm experiment`` with two arms and tiny runs, one or two at a time; returns the exit code."""
    arms = ["experiment=flow_vs_mlp", "arms.residual=null", "env=analytic"]
    chosen = overrides(logdir, *changes)
    return main(["experiment", *arms, *chosen, "--jobs", "2", "--episodes", str(EPISODES), *options])


def folder(logdir: Path) -> Path:
    return logdir / "experiments" / "flow_vs_mlp"


def run_folder(logdir: Path, arm: str, seed: int) -> Path:
    return folder(logdir) / "analytic_lqr" / arm / f"seed{seed}"


class Starts:
    """Starts forked processes and remembers their arguments; ``then`` is called with each."""

    def __init__(self, then: Callable[[Sequence[str], Forked], None] = lambda *_: None) -> None:
        self.then = then
        self.arguments: list[list[str]] = []

    def __call__(self, arguments: Sequence[str], threads: int, log: Path, gpu: str | None = None) -> Forked:
        self.arguments.append(list(arguments))
        process = Forked(arguments, threads, log)
        self.then(arguments, process)
        return process

    def count(self, command: str) -> int:
        return sum(arguments[0] == command for arguments in self.arguments)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Processes are forked instead of started afresh."""
    found = Starts()
    monkeypatch.setattr(run_pool, "start_process", found)
    return found


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log folder of an experiment whose last run, flow with seed 2, was killed in the first call."""
    logdir = tmp_path_factory.mktemp("experiment")

    def kill(arguments: Sequence[str], process: Forked) -> None:
        if "general.name=flow" in arguments and "general.seed=2" in arguments:
            process.kill()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_pool, "start_process", Starts(kill))
        assert experiment(logdir, "seeds=[1,2]") == 1
    return logdir


@pytest.fixture
def logdir(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that log folder, named in the same way from the working directory."""
    shutil.copytree(kept, tmp_path / "logs")
    return tmp_path / "logs"


# --- a run that fails, and all of them done --------------------------------------------------------


def test_a_failed_run_stops_no_other_and_the_report_says_so(kept: Path) -> None:
    for arm, seed in (("mlp", 1), ("flow", 1), ("mlp", 2)):
        run = run_folder(kept, arm, seed)
        assert status(run)["state"] == "finished"
        for which in ("best", "final"):
            stored = json.loads((run / f"evaluation_{which}_policy.json").read_text())
            assert len(stored["returns"]) == EPISODES
            assert stored["evaluation_seed"] == HELD_OUT_SEED
    report = (folder(kept) / "report.md").read_text()
    assert "killed by SIGKILL" in report
    assert "analytic_lqr flow seed 2" in report
    assert (folder(kept) / "report.html").is_file()


def test_the_same_command_does_what_is_missing_and_then_nothing(
    logdir: Path, starts: Starts, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder(logdir).rglob("*.pt")}
    assert experiment(logdir, "seeds=[1,2]") == 0
    assert [arguments[0] for arguments in starts.arguments] == ["train", "evaluate", "evaluate"]
    assert "general.name=flow" in starts.arguments[0]
    assert "general.seed=2" in starts.arguments[0]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    shown = capsys.readouterr().out
    assert "[4/4] analytic_lqr flow seed 2: best policy " in shown
    assert f"report: {folder(logdir) / 'report.html'}" in shown
    report = (folder(logdir) / "report.md").read_text()
    assert "SIGKILL" not in report
    assert "pwm train env=analytic" in report

    assert experiment(logdir, "seeds=[1,2]", options=["--dry-run"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("analytic_lqr ")]
    assert [row.split()[-1] for row in rows] == ["done"] * 4


def test_a_dry_run_says_what_is_done_and_estimates_from_it(
    kept: Path, starts: Starts, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(kept, "seeds=[1,2]", options=["--dry-run"]) == 0
    shown = capsys.readouterr().out
    rows = {tuple(line.split()[1:3]): line for line in shown.splitlines() if line.startswith("analytic_lqr ")}
    assert rows["mlp", "1"].endswith("done")
    assert not rows["flow", "2"].endswith("done")
    assert "4 runs, 3 trained already; about " in shown
    assert "  2 finished runs of this arm: analytic_lqr mlp" in shown
    assert "  1 finished run of this arm: analytic_lqr flow" in shown
    assert "warning" not in shown
    assert not starts.arguments


def test_runs_that_would_be_made_with_something_else_are_named_before_they_start(
    logdir: Path, starts: Starts, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_folder(logdir, "mlp", 2) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"git_commit": "old", "versions": {"torch": "0.1"}}))
    assert experiment(logdir, "seeds=[1,2]", options=["--dry-run"]) == 0
    shown = capsys.readouterr().out.partition("warning: ")[2]
    assert "NOT COMPARABLE" in shown
    assert "  git_commit: old -> " in shown
    assert "  versions.torch: 0.1 -> " in shown
    assert set(re.findall(r"\(([^()]*)\)$", shown, re.MULTILINE)) == {"analytic_lqr mlp seed 2"}

    told: list[str] = []
    starts.then = lambda *_: told.append(capsys.readouterr().out)
    assert experiment(logdir, "seeds=[1,2]") == 0
    assert "git_commit: old -> " in told[0]
    # All is trained: nothing is to be warned of, and the report says what came of it.
    report = folder(logdir) / "report.md"
    assert "manifest.versions.torch" in report.read_text()
    report.unlink()
    assert experiment(logdir, "seeds=[1,2]") == 0
    assert "warning" not in capsys.readouterr().out
    assert "NOT COMPARABLE" in report.read_text()


def test_runs_of_another_configuration_are_not_mixed_in(
    kept: Path, starts: Starts, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(kept, "seeds=[1,2]", "alg.gamma=0.9") == 2
    shown = capsys.readouterr().err
    assert "alg.gamma: 0.995 -> 0.9" in shown
    assert "name=flow_vs_mlp_2" in shown
    assert not starts.arguments


def test_an_evaluation_of_another_policy_or_length_does_not_count(
    logdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(logdir, "mlp", 1)
    shutil.copy(run_folder(logdir, "mlp", 2) / "final_policy.pt", run / "final_policy.pt")
    (run_folder(logdir, "flow", 1) / "evaluation_best_policy.json").write_text("{")
    again = "trained, to be evaluated"

    def states(*options: str) -> list[str]:
        assert experiment(logdir, "seeds=[1,2]", options=["--dry-run", *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line.split("  ")[-1] for line in lines if line.startswith("analytic_lqr ")]

    assert states() == [again, again, "done", "new"]
    assert states("--episodes", "2") == [again, again, again, "new"]


def test_a_run_that_cannot_go_on_is_named_with_its_message(
    logdir: Path, starts: Starts, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder(logdir, "flow", 1) / "best_policy.pt").unlink()
    assert experiment(logdir, "seeds=[1]") == 1
    shown = capsys.readouterr()
    assert "has no best_policy.pt" in shown.out
    # Nothing is left to compare the MLP with.
    assert "no report: no run can be used of: flow" in shown.err


def test_an_unequal_pair_is_refused_before_anything_is_trained(
    tmp_path: Path, starts: Starts, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(tmp_path, "seeds=[1]", 'arms.flow=[dynamics=flow,"alg.dynamics.units=[4]"]') == 2
    shown = capsys.readouterr().err
    assert "FAIL" in shown
    assert "parity at: alg.dynamics.units=[" in shown
    assert not starts.arguments
    assert not list(tmp_path.iterdir())


def test_what_the_report_needs_is_looked_for_first(
    tmp_path: Path, starts: Starts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pwm.packages.REPORT", ("jinja2", "no_such_package"))
    assert experiment(tmp_path, "seeds=[1]") == 2
    shown = capsys.readouterr().err
    assert shown == 'pwm: comparing runs needs no_such_package: pip install "flow-pwm[report]"\n'
    assert not starts.arguments


# --- interruption ----------------------------------------------------------------------------------


def when_trained(run: Path, epochs: int, then: Callable[[], None]) -> None:
    """Call ``then`` from another thread once a run has written so many epochs."""

    def watch() -> None:
        while not (run / "metrics.jsonl").exists() or len(metrics(run)) < epochs:
            time.sleep(0.01)
        then()

    threading.Thread(target=watch, daemon=True).start()


def test_sigterm_preempts_runs_and_the_same_command_continues(
    tmp_path: Path, starts: Starts, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["seeds=[1]", "general.epochs=60", "general.eval_every=30", "name=stopped"]
    runs = tmp_path / "experiments" / "stopped" / "analytic_lqr"

    def stop(arguments: Sequence[str], process: Forked) -> None:
        when_trained(runs / "mlp" / "seed1", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))

    starts.then = stop
    assert experiment(tmp_path, *changes, options=["--jobs", "1"]) == EXIT_CODE
    assert starts.count("train") == 1
    assert "the same command continues it" in capsys.readouterr().out
    assert status(runs / "mlp" / "seed1")["state"] == "preempted"
    assert 2 <= status(runs / "mlp" / "seed1")["epoch"] < 60
    assert not (runs.parent / "report.md").exists()

    starts.then = lambda *_: None
    assert experiment(tmp_path, *changes) == 0
    assert starts.count("train") == 3
    for arm in ("mlp", "flow"):
        run = runs / arm / "seed1"
        assert status(run)["state"] == "finished"
        assert [int(record["epoch"]) for record in metrics(run)] == list(range(61))
    assert (runs.parent / "report.md").exists()


# --- processes -------------------------------------------------------------------------------------


def test_a_process_is_pwm_with_its_threads_in_a_session_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(pwm.__file__).parents[1]))
    log = tmp_path / "output" / "run.txt"
    process = run_pool.start_process(["train", "--print-config", "alg=pwm_small_h16"], 3, log)
    assert os.getsid(process.pid) == process.pid
    environment = Path(f"/proc/{process.pid}/environ")
    if environment.exists():
        # The kernel shows nothing in the moment between two programs of one process.
        while not (seen := environment.read_bytes()) and process.poll() is None:
            time.sleep(0.001)
        assert b"OMP_NUM_THREADS=3\0" in seen
    assert process.wait(timeout=60) == 0
    assert "preset: pwm_small_h16" in log.read_text()


class Words:
    """A job of given commands."""

    title = "job"

    def __init__(self, log: Path, *commands: list[str]) -> None:
        self.log, self._commands = log, commands

    def commands(self) -> Sequence[list[str]]:
        return self._commands

    def progress(self, command: Sequence[str]) -> None:
        return None


def test_jobs_end_with_their_reason_and_at_most_so_many_run(
    tmp_path: Path, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[Forked] = []

    def count(_: Sequence[str], process: Forked) -> None:
        running.append(process)
        assert sum(p.returncode is None for p in running) <= 2

    starts.then = count
    good, bad = ["train", "--print-config"], ["train", "alg=none"]
    work = [[good, good], [bad, good], [], [good]]
    jobs = [Words(tmp_path / f"{number}.txt", *commands) for number, commands in enumerate(work)]
    told: list[str] = []
    outcomes = run_pool.run_jobs(jobs, 2, 1, lambda job, outcome: told.append(job.log.name))
    assert [outcome.state for outcome in outcomes] == ["finished", "failed", "finished", "finished"]
    assert "there is no alg/none" in outcomes[1].reason
    assert starts.count("train") == 4
    assert sorted(told) == ["0.txt", "1.txt", "2.txt", "3.txt"]


def test_the_last_record_is_read_once_and_a_replaced_file_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.read() == []
    path.write_text('{"epoch": 0}\n{"epo')
    assert tail.read() == [{"epoch": 0}]
    assert tail.read() == []
    with path.open("a") as file:
        file.write('ch": 1}\n')
    assert tail.read() == [{"epoch": 1}]
    (tmp_path / "new").write_text('{"epoch": 0}\n{"epoch": 1}\n{"epoch": 2}\n')
    (tmp_path / "new").replace(path)
    assert [record["epoch"] for record in tail.read()] == [0, 1, 2]
