"""Multi-task models: one task of them as a single-task model, and task tables of any length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pwm.checkpoints.world_model_file import Sizes, first_layers
from pwm.errors import CheckpointError
from pwm.models.world_model import TaskEmbedding

TABLE = "task_embedding.weight"


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


def single_task(
    sizes: Sizes, state: dict[str, Tensor], task: int, masks: Any
) -> tuple[Sizes, dict[str, Tensor]]:
    """The model with its task fixed: an embedding that never changes is a bias.

    Args:
        sizes, state: the multi-task model.
        task: row of the task table.
        masks: which actions each task has, [n_tasks, act_dim] of 0 and 1, if the file says so.

    Raises:
        CheckpointError: there is no such task.
    """
    if not sizes.n_tasks:
        raise CheckpointError(f"it is a single-task model, which has no task {task}")
    if not 0 <= task < sizes.n_tasks:
        raise CheckpointError(f"it has no task {task}; choose one from 0 to {sizes.n_tasks - 1}")
    state = dict(state)
    e = state.pop(TABLE)[task].double()
    for key in first_layers(state).values():
        bias = key.removesuffix("weight") + "bias"
        kept, read = state[key].split((state[key].shape[1] - len(e), len(e)), dim=1)
        state[key] = kept.contiguous()
        state[bias] = (state[bias].double() + read.double() @ e).float()
    known = isinstance(masks, Tensor) and masks.shape == (sizes.n_tasks, sizes.act_dim)
    act_dim = int(masks[task].sum()) if known else sizes.act_dim
    if known and not torch.equal(masks[task].bool(), torch.arange(sizes.act_dim) < act_dim):
        raise CheckpointError(
            f"its action mask of task {task} does not keep the first actions: {masks[task].tolist()}"
        )
    return (
        replace(
            sizes,
            world_model=replace(sizes.world_model, task_dim=0),
            n_tasks=0,
            padded_obs=True,
            padded_act=not known,
            act_dim=act_dim,
        ),
        _without_actions(sizes, state, act_dim),
    )


def _without_actions(sizes: Sizes, state: dict[str, Tensor], act_dim: int) -> dict[str, Tensor]:
    """``state`` without the columns of actions that the task does not have."""
    start, stop = sizes.world_model.latent_dim + act_dim, sizes.world_model.latent_dim + sizes.act_dim
    for name, key in first_layers(state).items():
        if name != "encoder":
            state[key] = torch.cat((state[key][:, :start], state[key][:, stop:]), dim=1)
    return state
