"""Copies of one environment in other processes, one process per CPU core."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import multiprocessing
import os
import signal
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch

from pwm.envs.gym.copies import Copies, Step, common
from pwm.envs.gym.creation import import_module
from pwm.envs.gym.faults import Blame
from pwm.envs.gym.options import Options
from pwm.errors import EnvError

# Seconds that a process gets to close its environments.
PATIENCE = 5.0


class Processes:
    """The work of ``Copies`` spread over processes; each steps its share one after the other.

    Args:
        options: what to make.
        seeds: one for every copy; they start the streams of the global generators.

    Raises:
        EnvError: see ``Copies``; or a process died.
    """

    def __init__(self, options: Options, seeds: Sequence[int]) -> None:
        # Before the processes are forked, for spaces may be of classes of that module, and what it draws is
        # drawn once, as for copies in this process.
        import_module(options.id, seeds[0])
        self._name = options.id
        self._shares = np.array_split(np.arange(len(seeds)), min(len(seeds), _cores()))
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        # Forked where the system can, so that they know the modules and ids that this process knows.
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("fork" if "fork" in methods else None)
        for share in self._shares:
            ours, theirs = context.Pipe()
            self._connections.append(ours)
            arguments = (theirs, tuple(self._connections), options, int(share[0]), [seeds[i] for i in share])
            process = context.Process(target=_serve, args=arguments)
            process.start()
            theirs.close()
            self._processes.append(process)
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)
        try:
            self.facts = common(options.id, self._answers())
        except EnvError:
            self.close()
            raise

    def reset(self, seeds: Sequence[int] | None) -> np.ndarray:
        """See ``Copies.reset``."""
        shares = [None if seeds is None else [seeds[i] for i in share] for share in self._shares]
        return np.concatenate(self._call("reset", shares))

    def step(self, actions: np.ndarray) -> Step:
        """See ``Copies.step``."""
        parts = self._call("step", [actions[share[0] : share[-1] + 1] for share in self._shares])
        return Step(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def save(self) -> list[dict[str, Any]]:
        """See ``Copies.save``."""
        answers = self._call("save", [None] * len(self._shares))
        return [state for packed in answers for state in _unpacked(packed)]

    def load(self, saved: Sequence[dict[str, Any]]) -> None:
        """See ``Copies.load``."""
        self._call("load", [_packed([saved[i] for i in share]) for share in self._shares])

    def close(self) -> None:
        """Close every copy and end the processes."""
        atexit.unregister(self._at_exit)
        for connection in self._connections:
            # Told, because processes forked since then hold this end of the connection open, too.
            with contextlib.suppress(OSError):
                connection.send(("close", None))
            connection.close()
        for process in self._processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
        self._connections, self._processes = [], []

    def _call(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        for index, (connection, argument) in enumerate(zip(self._connections, arguments, strict=True)):
            try:
                connection.send((method, argument))
            except OSError as error:
                raise self._death(index) from error
        return self._answers()

    def _answers(self) -> list[Any]:
        """One answer of every process, all received before the first fault is raised."""
        answers: list[Any] = []
        faults: list[str] = []
        for index, connection in enumerate(self._connections):
            try:
                ok, answer = connection.recv()
            except (EOFError, OSError):
                ok, answer = False, str(self._death(index))
            (answers if ok else faults).append(answer)
        if faults:
            raise EnvError(faults[0])
        return answers

    def _death(self, index: int) -> EnvError:
        self._processes[index].join(PATIENCE)
        share, code = self._shares[index], self._processes[index].exitcode
        return EnvError(
            f"{self._name}: the process of environments {share[0]} to {share[-1]} died with exit code {code}"
        )


def _serve(
    connection: Connection, others: Sequence[Connection], options: Options, first: int, seeds: Sequence[int]
) -> None:
    """Answer the calls of the parent process until it closes the connection or ends."""
    _outlive_signals()
    # Held open here, the parent's ends would keep this and other processes waiting for a parent that is gone.
    for other in others:
        other.close()
    # As many processes as cores leave none for more threads.
    torch.set_num_threads(1)
    try:
        copies = Copies(options, first, seeds)
    except EnvError as error:
        connection.send((False, str(error)))
        return
    try:
        with Blame(f"{options.id}: sending its spaces to another process, as env.vectorization=async does,"):
            connection.send((True, copies.facts))
    except EnvError as error:
        connection.send((False, str(error)))
    # A parent that is gone, perhaps in the middle of a step, has told nobody to close.
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, argument = connection.recv()
            if method == "close":
                break
            try:
                answer = _answer(copies, method, argument)
            except EnvError as error:
                connection.send((False, str(error)))
            else:
                connection.send((True, answer))
    copies.close()


def _answer(copies: Copies, method: str, argument: Any) -> Any:
    """What the method of ``copies`` returns."""
    if method == "save":
        return _packed(copies.save())
    if method == "load":
        return copies.load(_unpacked(argument))
    return copies.reset(argument) if method == "reset" else copies.step(argument)


def _packed(states: list[dict[str, Any]]) -> bytes:
    """States as bytes: sent as they are, tensors would share memory, which is lost when a process ends."""
    buffer = io.BytesIO()
    torch.save(states, buffer)
    return buffer.getvalue()


def _unpacked(packed: bytes) -> list[dict[str, Any]]:
    states: list[dict[str, Any]] = torch.load(io.BytesIO(packed), weights_only=True)
    return states


def _outlive_signals() -> None:
    """Leave it to the parent to decide when to stop: it has a state to save."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # Processes of an environment inherit what is ignored, and ``terminate`` could then not end them. Handlers
    # are not inherited by another program, but by a fork.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    os.register_at_fork(after_in_child=functools.partial(signal.signal, signal.SIGTERM, signal.SIG_DFL))


def _close(reference: weakref.ref[Processes]) -> None:
    """End the processes before the interpreter, which would wait for them, does."""
    if (processes := reference()) is not None:
        processes.close()


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
