"""What a training epoch costs with every form of the dynamics, against flow with one Euler step.

Epochs of all forms take turns on one CPU thread, as in the suite, so that whatever else the machine does
falls on each alike. Writes ``results/model_fit/epoch_cost.csv``.

Run with ``python benchmarks/dynamics_speed.py --task dflex_hopper``.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from statistics import median

import torch
from esnr_speed import warm_trainer
from model_fit import RESULTS, STUDIES, TASKS

from pwm.files import write_text
from pwm.logging.monitoring import PhaseTimer

FORMS = STUDIES["dynamics"]
BASELINE = "flow"


def measure(task: str, repeats: int) -> list[tuple[str, float, float]]:
    """Form, milliseconds of an epoch, ratio to the baseline's epoch of its round; medians over rounds."""
    trainers = {name: warm_trainer(*TASKS[task], *overrides) for name, overrides in FORMS.items()}
    timer = PhaseTimer()
    rounds: list[dict[str, float]] = []
    for _ in range(repeats + 1):
        rounds.append({})
        for name, trainer in trainers.items():
            started = time.perf_counter()
            trainer.run_epoch(0.0, timer)
            rounds[-1][name] = time.perf_counter() - started
    timed = rounds[1:]  # The first round fills caches.
    return [
        (name, 1e3 * median(row[name] for row in timed), median(row[name] / row[BASELINE] for row in timed))
        for name in FORMS
    ]


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=sorted(TASKS), default="dflex_hopper")
    parser.add_argument("--repeats", type=int, default=30, help="timed rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("task", "settings", "epoch_ms", "ratio_to_flow"))
    for name, milliseconds, ratio in measure(options.task, options.repeats):
        print(f"{name:<28}{milliseconds:>8.0f} ms{ratio:>8.2f}")
        writer.writerow((options.task, name, f"{milliseconds:.1f}", f"{ratio:.3f}"))
    write_text(RESULTS / "epoch_cost.csv", text.getvalue())


if __name__ == "__main__":
    main()
