"""What a job of an array does: the runs of its index, with the pool that trains all runs everywhere."""

from __future__ import annotations

from pathlib import Path

from pwm.cluster.submission import Submission, ending_file
from pwm.errors import ConfigError
from pwm.files import write_json
from pwm.runs import preemption
from pwm.runs.provenance import slurm_job
from pwm.runs.status import FAILED, FINISHED
from pwm.study.run_job import EndedRuns, RunJob
from pwm.study.run_pool import JobOutcome, run_jobs, visible_gpus


def run_task(plan: Path, index: int) -> int:
    """Train and evaluate the runs of task ``index`` of the submission stored in ``plan``.

    SLURM's signal, or the clock where none comes, lets every run save and end before the limit of the job.

    Returns:
        Exit code: 0, 1 if a run failed, ``preemption.EXIT_CODE`` if one has something left to do.

    Raises:
        DataError: the plan cannot be read.
        ConfigError: it has no such task.
    """
    submission, folder = Submission.read(plan), plan.parent
    if not 0 <= index < submission.jobs:
        raise ConfigError(f"{plan} has no task {index}; choose one from 0 to {submission.jobs - 1}")
    jobs: dict[RunJob, Path] = {}
    for number in submission.numbers(index):
        # Seen by nobody: output goes to a file, where bars would fill it.
        jobs[RunJob(submission.runs[number], folder, submission.episodes, False)] = ending_file(
            folder, number
        )
    for path in jobs.values():
        path.unlink(missing_ok=True)
    left = [job for job in jobs if not job.done()]
    told = EndedRuns(len(jobs), len(jobs) - len(left))

    def report(job: RunJob, outcome: JobOutcome) -> None:
        told(job, outcome)
        if outcome.state == FAILED:
            write_json(jobs[job], {"state": FAILED, "reason": outcome.reason, "job": slurm_job()})

    gpus = visible_gpus() if any(job.run.config.general.device != "cpu" for job in left) else []
    # Half of the time between signal and limit is left if the signal has not come.
    seconds = submission.seconds - submission.warning / 2
    outcomes = run_jobs(left, max(1, len(left)), submission.threads, report, gpus, seconds)
    states = {outcome.state for outcome in outcomes}
    if states <= {FINISHED}:
        return 0
    return preemption.EXIT_CODE if states - {FINISHED, FAILED} else 1
