"""Seeding and provenance."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pwm.errors import ConfigError

LIBRARIES = ("flow-pwm", "torch", "numpy", "mujoco", "gymnasium", "hydra-core")
# The same change gives the same text, whatever the user's git is configured to show.
DIFF_OPTIONS = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative")

# cuBLAS repeats its results only with one of these workspaces, and reads the variable at its first product.
CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_WORKSPACES = (":4096:8", ":16:8")


# What a run draws at random: initial weights, noise and samples of the agent, resets of the environment.
STREAMS = ("weights", "agent", "env")


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and PyTorch.

    Training draws from generators of its own (``stream_seed``); the global ones serve simulators and other
    code that knows no better.

    Args:
        seed: non-negative integer below 2**64.
        deterministic: also make PyTorch refuse non-deterministic kernels. On a GPU this must come before the
            first matrix product of the process.

    Raises:
        ConfigError: the environment asks cuBLAS for a workspace that makes its results vary.
    """
    if deterministic:
        workspace = os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_WORKSPACES[0])
        if workspace not in CUBLAS_WORKSPACES:
            raise ConfigError(
                f"the environment variable {CUBLAS_VARIABLE}={workspace!r} makes results vary; unset it for "
                f"deterministic training, or set it to one of: {', '.join(CUBLAS_WORKSPACES)}"
            )
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (simulators draw from the global stream)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)


def stream_seed(seed: int, stream: str) -> int:
    """Seed below 2**63 of one of a run's ``STREAMS``; streams of one run are independent of each other.

    Generators that are given the same seed draw the same numbers: resets of the environment would otherwise
    go together with the actions of the agent.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(STREAMS.index(stream),))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def git_commit(folder: Path = Path(__file__).parents[1]) -> str | None:
    """Commit of the source tree of ``folder``, by default this package; None outside a checkout.

    Uncommitted changes of tracked files below ``folder`` append ``-dirty.`` and a short hash of them, so that
    equal names stand for equal code. What changes elsewhere, such as results, is not what runs.
    """

    def git(*args: str) -> bytes:
        return subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, check=True, timeout=10
        ).stdout.strip()

    try:
        commit, change = git("rev-parse", "HEAD").decode(), git("diff", "HEAD", *DIFF_OPTIONS, "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty.{hashlib.sha256(change).hexdigest()[:8]}" if change else commit


def names_code(commit: str) -> bool:
    """Whether a name that ``git_commit`` gave tells which code it was.

    Runs of earlier releases append ``-dirty`` alone, which may stand for any change.
    """
    return not commit.endswith("-dirty")


def cpu_model() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Name of the processor or graphics card; of other devices their kind."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_model() if device.type == "cpu" else device.type


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
        "device": device_name(device),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "parameters": parameters,
    }
