"""Speed of training and simulation on one device: epochs and world-model updates of presets on ant in both
precisions, beside the device's matrix peak, and the physics engines.

Run with ``python benchmarks/device_speed.py`` on a machine with a GPU (``make bench-gpu``), or with
``--device cpu --presets pwm_small_residual`` to see the same figures of a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from pwm.configuration.building import build_trainer
from pwm.configuration.config import compose_config
from pwm.configuration.general import PRECISIONS
from pwm.envs import dflex
from pwm.errors import PwmError
from pwm.files import write_json
from pwm.launch.bench import machine_in_words, machine_info
from pwm.logging.monitoring import PhaseTimer
from pwm.models import fused
from pwm.models.precision import products_in
from pwm.training.trainers.online.trainer import OnlineTrainer

PRESETS = (
    *("pwm_small_residual", "pwm_small_flow", "pwm_small_h16_flow"),
    *("pwm_5M_flow", "pwm_48M", "pwm_48M_flow"),
)
ENGINES = ("mujoco_cpu", "mujoco_warp")
COPIES = (64, 512, 4096)
# Large enough to fill a GPU, as the product that `pwm experiment` plans with is not.
MATRIX = 4096
ENV_STEPS = 50


def main() -> None:
    """Print every figure as it is measured, and write all of them where ``--output`` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--presets", nargs="*", default=PRESETS)
    parser.add_argument("--copies", nargs="*", type=int, default=COPIES)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    machine = machine_info()
    print(machine_in_words(machine), f"device {name_of(device)}", sep="\n", flush=True)
    machine["device"] = name_of(device)
    found: dict[str, Any] = {"machine": machine, "peak_tflops": {}, "presets": {}}
    for precision in PRECISIONS:
        with products_in(precision):
            found["peak_tflops"][precision] = shown(f"peak {precision} TFLOP/s", peak(device) / 1e12)
    for preset in args.presets:
        found["presets"][preset] = {}
        for precision in PRECISIONS:
            with products_in(precision):
                figures = measure_preset(preset, device, args.epochs)
            for name, value in figures.items():
                shown(f"{preset} {precision} {name}", value)
            found["presets"][preset][precision] = figures
    found["env_steps_per_second"] = dict(measure_engines(device, args.copies))
    if args.output:
        write_json(args.output, found)


def shown(name: str, value: float) -> float:
    """Print a figure and return it."""
    print(f"{name:<60}{value:>12.4g}", flush=True)
    return value


def name_of(device: torch.device) -> str:
    """The device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of ``work``, which is done once more before, until the device has finished it."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def peak(device: torch.device) -> float:
    """Operations per second of a large product of matrices."""
    a = torch.randn(MATRIX, MATRIX, device=device)
    return 2 * MATRIX**3 / seconds(lambda: a @ a, device, 5)


def measure_preset(preset: str, device: torch.device, epochs: int) -> dict[str, float]:
    """Seconds of an epoch and of a world-model update, GB held at most, and how often an epoch waits."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    overrides = [f"alg={preset}", "env=dflex_ant", "alg.warmup_updates=1", "alg.warmup_env_steps=2000"]
    trainer = build_trainer(compose_config(overrides), device)
    assert isinstance(trainer, OnlineTrainer)
    with contextlib.closing(trainer), fused.enabled("auto"):
        trainer.warm_up()
        figures = {
            "epoch_seconds": seconds(lambda: trainer.run_epoch(0.0, PhaseTimer()), device, epochs),
            "model_update_seconds": seconds(lambda: trainer.improve_model(PhaseTimer()), device, 3 * epochs),
        }
        if device.type == "cuda":
            figures["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
            figures["waits_per_epoch"] = waits(lambda: trainer.run_epoch(0.0, PhaseTimer()))
    return figures


def waits(work: Callable[[], object]) -> int:
    """How often the host waits for the GPU during ``work``, as PyTorch notices it, simulation included."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def measure_engines(device: torch.device, copies: list[int]) -> Iterator[tuple[str, float]]:
    """Environment steps per second of ant, by engine and number of copies; what is missing is named."""
    for engine in ENGINES:
        for count in copies:
            try:
                env = dflex.build(dflex.Options(task="ant", engine=engine), count, device, 0)
            except PwmError as error:
                print(f"left out: {error}")
                break
            action = torch.rand(count, env.spec.act_dim, device=device) * 2 - 1
            step = seconds(lambda env=env, action=action: env.step(action), device, ENV_STEPS)
            env.close()
            yield f"{engine}/{count}", shown(f"{engine}, {count} copies, steps per second", count / step)


if __name__ == "__main__":
    main()
