"""From planned runs to jobs: what is left of them, whether the cluster can do it, and `sbatch`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pwm import files
from pwm.cluster import slurm
from pwm.cluster.checks import check_cluster, check_devices
from pwm.cluster.profiles import SlurmProfile
from pwm.cluster.scripts import array_script, report_script
from pwm.cluster.submission import (
    Submission,
    SubmittedRun,
    below_root,
    next_folder,
    plans,
    records,
    send,
    store,
)
from pwm.configuration.overrides import parse_overrides
from pwm.study.run_job import RunJob, TrainingRun


@dataclass(frozen=True)
class RunsToSubmit:
    """Runs that are to be submitted together.

    Attributes:
        name: of their jobs.
        root: folder that the submission is stored below.
        runs: all of them, those included that are done.
        threads: of each run.
        episodes: held-out episodes of every policy.
        report: arguments of ``pwm`` that write the report of all runs; empty for none.
    """

    name: str
    root: Path
    runs: Sequence[TrainingRun]
    threads: int
    episodes: int
    report: Sequence[str] = ()


def on_device(profile: SlurmProfile, overrides: Sequence[str]) -> list[str]:
    """Overrides of runs with the device that their jobs ask for, unless they name one."""
    if not profile.gpus or any(o.key == "general.device" for o in parse_overrides(overrides)):
        return list(overrides)
    return [*overrides, "general.device=cuda"]


def submit_runs(plan: RunsToSubmit, profile: SlurmProfile, dry_run: bool) -> None:
    """Submit what is neither done nor in the queue, and tell the user what that is.

    Args:
        plan: the runs.
        profile: what their jobs ask for.
        dry_run: submit nothing; print the scripts.

    Raises:
        ConfigError: the cluster cannot do it; every reason is named.
        SlurmError: SLURM does not answer, or refuses the jobs.
    """
    check_devices(profile, {run.title: run.config.general.device for run in plan.runs})
    if not dry_run and not slurm.installed():
        raise slurm.SlurmError("sbatch is not there; jobs are submitted from a login node of a cluster")
    guard = contextlib.nullcontext() if dry_run else files.locked(plan.root / "slurm", "name")
    with guard:
        left, lines = _left(plan)
        print("\n".join(lines))
        if not left:
            if plan.report:
                print("nothing is left to submit; --report-only writes the report of what is there")
            return
        profile = profile.for_runs(len(left))
        submission = Submission(
            [SubmittedRun.of(run) for run in left],
            profile.runs_per_job,
            plan.threads,
            plan.episodes,
            profile.seconds,
            profile.warning,
            profile.attempts,
        )
        if slurm.installed():
            jobs, largest = submission.jobs, slurm.largest_array()
            check_cluster(profile, slurm.partitions(), jobs, largest, plan.threads, bool(plan.report))
        scripts = _scripts(plan, profile, submission)
        if dry_run:
            print("\n".join([*_table(submission), *(text for pair in scripts for text in _shown(*pair))]))
            if not slurm.installed():
                print("not checked: sbatch is not there, so this is no login node of a cluster")
            return
        folder = store(plan.root, submission, scripts)
        jobs_sent = send(folder)
    print(_sent(plan, submission, folder, jobs_sent))


def _left(plan: RunsToSubmit) -> tuple[list[TrainingRun], list[str]]:
    """The runs that are to be submitted, and what becomes of the others."""
    submitted = {record.run.path: record.job for record in records(plans(plan.root)) if record.job}
    queue = {}
    if submitted and slurm.installed():
        queue = slurm.queued(int(job.split("_")[0]) for job in submitted.values())
    waiting = [run for run in plan.runs if submitted.get(below_root(run.folder)) in queue]
    done = [
        run for run in plan.runs if run not in waiting and RunJob(run, plan.root, plan.episodes, False).done()
    ]
    left = [run for run in plan.runs if run not in waiting and run not in done]
    counts = {"done": done, "in the queue already": waiting, "to be submitted": left}
    words = ", ".join(f"{len(runs)} {what}" for what, runs in counts.items() if runs)
    return left, [f"{len(plan.runs)} run{'s' * (len(plan.runs) > 1)}: {words}"]


def _scripts(plan: RunsToSubmit, profile: SlurmProfile, submission: Submission) -> list[tuple[str, str]]:
    """Name and text of each script."""
    folder, here = next_folder(plan.root).absolute(), Path.cwd()
    array = array_script(profile, plan.name, folder, submission.jobs, submission.threads, here)
    scripts = [("array.sh", array)]
    if plan.report:
        scripts.append(("report.sh", report_script(profile, plan.name, folder, plan.report, here)))
    return scripts


def _table(submission: Submission) -> list[str]:
    """A line for every job, with its runs."""
    titles = [run.title for run in submission.runs]
    jobs = range(submission.jobs)
    return [
        f"  task {index}: {', '.join(titles[number] for number in submission.numbers(index))}"
        for index in jobs
    ]


def _shown(name: str, text: str) -> list[str]:
    return ["", f"--- {name}", text.rstrip()]


def _sent(plan: RunsToSubmit, submission: Submission, folder: Path, jobs: dict[str, int]) -> str:
    tasks = "task 0" if submission.jobs == 1 else f"tasks 0 to {submission.jobs - 1}"
    lines = [f"submitted as job {jobs['array']}, {tasks}; output: {folder}"]
    if "report" in jobs:
        lines.append(f"the report follows as job {jobs['report']}, when all of them have ended")
    return "\n".join([*lines, f"see what they do: pwm status {plan.root}"])
