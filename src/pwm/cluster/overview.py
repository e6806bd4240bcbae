"""What runs are doing, or how they ended: `pwm status`, from their folders, the submissions and the queue."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from pwm.checkpoints.run_search import run_folders
from pwm.cluster import slurm
from pwm.cluster.slurm import QueuedJob
from pwm.cluster.submission import FOLDER, RunRecord, records
from pwm.errors import DataError
from pwm.numbers import aligned, readable
from pwm.runs.provenance import read_manifest
from pwm.runs.status import FAILED, FINISHED, PREEMPTED, RUNNING, StatusFile

# Besides the states that a run says of itself: its job waits in the queue; it says that it is running and
# nothing runs it; it has not begun and nothing will begin it.
WAITING, DEAD, MISSING = "waiting", "dead", "missing"
SCORE = b'"eval/episode_return"'


@dataclass(frozen=True)
class RunOverview:
    """One run.

    Attributes:
        run: its folder, as it was found.
        state: ``running``, ``finished``, ``preempted``, ``failed``, ``waiting``, ``dead`` or ``missing``.
        epoch: epochs done; of a run that is not running those that are saved.
        epochs: of the whole run; None where nothing says it.
        seconds_left: of training, at the speed so far; None where nothing is known of it.
        last_return: of the last evaluation; None before the first one.
        job: number of its last job; empty if it had none.
        reason: in words.
    """

    run: str
    state: str
    epoch: int
    epochs: int | None
    seconds_left: float | None
    last_return: float | None
    job: str
    reason: str


@dataclass(frozen=True)
class SlurmAnswer:
    """What SLURM says of jobs.

    Attributes:
        queue: those that have not ended, by their number.
        ended: how the others did, as far as it still knows.
    """

    queue: Mapping[str, QueuedJob]
    ended: Mapping[str, str]


def overview(top: Path) -> list[RunOverview]:
    """Every run in or below ``top``, those included that were submitted and have not begun.

    Raises:
        DataError: ``top`` holds no run, or a plan in it cannot be read.
        SlurmError: there are submitted runs, and SLURM is here and does not answer.
    """
    top_absolute = top.absolute()
    submitted = {r.folder: r for r in records(_plans(top_absolute)) if r.folder.is_relative_to(top_absolute)}
    folders = {folder.absolute() for folder in run_folders(top)} | set(submitted)
    if not folders:
        raise DataError(f"{top} holds no run; name the folder of one, of an experiment or of all logs")
    jobs = {
        folder: submitted[folder].job if folder in submitted else _stated_job(folder) for folder in folders
    }
    unfinished = {
        int(job.split("_")[0]) for folder, job in jobs.items() if job and not StatusFile(folder).ended
    }
    answer = _asked(unfinished)
    found = []
    for folder in sorted(folders):
        run = _Run(folder, submitted.get(folder), jobs[folder])
        found.append(run.overview(str(top / folder.relative_to(top_absolute)), answer))
    return found


def in_words(runs: Sequence[RunOverview]) -> str:
    """Plain text: a row per run, and how many there are of each state."""
    header = ("run", "state", "epoch", "time left", "last return", "job", "reason")
    rows = [
        (
            run.run,
            run.state,
            str(run.epoch) if run.epochs is None else f"{run.epoch}/{run.epochs}",
            "-" if run.seconds_left is None else tqdm.format_interval(round(run.seconds_left)),
            "-" if run.last_return is None else readable(run.last_return),
            run.job or "-",
            # The message of a failure may have several lines.
            " ".join(run.reason.split()),
        )
        for run in runs
    ]
    states = [run.state for run in runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    total = f"{len(runs)} run{'s' * (len(runs) > 1)}: {counts}"
    return f"{aligned(header, rows, words=('run', 'state', 'job', 'reason'))}\n\n{total}"


class _Run:
    """What the files of one run say.

    Args:
        folder: its run folder, which need not exist.
        record: what is known of its submission.
        job: number of its last job; empty if it had none.
    """

    def __init__(self, folder: Path, record: RunRecord | None, job: str) -> None:
        self.folder, self.record, self.job = folder, record, job
        self.status = StatusFile(folder).read()

    def overview(self, name: str, answer: SlurmAnswer | None) -> RunOverview:
        """Its row, with what SLURM says of its job; None where it cannot be asked."""
        state, reason = self._state(answer)
        epochs = self.status.get("epochs")
        if epochs is None and self.record is not None:
            epochs = self.record.run.epochs
        last, last_return = _last_records(self.folder / "metrics.jsonl")
        # What is not saved is lost when nobody works on it any more.
        epoch = int((last if state == RUNNING else self.status).get("epoch") or 0)
        left = None
        if state != FINISHED and epochs and last.get("epoch"):
            left = last["wall_time"] / last["epoch"] * max(0.0, epochs - last["epoch"])
        return RunOverview(name, state, epoch, epochs, left, last_return, self.job, reason)

    def _state(self, answer: SlurmAnswer | None) -> tuple[str, str]:
        queued = answer.queue.get(self.job) if answer else None
        said, reason = str(self.status.get("state", "")), str(self.status.get("reason", ""))
        if said == FINISHED:
            return FINISHED, reason
        if queued is not None and queued.state == slurm.PENDING:
            return WAITING, f"{queued.reason}; {said} before" if said else queued.reason
        if (failure := self.record.failure() if self.record else None) is not None:
            return FAILED, failure
        if queued is not None:
            # Its process, or that of another run of the same job, is at work; until it has begun, its state
            # is that of an attempt before.
            return (FAILED, reason) if said == FAILED else (RUNNING, "" if said == RUNNING else "starting")
        ending = ""
        if self.job and answer is not None:
            ending = f"job {self.job} {answer.ended.get(self.job) or 'is not in the queue'}"
        if said == PREEMPTED:
            return PREEMPTED, "; ".join(filter(None, [reason, ending]))
        if said == FAILED:
            return FAILED, reason
        if said == RUNNING:
            return self._without_job(ending)
        return MISSING, ending or "there is no SLURM here to ask"

    def _without_job(self, ending: str) -> tuple[str, str]:
        """State of a run that says it is running, whose job has ended, or that had none."""
        pid, host = self.status.get("pid"), self.status.get("host")
        if host == platform.node():
            alive = isinstance(pid, int) and psutil.pid_exists(pid)
            return (RUNNING, "") if alive else (DEAD, ending or f"process {pid} is gone")
        if ending:
            return DEAD, ending
        return RUNNING, f"on {host}, as it said at {self.status.get('updated')}"


def _plans(top: Path) -> list[Path]:
    """Stored plans of all submissions whose runs may lie in or below ``top``."""
    above = [plan for parent in top.parents for plan in parent.glob(f"{FOLDER}/*/plan.json")]
    below = [
        Path(folder) / "plan.json"
        for folder, _, files in os.walk(top, followlinks=True)
        if "plan.json" in files and Path(folder).parent.name == FOLDER
    ]
    return above + below


def _stated_job(folder: Path) -> str:
    """Number of the job that the run's last sitting says it belonged to; empty if it says none."""
    try:
        job = read_manifest(folder).get("job")
    except DataError:
        return ""
    return str(job.get("id", "")) if isinstance(job, dict) else ""


def _asked(jobs: set[int]) -> SlurmAnswer | None:
    """What SLURM says of jobs; None on a machine without it."""
    if not slurm.installed():
        return None
    return SlurmAnswer(slurm.queued(jobs), slurm.ended(jobs))


def _last_records(metrics: Path) -> tuple[dict[str, Any], float | None]:
    """The last whole record of a ``metrics.jsonl``, and the return of the last evaluation."""
    try:
        lines = metrics.read_bytes().split(b"\n")[:-1]
    except OSError:
        return {}, None
    evaluated = next((line for line in reversed(lines) if SCORE in line), None)
    try:
        last = json.loads(lines[-1]) if lines else {}
        score = None if evaluated is None else json.loads(evaluated)["eval/episode_return"]
    except ValueError:
        return {}, None
    return last, score
