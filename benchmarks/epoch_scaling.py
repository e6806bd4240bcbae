"""How the time of an epoch follows the arithmetic in it: one setting at a time, around a preset, on ant.

    python benchmarks/epoch_scaling.py

writes to ``results/epoch_scaling``

    ``epochs.csv``   one row per setting and value: processor time of an epoch without simulation (median of
                     ``--rounds`` turns), billions of operations in it, and their rate as a share of the rate
                     of one large matrix product on the same thread
    ``epochs.png``   time and share over the operations, a line per setting

Every point is a trainer; they take turns epoch by epoch in one process, so that whatever else the machine
does falls on each alike.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator

import torch
from device_speed import peak
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from study_files import RESULTS, Row, csv_text

from pwm.analysis.cost.operations import epoch_flops
from pwm.analysis.plots.style import arm_style, save_figure
from pwm.configuration.building import build_trainer
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.files import write_text
from pwm.logging.monitoring import PhaseTimer
from pwm.models import fused
from pwm.runs.provenance import cpu_model, git_commit
from pwm.training.trainers.online.trainer import OnlineTrainer

PRESET = "pwm_small_flow"
COMMON = [
    f"alg={PRESET}",
    "env=dflex_ant",
    "env.num_threads=1",
    "alg.warmup_env_steps=3200",
    "alg.warmup_updates=0",
    # So that few environments can fill their part of a large batch.
    "alg.replay_starts=0.99",
]
NETWORKS = ("dynamics.units", "reward_units", "critic_units", "actor.units")
WIDTHS = " ".join(f"alg.{network}=[{{0}},{{0}}]" for network in NETWORKS)
# Label -> overrides, and the values that take the place of {}.
SETTINGS: dict[str, tuple[str, tuple[int, ...]]] = {
    "environments": ("alg.num_envs={}", (1, 2, 4, 8, 16, 32)),
    "starts of imagined rollouts": ("alg.actor_batch_size={}", (32, 64, 128, 256, 512)),
    "windows of a model update": ("alg.wm_batch_size={}", (16, 32, 64, 128, 256)),
    "width of all networks": (WIDTHS, (64, 128, 256, 512)),
    "width of learned latents": ("alg.latents=simnorm alg.latent_dim={}", (64, 128, 256, 512)),
    "horizon": ("alg.horizon={}", (3, 5, 8, 16)),
    "substeps K (Euler)": ("alg.flow_substeps={}", (1, 2, 4, 8)),
}
COLUMNS = ("setting", "value", "epoch_ms", "gflop", "gflop_per_s", "share_of_peak", "hardware", "commit")
# Ticks.
MILLISECONDS, GFLOP = (200, 400, 800, 1600), (2, 5, 10, 20, 50)


def points() -> Iterator[tuple[str, int, ExperimentConfig]]:
    """Every setting with each of its values, and the configuration that it makes."""
    for setting, (template, values) in SETTINGS.items():
        for value in values:
            yield setting, value, compose_config([*COMMON, *template.format(value).split()])


def epoch_seconds(trainer: OnlineTrainer) -> float:
    """Processor time [s] of an epoch, less the time in which the simulator ran."""
    timer = PhaseTimer()
    start = time.process_time()
    trainer.run_epoch(0.0, timer)
    whole = time.process_time() - start
    return whole - timer.seconds["sim"]


def measure(rounds: int) -> list[Row]:
    """Return the rows of ``epochs.csv``; of every trainer the first turn is left out."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    fastest, rows = peak(device), []
    with contextlib.ExitStack() as stack:
        stack.enter_context(fused.enabled("auto"))
        trainers: list[OnlineTrainer] = []
        for setting, value, config in points():
            trainer = build_trainer(config, device)
            assert isinstance(trainer, OnlineTrainer)
            stack.enter_context(contextlib.closing(trainer))
            trainer.warm_up()
            trainers.append(trainer)
            spec = trainer.env.spec
            flop = epoch_flops(config, spec.obs_dim, spec.act_dim)["total"]
            rows.append({"setting": setting, "value": value, "gflop": flop / 1e9})
        taken = [[epoch_seconds(trainer) for trainer in trainers] for _ in range(1 + rounds)]
    for number, row in enumerate(rows):
        seconds = statistics.median(turn[number] for turn in taken[1:])
        rate = row["gflop"] / seconds
        row |= {"epoch_ms": round(1e3 * seconds, 1), "gflop_per_s": round(rate, 1)}
        row |= {"share_of_peak": round(1e9 * rate / fastest, 3), "gflop": round(row["gflop"], 2)}
        row |= {"hardware": f"{cpu_model()}, 1 thread", "commit": git_commit() or ""}
    return rows


def draw(rows: list[Row]) -> Figure:
    """Time and share of the peak over the operations of an epoch, a line per setting."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    time_axes, share_axes = figure.subplots(1, 2)
    for number, setting in enumerate(SETTINGS):
        own = sorted((row for row in rows if row["setting"] == setting), key=lambda row: float(row["gflop"]))
        gflop = [row["gflop"] for row in own]
        style = {"marker": "o", "markersize": 3, **arm_style(number)}
        time_axes.plot(gflop, [row["epoch_ms"] for row in own], label=setting, **style)
        share_axes.plot(gflop, [100 * row["share_of_peak"] for row in own], **style)
    time_axes.set(xscale="log", yscale="log", ylabel="processor time of an epoch (ms)")
    share_axes.set(xscale="log", ylabel="share of the matrix peak (%)", ylim=(0, None))
    time_axes.set_yticks(MILLISECONDS, map(str, MILLISECONDS), minor=False)
    for axes in (time_axes, share_axes):
        axes.set_xlabel("operations of an epoch (GFLOP)")
        axes.set_xticks(GFLOP, map(str, GFLOP), minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    time_axes.legend(fontsize="small")
    return figure


def main() -> int:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="timed epochs of every point")
    rows, folder = measure(parser.parse_args().rounds), RESULTS / "epoch_scaling"
    folder.mkdir(exist_ok=True)
    write_text(folder / "epochs.csv", csv_text(COLUMNS, rows))
    save_figure(draw(rows), folder / "epochs.png")
    print(csv_text(COLUMNS[:-2], rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
