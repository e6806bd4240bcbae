"""Processes that train one model together, each on its share of every batch (``torchrun``).

All of them hold the same networks, draw the same random numbers and take the same steps: gradients are summed
over the processes before each step. What is drawn does not depend on how many they are, so a run can continue
with more or fewer of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from pwm.errors import ConfigError, PeerLostError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local: its number among those on the same machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """True of the one process that writes files and talks to the user."""
        return self.rank == 0

    def share(self, windows: int) -> slice:
        """Return the columns of a batch of ``windows`` that are this process's.

        Raises:
            ConfigError: they cannot be shared equally.
        """
        if windows % self.size:
            raise ConfigError(
                f"alg.wm_batch_size={windows} windows cannot be shared equally by {self.size} processes"
            )
        count = windows // self.size
        return slice(self.rank * count, (self.rank + 1) * count)

    def sum(self, values: Tensor) -> Tensor:
        """Replace ``values`` by their sum over all processes, the same bits in each, and return it."""
        if self.size > 1:
            with _naming_losses():
                dist.all_reduce(values)
        return values

    def whole(self, values: Tensor, dim: int) -> Tensor:
        """Return the shares of all processes, joined along ``dim`` in their order."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        with _naming_losses():
            dist.all_gather(parts, values.contiguous())
        return torch.cat(parts, dim)

    def any(self, flag: bool) -> bool:
        """True if ``flag`` is, in any of the processes."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(int(flag))))

    def told(self, value: Value) -> Value:
        """Return the ``value`` of the process that leads; the others' is ignored."""
        if self.size == 1:
            return value
        values = [value]
        with _naming_losses():
            dist.broadcast_object_list(values)
        return values[0]


ALONE = Ranks()


@contextlib.contextmanager
def gathered() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started with this one, if it did.

    Sums of tensors on a GPU go over NCCL, all others over gloo.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    store, rank, size = next(rendezvous("env://"))
    # What is left in the store of processes that torchrun has replaced would be taken for addresses of these.
    attempt = dist.PrefixStore(f"attempt{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _naming_losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise PeerLostError(
            f"another process of this training was lost ({reason}); the same command continues from the last "
            "saved state"
        ) from error
