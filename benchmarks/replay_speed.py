"""Times adding to and sampling from a full replay buffer of ant size on the CPU.

Run ``python benchmarks/replay_speed.py``; ``measure()`` returns the same numbers for a test.
The numbers hold for free cores: where other programs occupy them, torch's threads wait for each other and
a sample can take a hundred times as long; ``OMP_NUM_THREADS=1`` then gives comparable times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from pwm.data.replay import ReplayBuffer

CAPACITY = 1_000_000
NUM_ENVS = 128
OBS_DIM = 37
ACT_DIM = 8
HORIZON = 16
BATCH_SIZE = 256
EPISODE_LENGTH = 1000
REPEATS = 200

TARGET_MS = {"sample_after_add_ms": 5.0, "sample_repeat_ms": 5.0, "add_ms": 0.2}


class _Feeder:
    """Adds random transitions; the episodes of the environments end at different steps."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        generator = torch.Generator().manual_seed(0)
        self.buffer = buffer
        self.obs = torch.randn(NUM_ENVS, OBS_DIM, generator=generator)
        self.action = torch.rand(NUM_ENVS, ACT_DIM, generator=generator) * 2 - 1
        self.reward = torch.randn(NUM_ENVS, generator=generator)
        self.terminated = torch.zeros(NUM_ENVS, dtype=torch.bool)
        self.age = torch.randint(EPISODE_LENGTH, (NUM_ENVS,), generator=generator)

    def finished(self) -> torch.Tensor:
        """Advance every episode by one step; [N] bool, true where it reached its length."""
        self.age += 1
        done = self.age >= EPISODE_LENGTH
        self.age[done] = 0
        return done

    def add(self, truncated: torch.Tensor) -> None:
        """Store one step of all environments."""
        self.buffer.add(self.obs, self.action, self.reward, self.terminated, truncated, self.obs)


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def measure() -> dict[str, float]:
    """Return median milliseconds of one add and of one sample, and the size of its rows in MiB."""
    buffer = ReplayBuffer(CAPACITY, NUM_ENVS, OBS_DIM, ACT_DIM, HORIZON)
    feeder = _Feeder(buffer)
    # More steps than rows per environment, so that every later add overwrites.
    for _ in range(buffer.rows_per_env + 1):
        feeder.add(feeder.finished())

    generator = torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = {key: [] for key in TARGET_MS}
    for _ in range(REPEATS):
        truncated = feeder.finished()
        times["add_ms"].append(_milliseconds(partial(feeder.add, truncated)))
        times["sample_after_add_ms"].append(_milliseconds(lambda: buffer.sample(BATCH_SIZE, generator)))
        times["sample_repeat_ms"].append(_milliseconds(lambda: buffer.sample(BATCH_SIZE, generator)))
    result = {key: median(values) for key, values in times.items()}
    result["size_mib"] = buffer.state_dict()["rows"].nbytes / 2**20
    return result


def main() -> None:
    """Print the measured times next to their targets."""
    result = measure()
    print(f"replay buffer of {CAPACITY} rows, {NUM_ENVS} environments, {result['size_mib']:.0f} MiB")
    print(f"{'':24}{'median':>10}{'target':>10}")
    for key, target in TARGET_MS.items():
        print(f"{key:24}{result[key]:10.3f}{target:10.3f}")


if __name__ == "__main__":
    main()
