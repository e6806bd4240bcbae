"""The commands of SLURM: what the cluster has, what is queued, what became of it; submitting a script."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pwm.errors import PwmError

# Seconds that SLURM is given for an answer.
TIMEOUT = 60
PENDING, RUNNING, CANCELLED = "PENDING", "RUNNING", "CANCELLED"
# What squeue says where it knows none of the jobs any more.
UNKNOWN_JOBS = "Invalid job id specified"


class SlurmError(PwmError):
    """A command of SLURM failed; its own message says why."""


@dataclass
class Partition:
    """Nodes of a partition, the largest values of any of them.

    Attributes:
        name: as `sbatch --partition` takes it.
        default: True for the one that jobs without a partition get.
        seconds: limit of a job; None for no limit.
        cpus: of a node.
        megabytes: of a node's main memory.
        gpus: of a node by their type; the type is empty where the cluster names none.
    """

    name: str
    default: bool
    seconds: int | None
    cpus: int = 0
    megabytes: int = 0
    gpus: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class QueuedJob:
    """A job, or a task of an array, that has not ended.

    Attributes:
        state: such as ``PENDING`` or ``RUNNING``.
        reason: why it is in that state; ``None`` if there is no reason.
    """

    state: str
    reason: str


def installed() -> bool:
    """True if jobs can be submitted from here."""
    return shutil.which("sbatch") is not None


def partitions() -> dict[str, Partition]:
    """Every partition that `sinfo` shows, by name.

    Raises:
        SlurmError: the controller does not answer.
    """
    return read_partitions(_answer("sinfo", "-h", "-o", "%P|%l|%c|%m|%G"))


def read_partitions(text: str) -> dict[str, Partition]:
    """The partitions in lines ``name|limit|cpus|megabytes|gres``, one for each kind of node."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, limit, cpus, megabytes, gres = line.split("|")
        whole = Partition(name.rstrip("*"), name.endswith("*"), _limit(limit))
        partition = found.setdefault(whole.name, whole)
        partition.cpus = max(partition.cpus, int(cpus.rstrip("+")))
        partition.megabytes = max(partition.megabytes, int(megabytes.rstrip("+")))
        for kind, count in re.findall(r"gpu:(?:([^:,()]+):)?(\d+)", gres):
            partition.gpus[kind] = max(partition.gpus.get(kind, 0), int(count))
    return found


def largest_array() -> int:
    """Tasks that an array may have.

    Raises:
        SlurmError: the controller does not answer.
    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _answer("scontrol", "show", "config"), re.MULTILINE)
    # One less: indices begin with 0 and must be below it.
    return int(found[1]) - 1 if found else 1000


def submit(script: Path, *options: str) -> int:
    """Submit ``script`` with `sbatch`; returns the number of the job.

    Raises:
        SlurmError: it was refused.
    """
    return int(_answer("sbatch", "--parsable", *options, str(script)).split(";")[0])


def cancel(job: int) -> None:
    """Take a job, or all tasks of an array, out of the queue."""
    _answer("scancel", str(job))


def queued(jobs: Iterable[int]) -> dict[str, QueuedJob]:
    """Those of ``jobs`` and of their array tasks that have not ended, by ``12`` or ``12_3``.

    Raises:
        SlurmError: the controller does not answer.
    """
    numbers = ",".join(map(str, sorted(set(jobs))))
    if not numbers:
        return {}
    try:
        text = _answer("squeue", "-h", "-r", "-o", "%i|%T|%r", f"--jobs={numbers}")
    except SlurmError as error:
        if UNKNOWN_JOBS in str(error):
            return {}
        raise
    lines = [line.split("|", 2) for line in text.splitlines()]
    return {number: QueuedJob(state, reason) for number, state, reason in lines}


def ended(jobs: Iterable[int]) -> dict[str, str]:
    """How ``jobs`` and their array tasks ended, such as ``TIMEOUT``, by ``12`` or ``12_3``.

    The accounting is asked, and where there is none the controller, which forgets a job after a few minutes.
    """
    numbers = sorted(set(jobs))
    if not numbers:
        return {}
    listed = ",".join(map(str, numbers))
    try:
        text = _answer("sacct", "-n", "-X", "-P", "-o", "JobID,State", f"--jobs={listed}")
    except SlurmError:
        return {name: state for number in numbers for name, state in _remembered(number).items()}
    return {name: state for name, _, state in (line.partition("|") for line in text.splitlines())}


def _remembered(number: int) -> dict[str, str]:
    """States of a job, or of the tasks of an array, that the controller still knows."""
    try:
        text = _answer("scontrol", "show", "job", "-o", str(number))
    except SlurmError:
        return {}
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = dict(word.partition("=")[::2] for word in line.split())
        code = words.get("ExitCode", "0:0")
        state = words.get("JobState", "") + (f" (exit code {code})" if code != "0:0" else "")
        if tasks := words.get("ArrayTaskId"):
            found |= {f"{words.get('ArrayJobId')}_{task}": state for task in _indices(tasks)}
        else:
            found[words.get("JobId", "")] = state
    return found


def _indices(text: str) -> list[int]:
    """Indices in ``0-2,5%2``, as tasks that never began are written together."""
    parts = (part.split("-") for part in text.partition("%")[0].split(","))
    return [index for part in parts for index in range(int(part[0]), int(part[-1]) + 1)]


def _limit(text: str) -> int | None:
    """Seconds of a limit as `sinfo` prints it: ``infinite``, ``2:00``, ``1-00:00:00``."""
    if not text[0].isdigit():
        return None
    days, _, clock = text.rpartition("-")
    units = zip(reversed(clock.split(":")), (1, 60, 3600))
    return int(days or 0) * 86400 + sum(int(part) * unit for part, unit in units)


def _answer(*words: str) -> str:
    """Output of a command.

    Raises:
        SlurmError: it is not there, failed, or took too long.
    """
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"{words[0]} is not there; jobs are submitted from a login node of a cluster"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{_shown(words)}: no answer in {TIMEOUT} seconds") from error
    if done.returncode:
        raise SlurmError(f"{_shown(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def _shown(words: Sequence[str]) -> str:
    return " ".join(words[:2])
