"""Speed of the dflex environments: steps per second, and how much of a step is spent outside MuJoCo.

Run with ``python benchmarks/env_speed.py``.
"""

from __future__ import annotations

import statistics
import time

import torch

from pwm.envs import dflex
from pwm.envs.dflex.env import DflexEnv
from pwm.envs.engines.mujoco_cpu import MujocoCpuEngine

TASKS = ("ant", "hopper")
NUM_ENVS = 64
SUBSTEPS = 4
NUM_THREADS = 2
WARMUP_STEPS = 100
STEPS = 400
ROUNDS = 5


class _TimedEngine(MujocoCpuEngine):
    """Adds up the seconds spent inside the bare rollout call."""

    seconds = 0.0

    def advance(self) -> None:
        start = time.perf_counter()
        super().advance()
        self.seconds += time.perf_counter() - start


def measure_task(task_name: str) -> tuple[float, float]:
    """Return (environment steps per second, percent of a step outside the rollout call).

    Both are medians over rounds. The overhead is taken inside the same steps, so that both sides see
    the same states: (time of ``env.step`` minus time of the rollout call) / time of ``env.step``.
    """
    task = dflex.load_task(task_name)
    engine = _TimedEngine(dflex.ASSETS / task.model_file, NUM_ENVS, SUBSTEPS, NUM_THREADS)
    env = DflexEnv(task, engine, NUM_ENVS, torch.device("cpu"), seed=0)
    generator = torch.Generator().manual_seed(0)
    count = WARMUP_STEPS + ROUNDS * STEPS
    actions = torch.rand(count, NUM_ENVS, task.act_dim, generator=generator) * 2 - 1
    for action in actions[:WARMUP_STEPS]:
        env.step(action)
    rates, overheads = [], []
    for number in range(ROUNDS):
        first = WARMUP_STEPS + number * STEPS
        engine.seconds = 0.0
        start = time.perf_counter()
        for action in actions[first : first + STEPS]:
            env.step(action)
        total = time.perf_counter() - start
        rates.append(NUM_ENVS * STEPS / total)
        overheads.append(100.0 * (total - engine.seconds) / total)
    env.close()
    return statistics.median(rates), statistics.median(overheads)


def measure() -> dict[str, float]:
    """Return ``{env/<task>/steps_per_second, env/<task>/overhead_percent}`` for every benchmarked task."""
    found = {}
    for name in TASKS:
        rate, overhead = measure_task(name)
        found[f"env/{name}/steps_per_second"] = rate
        found[f"env/{name}/overhead_percent"] = overhead
    return found


def main() -> None:
    """Print a small table."""
    found = measure()
    print(f"{NUM_ENVS} environments, {SUBSTEPS} substeps, {NUM_THREADS} simulator threads, random actions")
    print(f"{'task':<10}{'env steps/s':>14}{'outside MuJoCo':>17}")
    for name in TASKS:
        rate, overhead = found[f"env/{name}/steps_per_second"], found[f"env/{name}/overhead_percent"]
        print(f"{name:<10}{rate:>14.0f}{overhead:>16.1f}%")


if __name__ == "__main__":
    main()
