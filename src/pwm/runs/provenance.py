"""Seeding and provenance."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pwm.errors import DataError
from pwm.files import read_object

LIBRARIES = ("flow-pwm", "torch", "numpy", "mujoco", "gymnasium", "hydra-core")
# The same change gives the same text, whatever the user's git is configured to show.
DIFF_OPTIONS = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative")


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
    """True if a name that ``git_commit`` gave tells which code it was.

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


def slurm_job() -> dict[str, Any] | None:
    """Job of SLURM that this process belongs to: its number (``12_3`` in an array) and attempt; else None."""
    environment = os.environ
    if (number := environment.get("SLURM_JOB_ID")) is None:
        return None
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        number = f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
    return {"id": number, "attempt": int(environment.get("SLURM_RESTART_COUNT", 0)) + 1}


def manifest(device: torch.device, parameters: dict[str, int]) -> dict[str, Any]:
    """Return what a run is made with: job, versions, commit, command, device, threads, parameter counts."""
    versions: dict[str, str | None] = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    found: dict[str, Any] = {} if (job := slurm_job()) is None else {"job": job}
    if dist.is_initialized():
        found["processes"] = dist.get_world_size()
    return found | {
        "command": " ".join(["pwm", *sys.argv[1:]]),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "versions": versions,
        "device": device_name(device),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "parameters": parameters,
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Content of ``manifest.json``; empty without that file.

    Raises:
        DataError: it cannot be read, or one of its parts is of another kind than a run writes.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return {}
    manifest = read_object(path)
    if not isinstance(earlier := manifest.get("earlier", []), list):
        raise DataError(f"{path}: earlier={earlier!r} must be a list of earlier sittings")
    for sitting in (*earlier, manifest):
        if not isinstance(sitting, dict):
            raise DataError(f"{path}: the earlier sitting {sitting!r} must be an object")
        for part in ("parameters", "versions"):
            if not isinstance(value := sitting.get(part, {}), dict):
                raise DataError(f"{path}: {part}={value!r} must be an object")
    counts = manifest.get("parameters", {})
    if wrong := [name for name, number in counts.items() if not isinstance(number, int)]:
        raise DataError(f"{path}: parameters.{wrong[0]}={counts[wrong[0]]!r} must be a whole number")
    return manifest
