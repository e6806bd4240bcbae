"""Seeding and provenance."""

from __future__ import annotations

import importlib.metadata
import platform
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

LIBRARIES = ("flow-pwm", "torch", "numpy", "mujoco", "gymnasium", "hydra-core")


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and PyTorch.

    Training draws from generators of its own; the global streams decide the initial weights.

    Args:
        seed: any non-negative integer.
        deterministic: also make PyTorch refuse non-deterministic kernels.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (simulators draw from the global stream)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)


def git_commit() -> str | None:
    """Commit of the source tree, with ``-dirty`` appended if it was changed; None outside a checkout."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_model() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def manifest(device: torch.device, parameters: dict[str, int]) -> dict[str, Any]:
    """What a run was made with: versions, commit, command, device, threads, parameter counts."""
    versions: dict[str, str | None] = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return {
        "command": " ".join(["pwm", *sys.argv[1:]]),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "versions": versions,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "parameters": parameters,
    }
