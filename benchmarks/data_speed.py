"""Speed and memory of sampling a data set, beside the same windows out of one array in memory.

    python benchmarks/data_speed.py
    python benchmarks/data_speed.py --gigabytes 8 --folder data/benchmark

Writes a data set of random numbers in the layout of MT30 (ten tasks, 501 rows per segment) and draws batches
of 256 windows from it on one thread with a warm cache of files: valid transitions per second of processor
time, so that other programs count little, the best of several turns; and how far the resident set rose above
what the process took before. ``memory`` reads all rows into one array first, as TD-MPC2 and PWM do. Written
to ``results/data/speed.csv`` with the commit and the command.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from pwm.data.offline.dataset import OfflineData
from pwm.data.offline.layout import STEPS, Block, pack, set_layout
from pwm.data.offline.writer import writing
from pwm.files import write_text
from pwm.runs.provenance import git_commit

RESULT = Path(__file__).parents[1] / "results" / "data" / "speed.csv"
LENGTH, SEGMENTS_PER_SHARD, TASKS = 500, 2000, 10
BATCH_SIZE, TURNS, SECONDS = 256, 3, 0.5


def write_data(folder: Path, gigabytes: float) -> None:
    """Write a data set of about that size, or what is missing of it, and print how fast."""
    layout = set_layout("mt30")
    rng = np.random.default_rng(0)
    size = SEGMENTS_PER_SHARD // TASKS

    def blocks() -> Iterator[Block]:
        for number, task in enumerate(layout.tasks[:TASKS]):
            obs = rng.standard_normal((size, LENGTH + 1, task.obs_dim), np.float32)
            action = rng.uniform(-1, 1, (size, LENGTH, task.action_dim))
            yield pack(layout, np.full(size, number), obs, action, rng.uniform(0, 2, (size, LENGTH)))

    prepared = list(blocks())
    shard = SEGMENTS_PER_SHARD * (LENGTH + 1) * layout.step.itemsize
    plan = [{"part": part} for part in range(max(1, round(gigabytes * 1e9 / shard)))]
    with writing(folder, layout, plan, {"made_by": "benchmarks/data_speed.py"}) as writer:
        for part in list(writer.missing):
            start = time.process_time()
            writer.write(part, prepared, f"part {part}")
            rate = shard / 1e6 / (time.process_time() - start)
            print(f"shard {part + 1} of {len(plan)}: {rate:.0f} MB per processor second", flush=True)


def in_memory(folder: Path, horizon: int) -> Callable[[torch.Generator], int]:
    """Return what draws windows from all rows of a data set in one array, and counts their transitions."""
    paths = sorted(folder.glob(f"*/{STEPS}"))
    width = set_layout("mt30").step.itemsize // 4
    first = np.load(paths[0], mmap_mode="r")
    rows = torch.empty(len(paths) * len(first), width)
    for i, path in enumerate(paths):
        values = np.load(path).view(np.float32).reshape(-1, width)
        rows[i * len(first) : (i + 1) * len(first)] = torch.from_numpy(values)
    segments, ahead = len(rows) // (LENGTH + 1), torch.arange(horizon + 1)[:, None]

    def draw(generator: torch.Generator) -> int:
        segment = torch.randint(segments, (BATCH_SIZE,), generator=generator)
        step = torch.randint(LENGTH - horizon + 1, (BATCH_SIZE,), generator=generator)
        row = segment * (LENGTH + 1) + step + ahead
        rows.index_select(0, row.view(-1)).view(horizon + 1, BATCH_SIZE, width)
        return horizon * BATCH_SIZE

    return draw


def from_store(folder: Path, horizon: int, balanced: bool) -> Callable[[torch.Generator], int]:
    """Return what draws a batch from a data set and counts its valid transitions."""
    data = OfflineData(folder, horizon, balanced=balanced)
    return lambda generator: int(data.sample(BATCH_SIZE, generator).valid.sum())


def measure(make: Callable[[], Callable[[torch.Generator], int]]) -> dict[str, str]:
    """Transitions per processor second of the best turn, and the resident set's rise, in an own process."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        process = psutil.Process()
        before, most = process.memory_info().rss, 0
        draw, generator, rates = make(), torch.Generator().manual_seed(0), []
        for _ in range(TURNS):
            count, start = 0, time.process_time()
            while time.process_time() - start < SECONDS:
                for _ in range(8):
                    count += draw(generator)
                most = max(most, process.memory_info().rss - before)
            rates.append(count / (time.process_time() - start))
        os.write(writer, f"{max(rates):.0f} {most / 1e6:.0f}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    rate, most_mb = os.read(reader, 100).decode().split()
    return {"transitions_per_cpu_second": rate, "resident_rise_mb": most_mb}


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.5, help="size of the data set (2.5)")
    parser.add_argument("--folder", type=Path, default=None, help="where it is written (default: temporary)")
    args = parser.parse_args()
    # Forked processes must not meet threads that were left behind.
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp()) / "store" if args.folder is None else args.folder
    try:
        write_data(folder, args.gigabytes)
        size = sum(path.stat().st_size for path in folder.rglob("*.npy")) / 1e9
        origin = {"commit": git_commit() or "", "command": "python " + shlex.join(sys.argv)}
        rows: list[dict[str, Any]] = []
        cases = [(kind, horizon) for horizon in (3, 16) for kind in ("uniform", "balanced", "memory")]
        for kind, horizon in cases:
            if kind == "memory":
                result = measure(lambda h=horizon: in_memory(folder, h))
            else:
                result = measure(lambda h=horizon, k=kind: from_store(folder, h, k == "balanced"))
            rows.append({"source": kind, "horizon": horizon, "store_gb": f"{size:.2f}", **result})
            print(rows[-1], flush=True)
    finally:
        if args.folder is None:
            shutil.rmtree(folder.parent)
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]) + list(origin), lineterminator="\n")
    table.writeheader()
    table.writerows({**row, **origin} for row in rows)
    write_text(RESULT, text.getvalue())


if __name__ == "__main__":
    main()
