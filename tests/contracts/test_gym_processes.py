"""Processes: those that ``env.vectorization=async`` starts, and those that environments have of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import psutil
import pytest
import torch
from tests.contracts.odd_rollouts import make, rollout

from pwm.envs.gym import processes
from pwm.envs.gym.processes import PATIENCE
from pwm.errors import EnvError

# Before the tests' machine of two cores stands in for it.
CORES = processes._cores


def wait_for_the_end_of(processes: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(number) for number in processes):
        assert time.monotonic() < deadline, f"one of {processes} still runs"
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["program", "fork"])
def test_processes_of_an_environment_end_when_it_closes_them(kind: str, mode: str) -> None:
    env = make("Simulator", mode, kind=kind)
    running = [int(number) for number in env.reset()[:, 0]]
    assert all(psutil.pid_exists(number) for number in running)
    rollout(env, 2)
    begun = time.monotonic()
    env.close()
    assert time.monotonic() - begun < PATIENCE / 2
    wait_for_the_end_of(running, 0.0)


def test_environments_are_closed_when_the_process_they_serve_is_killed() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def serve() -> None:
        env = make("Simulator", "async", num_envs=2, kind="program", pause=1.0)
        theirs.send([int(number) for number in env.reset()[:, 0]])
        # In the middle of a step.
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        rollout(env, 2)

    process = context.Process(target=serve)
    process.start()
    running = ours.recv()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    wait_for_the_end_of(running, 20.0)


def test_spaces_that_cannot_be_sent_are_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    rollout(make("Hidden"), 1)
    with pytest.raises(
        EnvError, match=r"^OddHidden-v0: sending its spaces .*env\.vectorization=async.* raised .*Hidden"
    ):
        make("Hidden", "async")
    assert capfd.readouterr() == ("", "")


def test_a_process_that_dies_is_named() -> None:
    env = make("Dying", "async")
    with pytest.raises(
        EnvError, match=r"^OddDying-v0: the process of environments 0 to 1 died with exit code 3"
    ):
        rollout(env, 2)
    env.close()


def test_closed_environments_leave_no_process() -> None:
    env = make("Odd", "async")
    running = list(env._env._processes)
    assert [process.is_alive() for process in running] == [True, True]
    env.close()
    assert [process.exitcode for process in running] == [0, 0]
    env.close()


def test_an_environment_that_does_not_close_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    env = make("Slow", "async", seconds=60.0)
    running = list(env._env._processes)
    env.close()
    assert [process.exitcode for process in running] == [-signal.SIGKILL, -signal.SIGKILL]


def test_drawing_ends_the_processes() -> None:
    env = make("Drawn", "async", picture=[[[0, 0, 0]]])
    running = list(env._env._processes)
    env.start_rendering()
    assert [process.exitcode for process in running] == [0, 0]
    env.close()


def test_processes_have_one_thread_each() -> None:
    env = make("Moving", "async", values=lambda steps: [torch.get_num_threads(), steps, 0.0])
    assert env.reset()[:, 0].tolist() == [1.0, 1.0, 1.0]
    env.close()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_only_cores_that_this_process_may_use_are_counted() -> None:
    allowed = os.sched_getaffinity(0)
    assert CORES() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert CORES() == 1
    finally:
        os.sched_setaffinity(0, allowed)
