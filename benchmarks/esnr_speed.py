"""What measuring the gradients' signal-to-noise ratio costs, against the epochs between two measurements.

Epochs and measurements of one run take turns, so that whatever else the machine does falls on both alike.

Run with ``python benchmarks/esnr_speed.py --preset pwm_small_flow``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from pwm.configuration.building import build_agent, build_env
from pwm.configuration.config import General, compose_config
from pwm.logging.monitoring import PhaseTimer
from pwm.training.trainers.online.trainer import OnlineTrainer

TARGET_PERCENT = 2.0


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def warm_trainer(*overrides: str) -> OnlineTrainer:
    """A trainer past a short warm-up."""
    device = torch.device("cpu")
    config = compose_config([*overrides, "alg.warmup_env_steps=4000", "alg.warmup_updates=0"])
    env = build_env(config, config.alg.num_envs, 0, device)
    trainer = OnlineTrainer(config.alg, env, build_agent(config, env.spec, device))
    trainer.warm_up()
    return trainer


def measure(preset: str = "pwm_small_flow", repeats: int = 8) -> dict[str, float]:
    """Return ``esnr/<preset>/...``: milliseconds of an epoch and of a measurement, and the share it takes.

    The share is the median over rounds of measurement / epoch, spread over the default interval.
    """
    trainer = warm_trainer("env=dflex_hopper", f"alg={preset}")
    timer = PhaseTimer()
    rounds = []
    for _ in range(repeats + 1):
        epoch = _seconds(lambda: trainer.run_epoch(0.0, timer))
        rounds.append((epoch, _seconds(trainer.gradient_quality)))
    trainer.env.close()
    # The first round starts threads and fills caches.
    epochs, measurements = zip(*rounds[1:], strict=True)
    ratios = [measured / epoch for epoch, measured in rounds[1:]]
    return {
        f"esnr/{preset}/epoch_ms": 1e3 * median(epochs),
        f"esnr/{preset}/measurement_ms": 1e3 * median(measurements),
        f"esnr/{preset}/overhead_percent": 100.0 * median(ratios) / General().esnr_every,
    }


def main() -> None:
    """Print the measured times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="pwm_small_flow")
    parser.add_argument("--repeats", type=int, default=8, help="timed rounds")
    options = parser.parse_args()
    for name, value in measure(options.preset, options.repeats).items():
        print(f"{name:<44}{value:10.3f}")
    print(f"target: overhead_percent <= {TARGET_PERCENT}")


if __name__ == "__main__":
    main()
