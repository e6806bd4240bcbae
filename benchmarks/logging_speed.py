"""What logging and monitoring cost per epoch, against the epoch they describe (hopper, small preset).

Real epochs are trained and every record goes to JSONL, TensorBoard and W&B (offline), each timed in the
thread that trains. W&B's own processes are reported by the processor time they use.

Run with ``python benchmarks/logging_speed.py``.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from pwm.configuration.building import build_agent, build_env
from pwm.configuration.config import compose_config
from pwm.logging import gradients
from pwm.logging.loggers import JSONLLogger, export_csv
from pwm.logging.monitoring import PhaseTimer, TrainingMonitor, memory_usage
from pwm.logging.tensorboard_logger import TensorBoardLogger
from pwm.logging.wandb_logger import Options, WandBLogger
from pwm.training.trainers.online.trainer import OnlineTrainer

EPOCHS = 40
CHANGES = ["env=dflex_hopper", "alg=pwm_small", "alg.warmup_env_steps=4000", "alg.warmup_updates=0"]
TARGET_PERCENT = 1.0
CPU = torch.device("cpu")


class _Stopwatch:
    """Milliseconds of every call, by name."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        self.times.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
        return result


def _children_seconds() -> float:
    """Processor time of the processes started by this one."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:2])
    return total


def _epochs(folder: Path, watch: _Stopwatch) -> float:
    """Train and log; returns the processor seconds of W&B's processes over the timed epochs."""
    config = compose_config(CHANGES)
    env = build_env(config, config.alg.num_envs, 0, CPU)
    trainer = OnlineTrainer(config.alg, env, build_agent(config, env.spec, CPU))
    trainer.warm_up()
    wandb = WandBLogger(folder, "benchmark", Options(mode="offline"), config.to_dict(), trainer.networks)
    board = TensorBoardLogger(folder, networks=trainer.networks)
    jsonl = JSONLLogger(folder / "metrics.jsonl")
    timer = PhaseTimer()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        monitor = TrainingMonitor(EPOCHS, interval=0.0)
        for number in range(-2, EPOCHS):
            if number == 0:
                # The first epochs start threads and processes and hold the histograms of epoch 1.
                watch.times.clear()
                before = _children_seconds()
            record = watch("epoch", lambda: trainer.run_epoch(0.0, timer)) | timer.flush()
            record |= watch("memory", lambda: memory_usage(CPU))
            for name, sink in (("jsonl", jsonl), ("tensorboard", board), ("wandb", wandb)):
                watch(name, lambda sink=sink, record=record: sink.write(record))
            watch("monitor", lambda record=record: monitor.update(int(record["epoch"]), record))
        service = _children_seconds() - before
        gradients_due = {"epoch": gradients.HISTOGRAM_EPOCHS, "env_steps": record["env_steps"]}
        for sink in (board, wandb):
            watch("histograms", lambda sink=sink: sink.write(gradients_due))
    watch("csv", lambda: export_csv(folder / "metrics.jsonl", folder / "metrics.csv"))
    for sink in (jsonl, board, wandb, monitor, env):
        sink.close()
    return service


def measure() -> dict[str, float]:
    """Median milliseconds per epoch of each part, and their sum as a share of the epoch.

    Histograms and the CSV file count with the part of them that falls on one epoch.
    """
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        service = _epochs(Path(folder), watch)
    epoch = median(watch.times.pop("epoch"))
    histograms = sum(watch.times.pop("histograms"))
    found = {f"{name}_ms": median(times) for name, times in watch.times.items()}
    found["csv_ms"] /= EPOCHS + 2
    found["histograms_ms"] = histograms / gradients.HISTOGRAM_EPOCHS
    return found | {
        "overhead_percent": 100.0 * sum(found.values()) / epoch,
        "epoch_ms": epoch,
        "wandb_processes_ms": 1e3 * service / EPOCHS,
    }


def main() -> None:
    """Print the measured times."""
    for name, value in measure().items():
        print(f"{name:<22}{value:10.3f}")
    print(f"target: overhead_percent <= {TARGET_PERCENT}")


if __name__ == "__main__":
    main()
