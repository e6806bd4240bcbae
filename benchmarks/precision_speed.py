"""Processor time of a world-model update with products in float32 and bfloat16, in turns (ant, one thread).

Run with ``python benchmarks/precision_speed.py PRESET ...``.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time

import torch

from pwm.configuration.building import build_trainer
from pwm.configuration.config import compose_config
from pwm.configuration.general import PRECISIONS
from pwm.logging.monitoring import PhaseTimer
from pwm.models import fused
from pwm.models.precision import products_in
from pwm.training.trainers.online.trainer import OnlineTrainer

TURNS = 4
SHORT = ["env=dflex_ant", "env.num_threads=1", "alg.warmup_updates=0", "alg.warmup_env_steps=3000"]


def measure(preset: str) -> dict[str, float]:
    """Median seconds of an update in each precision; the first turn of each is left out."""
    torch.set_num_threads(1)
    trainer = build_trainer(compose_config([f"alg={preset}", *SHORT]), torch.device("cpu"))
    assert isinstance(trainer, OnlineTrainer)
    seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    with contextlib.closing(trainer), fused.enabled("auto"):
        trainer.warm_up()
        for _ in range(1 + TURNS):
            for precision, found in seconds.items():
                with products_in(precision):
                    start = time.process_time()
                    trainer.improve_model(PhaseTimer())
                    found.append(time.process_time() - start)
    return {precision: statistics.median(found[1:]) for precision, found in seconds.items()}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        result = measure(name)
        times = ", ".join(f"{precision} {1e3 * value:.0f} ms" for precision, value in result.items())
        print(f"{name}: {times}, {result['float32'] / result['bfloat16']:.2f} times as fast", flush=True)
