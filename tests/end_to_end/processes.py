"""Training in processes that can be killed: forked from this one, so that they start at once."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tests.end_to_end.tiny import train

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.launch.cli import main


def start(logdir: Path, *changes: str, largest_file: int | None = None) -> int:
    """``pwm train`` in a child process with its output in ``logdir/output.txt``; returns its pid.

    The child is a copy of this process, with everything imported and no thread of its own yet. The kernel
    refuses it to write files of more than ``largest_file`` bytes, if given.
    """
    torch.set_num_threads(1)
    logdir.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    try:
        # The copied streams belong to pytest's capturing.
        sys.stdout = sys.stderr = (logdir / "output.txt").open("a", buffering=1)
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        os._exit(train(logdir, *changes))
    finally:
        os._exit(70)


def wait(pid: int) -> int:
    """Exit code of a child, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stop_after(pid: int, seconds: float, number: signal.Signals) -> int:
    """Send a signal after a while, wait for the child; returns its exit code."""
    time.sleep(seconds)
    os.kill(pid, number)
    return wait(pid)


class Forked:
    """``pwm`` in a child process, with the parts of ``subprocess.Popen`` that ``run_pool`` uses.

    Takes the place of ``run_pool.start_process``: it starts at once, because everything is imported.
    """

    def __init__(self, arguments: Sequence[str], threads: int, log: Path, gpu: str | None = None) -> None:
        torch.set_num_threads(threads)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        try:
            # As in a fresh process: a signal ends it until it says otherwise.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            sys.stdout = sys.stderr = log.open("a", buffering=1)
            # As in ``train``; the copy ends with the command.
            TrainingVisualizer.generate_all_plots = lambda self: []  # type: ignore[method-assign]
            os._exit(main(list(arguments)))
        finally:
            os._exit(70)

    def poll(self) -> int | None:
        """Exit code once it has ended, negative for the signal that ended it."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        if self.returncode is None:
            self.returncode = wait(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)
