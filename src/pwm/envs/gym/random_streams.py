"""Global random generators, as an environment sees them: one stream per copy, whatever else draws.

Some environments draw from the generators that Python, NumPy and PyTorch share among everything in a
process. Before each call of such an environment these generators are seeded with the next number of a stream
that belongs to the copy, and afterwards the process gets its own states back. So a copy meets the same
numbers beside any other copies, in this process or another one, and training meets the numbers it would
meet without the environment.

Meanwhile functions that would take a seed from the operating system, because they are given none, take one
from the same stream: ``np.random.seed(None)``, as in resets that hand on the seed they were given, or
``np.random.default_rng()``.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding
from numpy.random import mtrand

# Stands in for NumPy's own generator while environments draw. Swapping generators costs next to nothing;
# reading and restoring the state of one takes as long as a step of a robot.
_LENT = np.random.MT19937(0)


def _with_seed(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, but where it gets no seed it gets one from Python's global generator."""

    @functools.wraps(function)
    def seeded(*args: Any, **kwargs: Any) -> Any:
        if any(value is not None for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        return function(random.getrandbits(32))

    return seeded


# Where a function without a seed would ask the operating system for one: its module, name, itself, and the
# one that stands in for it. Environments and spaces of Gymnasium make their generators with the last.
_SEEDERS = [
    (module, name, getattr(module, name), _with_seed(getattr(module, name)))
    for module, name in (
        (random, "seed"),
        (np.random, "seed"),
        (np.random, "default_rng"),
        (seeding, "np_random"),
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
        """Where the stream is; text, because its 128-bit integers exceed what tensors hold."""
        return json.dumps(self._keys.state)

    def load(self, state: str) -> None:
        """Continue from ``state``."""
        self._keys.state = json.loads(state)


@contextmanager
def borrowed_globals() -> Iterator[None]:
    """Give the process its global generators back as they were, however the block used them."""
    python, torch_state = random.getstate(), torch.default_generator.get_state()
    numpy_generator = mtrand.get_bit_generator()
    mtrand.set_bit_generator(_LENT)
    for module, name, _, seeded in _SEEDERS:
        setattr(module, name, seeded)
    try:
        yield
    finally:
        for module, name, function, _ in _SEEDERS:
            setattr(module, name, function)
        random.setstate(python)
        mtrand.set_bit_generator(numpy_generator)
        torch.default_generator.set_state(torch_state)


def may_draw_from_globals(env: Any) -> bool:
    """Whether any layer of ``env`` is not Gymnasium's own, which draw from generators of their own only."""
    layer = env
    while type(layer).__module__.startswith("gymnasium."):
        if layer is env.unwrapped:
            return False
        layer = layer.env
    return True
