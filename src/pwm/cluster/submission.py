"""Runs that were submitted together: the stored plan that jobs read, submitting it, and finding it again.

A submission is a folder ``<root>/slurm/<number>``:

    ``plan.json``     the runs, and which job trains which (``Submission``)
    ``array.sh``      the script of the array; ``report.sh`` that of the report, if there is one
    ``jobs.json``     the numbers SLURM gave them
    ``run_<n>.json``  how the n-th run ended in its job; missing while it has not
    ``task_<n>.txt``  what the n-th task of the array printed; ``report.txt`` what the report did
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pwm.cluster import slurm
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.errors import DataError
from pwm.files import read_object, write_json, write_text
from pwm.runs.run_folder import run_path
from pwm.study.plan import RunState, run_state
from pwm.study.run_job import TrainingRun

FOLDER = "slurm"


@dataclass(frozen=True)
class SubmittedRun:
    """A run as it is stored for the job that trains it.

    Attributes:
        task, arm, seed: its key.
        overrides: of ``pwm train``.
        path: its run folder below the root of the submission, ``task/name/seed<n>``.
        epochs: of the whole run.
    """

    task: str
    arm: str
    seed: int
    overrides: list[str]
    path: str
    epochs: int

    @classmethod
    def of(cls, run: TrainingRun) -> SubmittedRun:
        """What a job has to know of a planned run."""
        return cls(*run.key, run.overrides, below_root(run.folder), run.config.epochs)

    @property
    def key(self) -> tuple[str, str, int]:
        """Task, arm and seed."""
        return self.task, self.arm, self.seed

    @property
    def title(self) -> str:
        """Task, arm and seed in words."""
        return f"{self.task} {self.arm} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Its run folder, from the working folder of its job."""
        return run_path(self.config, self.task)

    @cached_property
    def config(self) -> ExperimentConfig:
        """Its configuration."""
        return compose_config(self.overrides)

    def state(self) -> RunState:
        """Return the state of its folder."""
        return run_state(self.folder, self.config)


@dataclass(frozen=True)
class Submission:
    """What the jobs of one array have to do.

    Attributes:
        runs: in the order of the jobs.
        runs_per_job: runs that one job trains at the same time.
        threads: of each run.
        episodes: held-out episodes of every policy.
        seconds: limit of one attempt.
        warning: seconds before it at which SLURM sends a signal.
        attempts: how often a job may begin.
    """

    runs: list[SubmittedRun]
    runs_per_job: int
    threads: int
    episodes: int
    seconds: int
    warning: int
    attempts: int

    @property
    def jobs(self) -> int:
        """Tasks of the array."""
        return -(-len(self.runs) // self.runs_per_job)

    def numbers(self, index: int) -> range:
        """Positions of the runs of the task ``index``."""
        start = index * self.runs_per_job
        return range(start, min(start + self.runs_per_job, len(self.runs)))

    def write(self, folder: Path) -> None:
        """Store it as ``plan.json``."""
        write_json(folder / "plan.json", dataclasses.asdict(self))

    @classmethod
    def read(cls, plan: Path) -> Submission:
        """The submission stored in the file ``plan``.

        Raises:
            DataError: it is missing or damaged.
        """
        values = read_object(plan)
        try:
            runs = [SubmittedRun(**entry) for entry in values.pop("runs")]
            return cls(runs=runs, **values)
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{plan} is not a plan of this release: {error}") from error


@dataclass(frozen=True)
class RunRecord:
    """What is known of a submitted run besides its folder.

    Attributes:
        run: the run.
        folder: its run folder.
        submission: folder of the last submission that holds it.
        number: its position there.
        job: number of its job, ``12_3``; empty if SLURM gave none.
    """

    run: SubmittedRun
    folder: Path
    submission: Path
    number: int
    job: str

    def failure(self) -> str | None:
        """Why its job could not make it; None if nothing says that it could not."""
        with contextlib.suppress(DataError):
            return str(read_object(ending_file(self.submission, self.number))["reason"])
        return None


def ending_file(submission: Path, number: int) -> Path:
    """File that says why a run failed."""
    return submission / f"run_{number}.json"


def store(root: Path, submission: Submission, scripts: Iterable[tuple[str, str]]) -> Path:
    """Make the folder of a new submission below ``root``; returns it.

    Args:
        root: folder of the experiment, or of all logs.
        submission: stored in it.
        scripts: name and text of each.
    """
    folder = next_folder(root)
    submission.write(folder)
    for name, text in scripts:
        write_text(folder / name, text)
    return folder


def next_folder(root: Path) -> Path:
    """Folder that the next submission below ``root`` gets."""
    numbers = [int(path.parent.name) for path in plans(root)]
    return root / FOLDER / f"{max(numbers, default=0) + 1:04d}"


def send(folder: Path) -> dict[str, int]:
    """Submit the scripts in ``folder``, the report after all tasks of the array; returns their numbers.

    Raises:
        SlurmError: the array was refused; or the report, in which case the array is taken back.
    """
    jobs = {"array": slurm.submit(folder / "array.sh")}
    write_json(folder / "jobs.json", jobs)
    if (folder / "report.sh").exists():
        try:
            # After the end of all tasks, whichever it is; one that was requeued has not ended.
            jobs["report"] = slurm.submit(folder / "report.sh", f"--dependency=afterany:{jobs['array']}")
        except slurm.SlurmError:
            slurm.cancel(jobs["array"])
            raise
        write_json(folder / "jobs.json", jobs)
    return jobs


def records(stored: Iterable[Path]) -> list[RunRecord]:
    """The submitted runs of all ``stored`` plans, each once: as its last submission has it.

    Args:
        stored: files ``plan.json``.
    """
    found: dict[Path, RunRecord] = {}
    for plan in sorted(stored):
        submission, folder = Submission.read(plan), plan.parent
        jobs = read_object(folder / "jobs.json") if (folder / "jobs.json").exists() else {}
        for number, run in enumerate(submission.runs):
            job = f"{jobs['array']}_{number // submission.runs_per_job}" if jobs else ""
            run_folder = (folder.parents[1] / run.path).absolute()
            found[run_folder] = RunRecord(run, run_folder, folder, number, job)
    return list(found.values())


def plans(root: Path) -> list[Path]:
    """Stored plans of the submissions below ``root``, in their order."""
    return sorted((root / FOLDER).glob("[0-9]*/plan.json"))


def failures(root: Path) -> dict[tuple[str, str, int], str]:
    """Runs submitted below ``root`` that their last job could not make, and why."""
    found = {record.run.key: record.failure() for record in records(plans(root))}
    return {key: reason for key, reason in found.items() if reason is not None}


def below_root(folder: Path) -> str:
    """``task/name/seed<n>``: the root of a submission is the log folder of its runs."""
    return Path(*folder.parts[-3:]).as_posix()
