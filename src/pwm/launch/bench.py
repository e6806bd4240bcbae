"""``pwm bench``: run the modules of the checkout's ``benchmarks/`` folder and compare with the targets."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pwm.errors import ConfigError
from pwm.files import write_json
from pwm.runs.provenance import cpu_model, git_commit

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"

# Part -> module, and the arguments of every call of its ``measure``.
PARTS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "env": ("env_speed", [{}]),
    "replay": ("replay_speed", [{}]),
    "epoch": ("epoch_speed", [{"preset": "ant"}, {"preset": "small"}]),
    "import": ("import_speed", [{}]),
    "logging": ("logging_speed", [{}]),
    "esnr": ("esnr_speed", [{"preset": f"pwm_small{name}"} for name in ("", "_residual", "_flow")]),
    "save": ("save_speed", [{"preset": name} for name in ("pwm_small_flow", "pwm_5M_flow", "pwm_48M_flow")]),
}

# Figure -> (comparison, target); figures without a target are reported all the same.
TARGETS: dict[str, tuple[str, float]] = {
    "env/ant/steps_per_second": (">=", 10_000),
    "env/ant/overhead_percent": ("<=", 15.0),
    "env/hopper/steps_per_second": (">=", 15_000),
    "env/hopper/overhead_percent": ("<=", 15.0),
    "replay/sample_after_add_ms": ("<=", 5.0),
    "replay/sample_repeat_ms": ("<=", 5.0),
    "replay/add_ms": ("<=", 0.2),
    "epoch/ant/speedup_over_plain": (">=", 1.8),
    "epoch/ant/flow_euler_teacher_over_mlp": ("<=", 1.25),
    "epoch/small/flow_euler_teacher_over_mlp": ("<=", 1.25),
    "epoch/ant/flow_heun_over_mlp": ("<=", 1.8),
    "epoch/ant/flow_euler_over_mlp": ("<=", 1.15),
    "epoch/ant/flow_heun_rollout_over_mlp": ("<=", 1.8),
    "import/import_seconds": ("<=", 0.3),
    "import/help_seconds": ("<=", 1.0),
    "logging/overhead_percent": ("<=", 1.0),
    "esnr/pwm_small/overhead_percent": ("<=", 2.0),
    "esnr/pwm_small_residual/overhead_percent": ("<=", 2.0),
    "esnr/pwm_small_flow/overhead_percent": ("<=", 2.0),
    "save/pwm_small_flow/percent_of_interval": ("<=", 2.0),
    "save/pwm_5M_flow/percent_of_interval": ("<=", 2.0),
    "save/pwm_48M_flow/percent_of_interval": ("<=", 2.0),
}


def run_benchmarks(parts: Sequence[str], output: Path | None) -> dict[str, Any]:
    """Measure ``parts`` (all if empty), print a table with the targets, write JSON to ``output``.

    Returns:
        ``machine`` and ``figures``; every figure has value, target and met (None without a target).

    Raises:
        ConfigError: unknown part, or the benchmarks are not there (they are not part of the wheel).
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ConfigError(
            f"unknown benchmark {', '.join(map(repr, unknown))}; choose from: {', '.join(PARTS)}"
        )
    if not FOLDER.is_dir():
        raise ConfigError(
            f"there is no folder {FOLDER}: pwm bench needs a source checkout with an editable install"
        )
    figures: dict[str, dict[str, Any]] = {}
    machine = machine_info()
    print(machine_in_words(machine))
    print(f"{'figure':<52}{'measured':>12}{'target':>12}")
    for part in parts or PARTS:
        for name, value in measure(part).items():
            figures[name] = judge(name, value)
            print(row(name, figures[name]), flush=True)
    result = {"machine": machine, "figures": figures}
    if output is not None:
        write_json(output, result)
    return result


def measure(part: str) -> dict[str, float]:
    """Figures of one part, each name starting with it."""
    module_name, calls = PARTS[part]
    found: dict[str, float] = {}
    with _importable(FOLDER):
        module = importlib.import_module(module_name)
        for arguments in calls:
            found |= module.measure(**arguments)
    return {name if name.startswith(f"{part}/") else f"{part}/{name}": v for name, v in found.items()}


def judge(name: str, value: float) -> dict[str, Any]:
    """Value of a figure with its target and whether it is met."""
    if name not in TARGETS:
        return {"value": value, "target": None, "met": None}
    sign, target = TARGETS[name]
    met = value >= target if sign == ">=" else value <= target
    return {"value": value, "target": f"{sign} {target:g}", "met": met}


def row(name: str, figure: dict[str, Any]) -> str:
    """One line of the table."""
    verdict = {None: "", True: "  met", False: "  NOT MET"}[figure["met"]]
    return f"{name:<52}{figure['value']:>12.4g}{figure['target'] or '':>12}{verdict}"


def machine_info() -> dict[str, Any]:
    """Return what the figures were measured on; the load shows what else was running."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "git_commit": git_commit(),
    }


def machine_in_words(machine: dict[str, Any]) -> str:
    """The machine on one line."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']:.1f}, "
        f"torch {machine['torch']} on {machine['torch_threads']} threads, commit {machine['git_commit']}"
    )


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let ``folder`` come first on the module search path: benchmarks import each other by plain name."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
