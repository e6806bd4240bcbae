"""What a run cost: time, memory, network evaluations and floating-point operations."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pwm.analysis.cost.operations import epoch_flops, warmup_flops
from pwm.analysis.cost.parameter_parity import task_sizes
from pwm.analysis.tables.records import load_records
from pwm.analysis.tables.runs import Run
from pwm.errors import PwmError

GIGA = 1e9


@dataclass(frozen=True)
class RunCost:
    """Cost of a run up to its last evaluation; None for what was not logged or cannot be counted.

    Attributes:
        seconds: wall clock, over all sittings.
        fps: environment steps per second, updates included; median over epochs.
        velocity_evals: evaluations of the velocity network in imagination.
        epoch_gflops: floating-point operations of an epoch, by phase and ``total``, in 10^9.
        total_gflops: of all epochs and of warm-up.
        memory, device_memory: peaks, in MB.
        skipped_updates: updates whose gradient was not finite.
    """

    seconds: float
    fps: float | None
    velocity_evals: float | None
    epoch_gflops: dict[str, float] | None
    total_gflops: float | None
    memory: float | None
    device_memory: float | None
    skipped_updates: float | None


def measure_cost(run: Run, sizes: dict[str, tuple[int, int] | None]) -> RunCost:
    """Cost of a run, from its metrics and its configuration.

    Args:
        run: the run.
        sizes: widths of observations and actions by task, completed where the run's task is missing; None
            where the task's environment cannot be asked on this machine.

    Raises:
        DataError: its metrics are damaged.
    """
    last = run.evaluations[-1]
    records = [r for r in load_records(run.path) if r.get("epoch") is not None and r["epoch"] <= last.epoch]

    def values(name: str) -> list[float]:
        return [record[name] for record in records if record.get(name) is not None]

    epoch, total = _gflops(run, sizes)
    return RunCost(
        seconds=last.wall_time,
        fps=statistics.median(values("fps")) if values("fps") else None,
        velocity_evals=_largest(values("velocity_evals")),
        epoch_gflops=epoch,
        total_gflops=total,
        memory=_largest(values("memory/rss_peak")),
        device_memory=_largest(values("memory/device_peak")),
        skipped_updates=_largest(values("skipped_updates")),
    )


def _gflops(
    run: Run, sizes: dict[str, tuple[int, int] | None]
) -> tuple[dict[str, float] | None, float | None]:
    task = run.key[0]
    if task not in sizes:
        try:
            sizes[task] = task_sizes(run.config)
        except PwmError:
            sizes[task] = None
    widths = sizes[task]
    if widths is None:
        return None, None
    epoch = {phase: flops / GIGA for phase, flops in epoch_flops(run.config, *widths).items()}
    return epoch, run.evaluations[-1].epoch * epoch["total"] + warmup_flops(run.config, *widths) / GIGA


def _largest(values: Sequence[float]) -> float | None:
    return max(values, default=None)
