"""What a person sees of a run: time left, lines in a log file, the bar on a terminal, memory."""

from __future__ import annotations

import io
import mmap
import os
import re
import sys
import termios

import pytest
import torch

from pwm.logging import monitoring
from pwm.logging.monitoring import EpochTime, TrainingMonitor, memory_usage
from pwm.numbers import readable

RECORD = {
    "eval/episode_return": 1203.4,
    "train/episode_return": 979.8,
    "fps": 770.2,
    "memory/rss": 611.9,
    "wm/loss": 1.0,
}


class Clock:
    """Stands in for the module ``time`` and stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(monitoring, "time", clock)
    return clock


def test_time_left_of_equal_epochs_is_exact() -> None:
    epoch_time = EpochTime()
    assert epoch_time.left(10) is None
    for _ in range(5):
        epoch_time.add(0.7)
        assert epoch_time.left(100) == pytest.approx(70.0)
    assert epoch_time.left(0) == 0.0


def test_first_epochs_weigh_alike() -> None:
    epoch_time = EpochTime(rate=0.05)
    epoch_time.add(10.0)
    epoch_time.add(1.0)
    # Weights 0.05 and 0.05 * 0.95, newest first.
    assert epoch_time.left(1) == pytest.approx((1.0 + 0.95 * 10.0) / 1.95)


def test_time_left_follows_a_change_of_speed() -> None:
    epoch_time = EpochTime(rate=0.05)
    for _ in range(200):
        epoch_time.add(1.0)
    for _ in range(60):
        epoch_time.add(2.0)
    left = epoch_time.left(1)
    assert left is not None
    assert left == pytest.approx(2.0 - 0.95**60, abs=1e-3)


def test_lines_come_every_interval_and_at_the_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = TrainingMonitor(500, title="hopper", interval=30.0)
    monitor.update(0, {"eval/episode_return": -5.0})
    for epoch in range(1, 121):
        clock.now += 0.7
        monitor.update(epoch, RECORD if epoch % 20 == 0 else {"fps": 800.0})
    monitor.close()
    lines = capsys.readouterr().err.splitlines()
    # 30 s are 42.9 epochs of 0.7 s.
    assert [re.findall(r"epoch (\d+)/500", line) for line in lines] == [["0"], ["43"], ["86"], ["120"]]
    assert lines[0] == "hopper  epoch 0/500  0 %  eval -5"
    assert lines[1] == "hopper  epoch 43/500  8 %  eval 1203  train 980  fps 800  rss 612 MB  eta 05:20"
    assert lines[3].endswith("eta 04:26")


def test_warm_up_is_shown_every_interval(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = TrainingMonitor(500, title="hopper", interval=30.0)
    monitor.update(0, {})
    for done in range(1, 1001):
        clock.now += 0.1
        monitor.warm_up(done / 1000)
    clock.now += 1.0
    monitor.update(1, {"time/warmup": 100.0})
    monitor.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "hopper  epoch 0/500  0 %",
        "hopper  warm-up  30 %",
        "hopper  warm-up  60 %",
        "hopper  warm-up  90 %",
        "hopper  epoch 1/500  0 %  eta 08:19",
    ]


def test_resumed_run_counts_its_own_epochs_only(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = TrainingMonitor(500, initial=400)
    clock.now += 3.0
    monitor.update(401, {})
    monitor.close()
    assert capsys.readouterr().err == "epoch 401/500  80 %  eta 04:57\n"


def test_nothing_is_shown_when_switched_off(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = TrainingMonitor(3, enabled=False)
    for epoch in range(4):
        clock.now += 100.0
        monitor.update(epoch, RECORD)
    monitor.close()
    shown = capsys.readouterr()
    assert shown.out + shown.err == ""


def test_terminal_gets_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, end = os.openpty()
    termios.tcsetwinsize(end, (24, 132))
    with os.fdopen(end, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monitor = TrainingMonitor(10, title="hopper")
        clock.now += 60.0
        monitor.update(0, {"eval/episode_return": 1.0})
        for share in (0.25, 0.5):
            clock.now += 60.0
            monitor.warm_up(share)
        for epoch, warm_up in ((1, 120.0), (2, 0.0), (3, 0.0)):
            clock.now += 90.0
            monitor.update(epoch, {**RECORD, "time/warmup": warm_up})
        monitor.close()
        terminal.flush()
        # The terminal hands over what was written in pieces, up to the line break behind the last bar.
        shown = b""
        while not shown.endswith(b"\n"):
            shown += os.read(screen, 65536)
    os.close(screen)
    states = shown.decode().strip().split("\r")
    assert any("eval=1, warm-up=25 %" in state for state in states)
    final = states[-1]
    assert final.startswith("hopper  30%|")
    # What comes before the first epoch is no epoch: seven epochs of 90 s are left.
    assert "3/10 [00:00, eval=1203, train=980, fps=770, rss=612 MB, eta=10:30]" in final


def test_memory_is_the_current_one_and_the_peak_stays() -> None:
    cpu = torch.device("cpu")
    before = memory_usage(cpu)
    # Straight from the kernel: an allocator may hand out memory that is resident already.
    with mmap.mmap(-1, 200_000_000) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        held = memory_usage(cpu)
    after = memory_usage(cpu)
    assert set(after) == {"memory/rss", "memory/rss_peak"}
    assert held["memory/rss"] - before["memory/rss"] == pytest.approx(200.0, abs=20.0)
    assert held["memory/rss"] - after["memory/rss"] == pytest.approx(200.0, abs=20.0)
    assert after["memory/rss_peak"] >= held["memory/rss"] - 5.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_memory_is_the_current_one_and_the_peak_stays() -> None:
    cuda = torch.device("cuda")
    before = memory_usage(cuda)["memory/device"]
    block = torch.ones(25_000_000, device=cuda)
    held = memory_usage(cuda)["memory/device"]
    del block
    after = memory_usage(cuda)
    assert held - before == pytest.approx(100.0, abs=3.0)
    assert after["memory/device"] == pytest.approx(before, abs=3.0)
    assert after["memory/device_peak"] >= held


def test_training_goes_on_where_nobody_reads_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    # Unbuffered, so that nothing is left to be written when it is closed.
    closed = io.TextIOWrapper(os.fdopen(write, "wb", buffering=0), write_through=True)
    monkeypatch.setattr("sys.stderr", closed)
    with pytest.raises(BrokenPipeError):
        print("nobody reads this", file=sys.stderr)
    monitor = TrainingMonitor(3, interval=0.0)
    for epoch in (1, 2, 3):
        monitor.update(epoch, {})
    monitor.close()


def test_reward_per_step_stands_in_until_an_episode_of_training_ends(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = TrainingMonitor(3, interval=0.0)
    monitor.update(1, {"train/reward": 2.5e-6, "fps": 700.0})
    monitor.update(2, {"train/reward": 3.0, "train/episode_return": 0.0312})
    monitor.update(3, {"train/reward": 4.0})
    lines = capsys.readouterr().err.splitlines()
    assert "reward 2.5e-06/step  fps 700" in lines[0]
    assert "train 0.0312  fps 700" in lines[1]
    assert "train 0.0312  fps 700" in lines[2]
    assert not any("/step" in line for line in lines[1:])


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (1203.44, 1, "1203.4"),
        (-3.14159, 1, "-3.1"),
        (0.25, 1, "0.25"),
        (3e-6, 1, "3e-06"),
        (-1.23456e-4, 1, "-0.000123"),
        (0.0, 1, "0.0"),
        (-0.0, 1, "0.0"),
        (979.8, 0, "980"),
        (-5.0, 0, "-5"),
        (0.001, 0, "0.001"),
        (float("nan"), 1, "nan"),
    ],
)
def test_numbers_keep_their_digits_whatever_their_size(value: float, decimals: int, text: str) -> None:
    assert readable(value, decimals) == text
