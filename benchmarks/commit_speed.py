"""Compares a training epoch of this working tree with that of an earlier commit: processor time, and results.

Each version is a process of its own; they take turns epoch by epoch, on one thread. Processor time is
compared, because other programs may use the machine. All start from the same seed, so what their first epochs
measure must agree to rounding; the largest difference is part of the result.

Run with ``python benchmarks/commit_speed.py --before dd05172 --output speed.json`` (needs git). A preset that
had another name is given as ``--presets pwm_small_h16_flow:pwm_small_flow``; where the training rule is not
the same, the differences of the metrics say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("pwm_small_residual", "pwm_small_flow", "pwm_small")
TASKS = {"ant": ["env=dflex_ant"], "HalfCheetah": ["env=gym", "env.id=HalfCheetah-v5"]}
# Where what is needed stands, now and in earlier versions.
PLACES = {
    "build_env": ("pwm.configuration.building", "pwm.experiment.run"),
    "build_agent": ("pwm.configuration.building", "pwm.experiment.policies"),
    "compose_config": ("pwm.configuration.config", "pwm.experiment.config"),
    "OnlineTrainer": ("pwm.training.trainers.online.trainer", "pwm.training.online"),
    "PhaseTimer": ("pwm.logging.monitoring", "pwm.experiment.monitoring"),
}
WARM_UP = ["alg.warmup_env_steps=1600", "alg.warmup_updates=20"]
# Epochs whose metrics are compared, and how many of them only warm caches up.
COMPARED, UNTIMED = 6, 1


def here(name: str) -> Any:
    """Return what bears that name in the version of the package that this process imports."""
    for module in PLACES[name]:
        with contextlib.suppress(ModuleNotFoundError):
            return getattr(importlib.import_module(module), name)
    raise SystemExit(f"this version has {name} in none of {', '.join(PLACES[name])}")


def work() -> None:
    """Train in this process: a line of overrides makes a trainer, an empty one lets it do an epoch."""
    import torch

    build_env, build_agent = here("build_env"), here("build_agent")
    compose_config, OnlineTrainer, PhaseTimer = map(here, ("compose_config", "OnlineTrainer", "PhaseTimer"))
    torch.set_num_threads(1)
    stack = contextlib.ExitStack()
    if importlib.util.find_spec("pwm.models.fused") is not None:
        from pwm.models import fused

        stack.enter_context(fused.enabled(sys.argv[2]))
    with stack:
        for line in sys.stdin:
            if overrides := line.split():
                config = compose_config(overrides)
                device = torch.device("cpu")
                env = build_env(config, config.alg.num_envs, 0, device)
                trainer = OnlineTrainer(config.alg, env, build_agent(config, env.spec, device))
                trainer.warm_up()
                found: dict[str, float] = {}
            else:
                start = time.process_time()
                found = trainer.run_epoch(0.0, PhaseTimer())
                found["seconds"] = time.process_time() - start
            print(json.dumps(found), flush=True)


class Version:
    """A process that trains with the package in a folder.

    Args:
        source: folder that holds ``pwm``.
        kernels: ``general.compile``.
    """

    def __init__(self, source: Path, kernels: str) -> None:
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", kernels],
            env={**os.environ, **one, "PYTHONPATH": str(source)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str = "") -> dict[str, float]:
        """Send a line and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        if not (answer := self.process.stdout.readline()):
            raise SystemExit("a version ended early; what it said stands above")
        found: dict[str, float] = json.loads(answer)
        return found

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """Largest relative difference of two runs' metrics, counted from 1e-3 on, their times left out."""
    pairs = [
        (a[key], b[key])
        for a, b in zip(one, other, strict=True)
        for key in a.keys() & b.keys()
        if key != "seconds" and math.isfinite(a[key])
    ]
    return max(abs(a - b) / max(abs(a), 1e-3) for a, b in pairs)


def measure(before: str, rounds: int, presets: list[str], tasks: list[str]) -> dict[str, Any]:
    """Return, per preset and task: milliseconds of an epoch, ratios to ``before``, differences of metrics."""
    packed = subprocess.run(["git", "archive", before, "src"], cwd=ROOT, capture_output=True, check=True)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        versions = {
            "before": Version(Path(folder) / "src", "off"),
            "eager": Version(ROOT / "src", "off"),
            "compiled": Version(ROOT / "src", "on"),
        }
        for version in versions.values():
            stack.callback(version.close)
        for preset in presets:
            for task in tasks:
                now, _, then = preset.partition(":")
                for name, version in versions.items():
                    chosen = then if then and name == "before" else now
                    version.ask(" ".join([f"alg={chosen}", *TASKS[task], *WARM_UP]))
                epochs: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
                for _ in range(max(rounds + UNTIMED, COMPARED)):
                    for name, version in versions.items():
                        epochs[name].append(version.ask())
                results[f"{preset}/{task}"] = row = summary(epochs)
                print(f"{preset}/{task}", json.dumps(row), flush=True)
    return results


def summary(epochs: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Median milliseconds, median ratios of epochs that took turns, largest differences of early metrics."""
    seconds = {name: [row["seconds"] for row in rows[UNTIMED:]] for name, rows in epochs.items()}
    found = {f"{name}_ms": round(1e3 * median(times), 1) for name, times in seconds.items()}
    for name in ("eager", "compiled"):
        pairs = zip(seconds["before"], seconds[name], strict=True)
        found[f"{name}_speedup"] = round(median(a / b for a, b in pairs), 3)
        early = difference(epochs["before"][:COMPARED], epochs[name][:COMPARED])
        found[f"{name}_metrics_differ_by"] = float(f"{early:.1e}")
    return found


def main() -> None:
    """Measure and write a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=10, help="timed epochs of every version")
    parser.add_argument(
        "--presets", nargs="+", metavar="NOW[:THEN]", default=list(PRESETS), help="and names of then"
    )
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    options = parser.parse_args()

    from pwm.files import write_json
    from pwm.launch.bench import machine_info

    results = measure(options.before, options.rounds, options.presets, options.tasks)
    write_json(
        options.output,
        {"machine": machine_info(), "command": " ".join(sys.argv[1:]), "epochs": results},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work()
    else:
        main()
