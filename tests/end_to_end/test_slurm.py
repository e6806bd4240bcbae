"""An array on a real SLURM node: a kill, a time limit, a cancellation; results are those of local runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.processes import Forked
from tests.end_to_end.tiny import assert_same_run, metrics, overrides

import pwm
import pwm.study.findings  # so that forked processes have everything they need
from pwm.cluster import slurm
from pwm.launch.cli import main
from pwm.study import run_pool

NODE = Path(__file__).with_name("slurm_node.sh")
# Epochs of a run, and how many of them are done before something happens to it.
EPOCHS, EARLY = 100, 5
LENGTH = [
    f"general.epochs={EPOCHS}",
    f"general.eval_every={EPOCHS // 2}",
    "general.run_wandb=true",
    "wandb.mode=offline",
]
LAUNCH = ["launch=slurm", "launch.time=01:00:00", "launch.warning=60", "launch.max_running=2"]
ARMS = ["experiment=flow_vs_mlp", "arms.residual=null", "env=analytic", "seeds=[1,2]"]
# Seconds that one step may take on a busy machine.
PATIENCE = 1500

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(
        shutil.which("sbatch") is None, reason="sbatch is not installed; as root, `make slurm` installs SLURM"
    ),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A SLURM that answers: the one that is there, or a node of our own."""
    subprocess.run([NODE, "start"], check=True)
    yield
    subprocess.run([NODE, "stop"], check=True)


@pytest.fixture
def folder(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Working folder of jobs, which find these sources; what is left of them is cancelled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(pwm.__file__).parents[1]))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no_profile"))
    yield tmp_path
    for jobs in tmp_path.glob("**/slurm/*/jobs.json"):
        subprocess.run(["scancel", *map(str, json.loads(jobs.read_text()).values())], check=False)


def experiment(*options: str) -> None:
    """``pwm experiment`` of four tiny runs below ``logs``."""
    assert main(["experiment", *ARMS, *overrides(Path("logs"), *LENGTH), "--episodes", "3", *options]) == 0


def runs() -> list[Path]:
    """The four run folders in the order of the array."""
    top = Path("logs/experiments/flow_vs_mlp/analytic_lqr")
    return [top / arm / f"seed{seed}" for seed in (1, 2) for arm in ("mlp", "flow")]


def shown(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What ``pwm status --json`` says of the four runs, in the order of the array."""
    capsys.readouterr()
    assert main(["status", "logs", "--json"]) == 0
    found = {Path(run["run"]): run for run in json.loads(capsys.readouterr().out)}
    assert set(found) == set(runs())
    return [found[run] for run in runs()]


def until(happened: Callable[[], Any]) -> Any:
    """Wait for something; returns it."""
    end = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


def frozen(run: Path) -> int:
    """Stop the process of a run that has begun and is not over; returns its pid."""

    def epochs() -> int:
        return len(metrics(run)) if (run / "metrics.jsonl").exists() else 0

    until(lambda: epochs() > EARLY)
    pid = json.loads((run / "status.json").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert epochs() < EPOCHS
    return int(pid)


def control(*words: str) -> None:
    subprocess.run(words, check=True)


def test_an_array_outlives_a_kill_a_time_limit_and_a_cancellation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment(*LAUNCH)
    submission = Path("logs/experiments/flow_vs_mlp/slurm/0001")
    numbers = json.loads((submission / "jobs.json").read_text())
    array = numbers["array"]
    limited, killed, cancelled, untouched = runs()

    # Two run at the same time, the others wait for them.
    pid = frozen(limited)
    victim = frozen(killed)
    found = shown(capsys)
    assert [run["state"] for run in found] == ["running", "running", "waiting", "waiting"]
    assert [run["job"] for run in found] == [f"{array}_{index}" for index in range(4)]
    assert found[2]["reason"] == "JobArrayTaskLimit"
    assert found[0]["seconds_left"] > 0
    assert found[0]["epochs"] == found[2]["epochs"] == EPOCHS

    # Killed, as by a lack of memory.
    os.kill(victim, signal.SIGKILL)
    until(lambda: (submission / "run_1.json").exists())
    assert shown(capsys)[1] | {"state": "failed", "reason": "killed by SIGKILL"} == shown(capsys)[1]
    # The third run has its place. On an idle machine it would be over before it is cancelled.
    held = frozen(cancelled)

    # The time limit draws near: SLURM's signal comes, the run saves, and its task goes back into the queue.
    control("scontrol", "update", f"JobId={array}_0", f"TimeLimit={minutes_since_start(f'{array}_0') + 1}")
    until(lambda: "USR1: 1 runs save and end" in (submission / "task_0.txt").read_text())
    os.kill(pid, signal.SIGCONT)
    until(lambda: slurm.queued([array])[f"{array}_0"].state == "PENDING")
    found = shown(capsys)
    assert found[0]["state"] == "waiting"
    assert found[0]["reason"].endswith("preempted before")
    assert EARLY <= found[0]["epoch"] < EPOCHS
    control("scontrol", "update", f"JobId={array}_0", "TimeLimit=60")
    identity = (limited / "wandb_id.txt").read_text()

    # Cancelled by its user.
    control("scancel", f"{array}_2")
    until(lambda: "TERM: 1 runs save and end" in (submission / "task_2.txt").read_text())
    os.kill(held, signal.SIGCONT)
    until(lambda: f"{array}_2" not in slurm.queued([array]))
    found = shown(capsys)
    assert found[2]["state"] == "preempted"
    assert "CANCELLED" in found[2]["reason"]

    # What is left ends well, and the report follows with what there is.
    until(lambda: not slurm.queued(numbers.values()))
    found = shown(capsys)
    assert [run["state"] for run in found] == ["finished", "failed", "preempted", "finished"]
    manifest = json.loads((limited / "manifest.json").read_text())
    assert manifest["job"] == {"id": f"{array}_0", "attempt": 2}
    assert manifest["earlier"][0]["job"] == {"id": f"{array}_0", "attempt": 1}
    assert (limited / "wandb_id.txt").read_text() == identity
    report = Path("logs/experiments/flow_vs_mlp/report.md")
    assert "killed by SIGKILL" in report.read_text()

    # Submitting again makes what is missing, and then nothing.
    capsys.readouterr()
    experiment(*LAUNCH)
    assert "4 runs: 2 done, 2 to be submitted" in capsys.readouterr().out
    experiment(*LAUNCH)
    assert "4 runs: 2 done, 2 in the queue already" in capsys.readouterr().out
    again = json.loads((submission.parent / "0002" / "jobs.json").read_text())
    assert [run["job"] for run in shown(capsys)] == [f"{array}_0", f"{again['array']}_0"] + [
        f"{again['array']}_1",
        f"{array}_3",
    ]
    until(lambda: not slurm.queued(again.values()))
    assert [run["state"] for run in shown(capsys)] == ["finished"] * 4
    assert "SIGKILL" not in report.read_text()
    capsys.readouterr()
    experiment(*LAUNCH)
    assert "4 runs: 4 done" in capsys.readouterr().out
    assert not (submission.parent / "0003").exists()

    compare_with_local_runs(folder)


def minutes_since_start(task: str) -> int:
    """Whole minutes that a task has been running."""
    shown = subprocess.run(
        ["squeue", "-h", "-j", task, "-o", "%M"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return sum(int(part) * 60**power for power, part in enumerate(reversed(shown.split(":")))) // 60


def compare_with_local_runs(folder: Path) -> None:
    """Train the same four runs here, in processes of the pool, and compare them bit by bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_pool, "start_process", Forked)
        (folder / "local").mkdir()
        patch.chdir(folder / "local")
        experiment("launch=local", "--jobs", "1")
    for run in runs():
        assert_same_run(folder / run, folder / "local" / run)
