"""Seeds of a run: the global generators, and one stream for everything that a run draws itself."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch

from pwm.errors import ConfigError

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


@contextlib.contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Let networks that are built inside the block draw their initial weights from ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "weights"))
        yield
