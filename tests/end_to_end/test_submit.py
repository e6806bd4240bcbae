"""Submissions without a cluster: what a dry run shows, what a job does, what `pwm status` says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.end_to_end.processes import Forked
from tests.end_to_end.tiny import metrics, overrides, status

import pwm.runs.run  # noqa: F401 (so that forked processes have everything they need)
from pwm.cluster.grid import grid_runs
from pwm.cluster.submission import Submission, SubmittedRun, store
from pwm.launch.cli import main
from pwm.runs.preemption import EXIT_CODE
from pwm.study import run_pool

RUN = Path("logs/analytic_lqr/pwm_small_h16/seed1")
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder; no profile of a user, no SLURM, processes are forked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no_profile"))
    monkeypatch.setattr("pwm.cluster.slurm.installed", lambda: False)
    monkeypatch.setattr(run_pool, "start_process", Forked)
    return tmp_path


def submit(*words: str) -> int:
    return main(["submit", *words, "--dry-run"])


# --- what would run --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "tasks"),
    [
        (["single", "analytic", "pwm_small", "7"], ["analytic_lqr pwm_small seed 7"]),
        (
            ["multi", "analytic", "pwm_small", "multi_seed"],
            [f"analytic_lqr pwm_small seed {seed}" for seed in (42, 123, 456)],
        ),
        (
            ["multi", "analytic,dflex_hopper", "pwm_small", "multi_task"],
            ["analytic_lqr pwm_small seed 42", "dflex_hopper pwm_small seed 42"],
        ),
        (
            ["multi", "analytic", "pwm_small,pwm_small_flow", "baseline_vs_flow", "--seeds", "1,2"],
            [f"analytic_lqr {arm} seed {seed}" for seed in (1, 2) for arm in ("pwm_small", "pwm_small_flow")],
        ),
    ],
)
def test_a_dry_run_shows_the_jobs_and_writes_nothing(
    words: list[str], tasks: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(*words) == 0
    shown = capsys.readouterr().out
    assert [f"  task {index}: {title}" for index, title in enumerate(tasks)] == [
        line for line in shown.splitlines() if line.startswith("  task ")
    ]
    assert f"#SBATCH --array=0-{len(tasks) - 1}" in shown
    assert ("--- report.sh" in shown) == ("baseline_vs_flow" in words)
    assert not list(folder.iterdir())


def test_a_login_node_without_a_gpu_submits_gpu_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["multi", "analytic", "pwm_small,pwm_small_flow", "baseline_vs_flow", "--seeds", "1,2"]
    assert submit(*words, "launch.gpus=2", "launch.runs_per_job=8") == 0
    shown = capsys.readouterr().out
    assert "#SBATCH --gres=gpu:2" in shown
    # No more than the four runs need.
    assert "#SBATCH --cpus-per-task=4" in shown
    assert shown.count("  task ") == 1
    assert "general.device=cuda" in shown


def test_a_plan_of_a_hundred_runs_is_shown_in_two_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    arms = ["experiment=flow_vs_mlp", "arms.residual=null", "env=dflex_hopper"]
    seeds = ",".join(map(str, range(50)))
    start = time.process_time()
    assert main(["experiment", *arms, f"seeds=[{seeds}]", "launch=slurm", "--dry-run"]) == 0
    # Of this process alone, however busy the machine is.
    assert time.process_time() - start < 2.0
    assert "100 runs: 100 to be submitted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["multi", "analytic", "pwm_small", "several"],
            "choose one of: multi_seed, multi_task, baseline_vs_flow",
        ),
        (
            ["multi", "analytic,dflex_hopper", "pwm_small", "multi_seed"],
            "multi_task takes several environments",
        ),
        (["multi", "analytic", "pwm_small", "multi_task"], "on several environments, not 1"),
        (["multi", "analytic", "pwm_small", "baseline_vs_flow"], "compares two algorithms"),
        (["multi", "analytic,", "pwm_small", "multi_task"], "separated by commas"),
        (["multi", "analytic", "pwm_small", "multi_seed", "--seeds", "1,x"], "--seeds '1,x'"),
        (["single", "nowhere", "pwm_small", "1"], "there is no env/nowhere"),
        (["single", "analytic", "pwm_small", "1", "launch=phoenix"], "launch.account"),
        (["single", "analytic", "pwm_small", "1", "launch.gpus=1", "general.device=cpu"], "would be idle"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(*words) == 2
    assert message in capsys.readouterr().err


def test_without_slurm_nothing_is_submitted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "single", "analytic", "pwm_small", "7"]) == 2
    assert "sbatch is not there" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_the_originals_scripts_say_how_they_are_called() -> None:
    for name, words in (
        ("submit_job.sh", ["single", "dflex_ant"]),
        ("slurm_single_gpu.sh", ["dflex_ant"]),
        ("slurm_multi_gpu.sh", ["dflex_ant", "pwm_48M", "42", "x"]),
    ):
        assert os.access(SCRIPTS / name, os.X_OK)
        done = subprocess.run([SCRIPTS / name, *words], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: scripts/" + name)


# --- what a job does -------------------------------------------------------------------------------


def submission(*changes: str, seeds: Sequence[int] = (1, 2), seconds: int = 3600) -> Path:
    """Folder of a stored submission of tiny runs in one job."""
    common = [o for o in overrides(Path("logs"), *changes) if not o.startswith("alg=")]
    runs = grid_runs(["analytic"], ["pwm_small_h16"], seeds, common)
    stored = Submission([SubmittedRun.of(run) for run in runs], 2, 1, 3, seconds, 0, 10)
    folder = store(Path("logs"), stored, [])
    assert Submission.read(folder / "plan.json") == stored
    return folder


def task(folder: Path, index: int = 0) -> int:
    return main(["array-task", str(folder / "plan.json"), str(index)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder in which a job has made its run; for reading only."""
    folder = tmp_path_factory.mktemp("made")
    job = {
        "SLURM_JOB_ID": "15",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_RESTART_COUNT": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(run_pool, "start_process", Forked)
        for name, value in job.items():
            patch.setenv(name, value)
        assert task(submission(seeds=[1])) == 0
    return folder


def test_a_job_trains_and_evaluates_its_run_and_knows_its_number(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made / RUN
    assert status(run)["state"] == "finished"
    assert (run / "evaluation_final_policy.json").exists()
    assert json.loads((run / "manifest.json").read_text())["job"] == {"id": "12_0", "attempt": 2}
    # Nothing is done twice.
    monkeypatch.chdir(made)
    capsys.readouterr()
    plan = Path("logs/slurm/0001")
    assert task(plan) == 0
    assert not capsys.readouterr().out
    assert task(plan, 1) == 2
    assert "has no task 1" in capsys.readouterr().err


def test_a_job_ends_by_its_own_clock(folder: Path) -> None:
    plan = submission("general.epochs=4000", "general.eval_every=4000", seeds=[1], seconds=1)
    assert task(plan) == EXIT_CODE
    before = status(RUN)["epoch"] if (RUN / "status.json").exists() else 0
    assert before < 4000
    assert not list(plan.glob("run_*.json"))


def test_a_run_that_fails_says_why_where_the_report_finds_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = submission(seeds=[2])
    damaged = Path("logs/analytic_lqr/pwm_small_h16/seed2")
    damaged.mkdir(parents=True)
    (damaged / "config.yaml").write_text("alg: {}")
    assert task(plan) == 1
    assert "is not a configuration" in json.loads((plan / "run_0.json").read_text())["reason"]
    capsys.readouterr()
    assert main(["status", "logs"]) == 0
    shown = capsys.readouterr().out
    assert "1 run: 1 failed" in shown
    assert "is not a configuration" in shown


# --- status ----------------------------------------------------------------------------------------


def test_status_tells_what_runs_and_what_only_says_so(
    made: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / RUN, RUN)
    run = RUN
    stored = status(run)

    def shown(**changes: object) -> dict[str, object]:
        (run / "status.json").write_text(json.dumps(stored | changes))
        capsys.readouterr()
        assert main(["status", "logs", "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        return found

    found = shown()
    assert (found["run"], found["state"], found["epoch"], found["epochs"]) == (str(run), "finished", 3, 3)
    assert found["last_return"] == metrics(run)[-1]["eval/episode_return"]
    assert found["seconds_left"] is None
    assert shown(state="running", pid=os.getpid())["state"] == "running"
    half = shown(state="running", epochs=6, pid=2**22 + 1)
    assert (half["state"], half["reason"]) == ("dead", f"process {2**22 + 1} is gone")
    assert half["seconds_left"] == pytest.approx(metrics(run)[-1]["wall_time"])
    assert shown(state="running", host="elsewhere")["reason"].startswith("on elsewhere")
    assert shown(state="failed", reason="two\nlines")["reason"] == "two\nlines"


def test_status_of_a_submission_that_never_began(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = submission()
    (plan / "jobs.json").write_text('{"array": 12}')
    assert main(["status", "logs/nothing"]) == 2
    assert "logs/nothing holds no run" in capsys.readouterr().err
    assert main(["status", "logs/analytic_lqr", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(run["state"], run["job"], run["epochs"]) for run in found] == [("missing", "12_0", 3)] * 2
    (plan / "plan.json").write_text("{}")
    assert main(["status", "logs"]) == 2
    assert "is not a plan of this release" in capsys.readouterr().err
