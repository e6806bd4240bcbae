"""Many ``pwm`` processes, a few at a time: started, watched, stopped and accounted for."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from tqdm import tqdm

from pwm.errors import PwmError
from pwm.runs import preemption
from pwm.runs.status import FAILED, FINISHED, PREEMPTED
from pwm.study.run_progress import RunProgress

# Seconds between two looks at the processes, and between two looks at their metrics.
POLL = 0.1
LOOK = 1.0

NOT_STARTED = "not started"


class Job(Protocol):
    """Work that one process after another does."""

    @property
    def title(self) -> str:
        """Shown to the user."""
        ...

    @property
    def log(self) -> Path:
        """File that the output of its processes is added to."""
        ...

    def commands(self) -> Iterable[list[str]]:
        """Arguments of ``pwm`` for what is left to do; asked for one at a time, as those before succeed."""
        ...

    def progress(self, command: Sequence[str]) -> RunProgress | None:
        """Return the text that is shown while ``command`` runs."""
        ...


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class JobOutcome:
    """End of a job.

    Attributes:
        state: ``finished``, ``failed``, ``preempted`` (the same work continues next time) or ``not started``.
        reason: in words.
        seconds: how long it was worked on.
    """

    state: str
    reason: str = ""
    seconds: float = 0.0


def start_process(
    arguments: Sequence[str], threads: int, log: Path, gpu: str | None = None
) -> subprocess.Popen[bytes]:
    """``pwm`` with ``arguments`` in a process of its own, with so many threads; its output goes to ``log``.

    It gets a session of its own: an interrupt typed at the terminal reaches it once, through us. Of all
    GPUs it sees ``gpu`` alone, if given.
    """
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if gpu is not None:
        limits["CUDA_VISIBLE_DEVICES"] = gpu
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pwm.launch.cli", *arguments],
            env=os.environ | limits,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class Worker:
    """One job that is being done.

    Args:
        job: the job.
        threads: of its processes.
        gpu: the only one that its processes see; None shows them all.
    """

    def __init__(self, job: Job, threads: int, gpu: str | None = None) -> None:
        self.job, self.gpu = job, gpu
        self._threads = threads
        self._commands = iter(job.commands())
        self._process: subprocess.Popen[bytes] | None = None
        self._progress: RunProgress | None = None
        self._started = time.monotonic()
        self._stopping = False
        self._written = 0

    def poll(self) -> JobOutcome | None:
        """Go on with the next command if the last one is done; the outcome once there is one."""
        if self._process is not None:
            if (code := self._process.poll()) is None:
                return None
            self._close_progress()
            if code or self._stopping:
                return self._ended(code)
        elif self._stopping:
            return JobOutcome(NOT_STARTED)
        try:
            command = next(self._commands, None)
        except PwmError as error:
            return self._outcome(FAILED, str(error))
        if command is None:
            return self._outcome(FINISHED)
        log = self.job.log
        self._written = log.stat().st_size if log.exists() else 0
        self._process = start_process(command, self._threads, log, self.gpu)
        self._progress = self.job.progress(command)
        return None

    def look(self) -> None:
        """Bring what is shown up to date."""
        if self._progress is not None:
            self._progress.refresh()

    def stop(self) -> None:
        """Ask the process to save and end."""
        if not self._stopping and self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._stopping = True

    def kill(self) -> None:
        """End the process at once."""
        self._close_progress()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _ended(self, code: int) -> JobOutcome:
        # Only training knows how to be preempted; before it begins and after it, the signal ends the process.
        if code == preemption.EXIT_CODE or (self._stopping and code in (0, -signal.SIGTERM)):
            return self._outcome(PREEMPTED)
        killed = f"killed by {signal.Signals(-code).name}" if code < 0 else ""
        return self._outcome(FAILED, killed or self._last_words() or f"exit code {code}")

    def _last_words(self) -> str:
        """Return the reason that the last command gave: the message of ``pwm``, else its last line."""
        with self.job.log.open("rb") as file:
            file.seek(self._written)
            lines = file.read().decode(errors="replace").strip().splitlines()
        for number in reversed(range(len(lines))):
            if lines[number].startswith("pwm: ") and not lines[number].startswith("pwm: warning: "):
                return "\n".join(lines[number:]).removeprefix("pwm: ")
        return lines[-1] if lines else ""

    def _outcome(self, state: str, reason: str = "") -> JobOutcome:
        return JobOutcome(state, reason, time.monotonic() - self._started)

    def _close_progress(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None


def run_jobs(
    jobs: Sequence[J],
    at_a_time: int,
    threads: int,
    report: Callable[[J, JobOutcome], None],
    gpus: Sequence[str] = (),
    seconds: float = math.inf,
    after: Mapping[J, J] = MappingProxyType({}),
) -> list[JobOutcome]:
    """Do all jobs, ``at_a_time`` of them in parallel; a job that fails stops none but those that need it.

    SIGTERM, SIGINT, SIGUSR1 and the end of the time stop all of them, each at its next safe point; a second
    SIGINT kills them.

    Args:
        jobs: in the order to start them.
        at_a_time: processes at the same time.
        threads: of each process.
        report: told of every job that has ended.
        gpus: those that the jobs share, each job one of them; empty shows all to every job.
        seconds: time for all of it.
        after: by job the one that has to be finished before it begins; one that is not among ``jobs`` is.

    Returns:
        The outcomes, in the order of the jobs.
    """
    outcomes = [JobOutcome(NOT_STARTED) for _ in jobs]
    waiting = _Waiting(jobs, after)
    active: dict[int, Worker] = {}
    told = False
    with preemption.PreemptionGuard() as guard:
        try:
            looked = started = time.monotonic()
            stop: str | None = None
            while active or (waiting.ready and not stop):
                stop = guard.received or ("time is up" if time.monotonic() - started >= seconds else None)
                while waiting.ready and len(active) < at_a_time and not stop:
                    number = waiting.ready.popleft()
                    gpu = _least_used(gpus, [worker.gpu for worker in active.values()])
                    active[number] = Worker(jobs[number], threads, gpu)
                if stop and not told:
                    told = True
                    tqdm.write(f"{stop}: {len(active)} runs save and end", file=sys.stderr)
                    for worker in active.values():
                        worker.stop()
                for number, worker in list(active.items()):
                    if (outcome := worker.poll()) is not None:
                        del active[number]
                        for ended, its in waiting.ended(number, outcome):
                            outcomes[ended] = its
                            report(jobs[ended], its)
                if time.monotonic() - looked >= LOOK:
                    looked = time.monotonic()
                    for worker in active.values():
                        worker.look()
                time.sleep(POLL)
        finally:
            for worker in active.values():
                worker.kill()
    return outcomes


class _Waiting(Generic[J]):
    """Jobs that have not begun.

    Attributes:
        ready: places of those that may begin, in order.
    """

    def __init__(self, jobs: Sequence[J], after: Mapping[J, J]) -> None:
        self._jobs = jobs
        places = {job: place for place, job in enumerate(jobs)}
        needed = {place: after.get(job) for place, job in enumerate(jobs)}
        self._needs = {place: places[job] for place, job in needed.items() if job in places}
        self.ready = deque(place for place in needed if place not in self._needs)

    def ended(self, place: int, outcome: JobOutcome) -> Iterator[tuple[int, JobOutcome]]:
        """Yield a job that has ended, and those that cannot be done without it, each with its outcome."""
        yield place, outcome
        for other in [other for other, needed in self._needs.items() if needed == place]:
            if outcome.state == FINISHED:
                del self._needs[other]
                self.ready = deque(sorted([*self.ready, other]))
            elif outcome.state == FAILED:
                reason = f"{self._jobs[place].title}, which it begins from, failed: {outcome.reason}"
                yield from self.ended(other, JobOutcome(FAILED, reason))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")[: torch.cuda.device_count()]
    return [str(number) for number in range(torch.cuda.device_count())]


def _least_used(gpus: Sequence[str], used: Sequence[str | None]) -> str | None:
    return min(gpus, key=used.count) if gpus else None
