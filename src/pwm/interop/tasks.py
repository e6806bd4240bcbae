"""Task tables of other projects, whose rows may have any length."""

from __future__ import annotations

import torch
from torch import Tensor

from pwm.checkpoints.single_task import TABLE
from pwm.checkpoints.world_model_file import first_layers
from pwm.models.world_model import TaskEmbedding


def shorten_rows(state: dict[str, Tensor]) -> None:
    """Shorten rows of the task table that are longer than 1, as their project does when it looks them up."""
    table = TaskEmbedding.from_pretrained(state[TABLE].clone())
    table.project()
    state[TABLE] = table.weight.detach()


def rescale_rows(state: dict[str, Tensor]) -> None:
    """Bring all rows of the task table to a length below 1 without changing what the model computes.

    The columns that read the embedding grow by the factor by which the rows shrink. It is a power of two, so
    that no rounding is involved.
    """
    longest = float(state[TABLE].norm(dim=-1).max())
    if longest <= 1.0:
        return
    factor = 2.0 ** torch.frexp(torch.tensor(longest)).exponent.item()
    width = state[TABLE].shape[1]
    state[TABLE] = state[TABLE] / factor
    for key in first_layers(state).values():
        kept, read = state[key].split((state[key].shape[1] - width, width), dim=1)
        state[key] = torch.cat((kept, read * factor), dim=1)
