"""Global random generators, as an environment sees them: one stream per copy, whatever else draws.

Some environments draw from the generators that Python, NumPy and PyTorch share among everything in a
process. Before each call of such an environment these generators are seeded with the next number of a stream
that belongs to the copy, and afterwards the process gets its own states back. So a copy meets the same
numbers beside any other copies, in this process or another one, and training meets the numbers it would
meet without the environment.

Meanwhile generators that would be seeded from the operating system, because they are given no seed, are
seeded from the same stream, in whichever way they are made: ``np.random.seed(None)``, as in resets that hand
on the seed they were given, ``np.random.default_rng()``, ``np.random.RandomState()`` or ``random.Random()``.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.random import bit_generator, mtrand

# Stands in for NumPy's own generator while environments draw, which need not be one that takes seeds.
_LENT = np.random.MT19937(0)
_SEED = random.Random.seed


def _seed_python(generator: random.Random, a: Any = None, version: int = 2) -> None:
    """Seed like ``random.Random.seed``, but without a seed take one from Python's global generator."""
    _SEED(generator, random.getrandbits(32) if a is None else a, version)


# Where Python's generators and all of NumPy's get their seeds from the operating system: owner, name, the
# original, and what stands in for it. The global generator's ``seed`` is bound to the original.
_SEEDERS: list[tuple[Any, str, Any, Any]] = [
    (owner, name, getattr(owner, name), stand_in)
    for owner, name, stand_in in (
        (random.Random, "seed", _seed_python),
        (random, "seed", functools.partial(_seed_python, random.seed.__self__)),  # type: ignore[attr-defined]
        (bit_generator, "randbits", random.getrandbits),
    )
]


class CopyStream:
    """The random stream of one copy, from which the global generators are seeded.

    Args:
        seed: starts the stream.
    """

    def __init__(self, seed: int) -> None:
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Begin anew with ``seed``."""
        self._keys = np.random.PCG64(seed)

    def seed_globals(self) -> None:
        """Seed the global generators with the stream's next number; see ``borrowed_globals``."""
        key = int(self._keys.random_raw())
        random.seed(key)
        np.random.seed(key & 0xFFFFFFFF)  # noqa: NPY002 - the generator that environments share
        torch.default_generator.manual_seed(key)

    def state(self) -> str:
        """Return the position of the stream; text, because its 128-bit integers exceed what tensors hold."""
        return json.dumps(self._keys.state)

    def load(self, state: str) -> None:
        """Continue from ``state``."""
        self._keys.state = json.loads(state)


@contextmanager
def borrowed_globals() -> Iterator[None]:
    """Give the process its global generators back as they were, however the block used them."""
    python, torch_state = random.getstate(), torch.default_generator.get_state()
    numpy_generator = mtrand.get_bit_generator()
    # Beside its generator, NumPy keeps every second normal number for the next call; swapping drops it.
    kept = np.random.get_state(legacy=False)  # noqa: NPY002
    mtrand.set_bit_generator(_LENT)
    for owner, name, _, stand_in in _SEEDERS:
        setattr(owner, name, stand_in)
    try:
        yield
    finally:
        for owner, name, original, _ in _SEEDERS:
            setattr(owner, name, original)
        random.setstate(python)
        mtrand.set_bit_generator(numpy_generator)
        if kept["has_gauss"]:
            np.random.set_state(kept)  # noqa: NPY002
        torch.default_generator.set_state(torch_state)


def may_draw_from_globals(env: Any) -> bool:
    """True if any layer of ``env`` is not Gymnasium's own, which draw from generators of their own only."""
    layer = env
    while type(layer).__module__.startswith("gymnasium."):
        if layer is env.unwrapped:
            return False
        layer = layer.env
    return True
