"""One task of a multi-task world model, as a single-task model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pwm.checkpoints.world_model_file import RewardStatistics, Sizes, StoredWorldModel, first_layers
from pwm.envs.task_table import task_set, task_sets
from pwm.errors import CheckpointError

TABLE = "task_embedding.weight"
PRESENT = "dynamics.space.present"


def task_names(sizes: Sizes) -> tuple[str, ...]:
    """Return the tasks of a multi-task model in order; those of the set of that size where it does not say.

    Raises:
        CheckpointError: it does not say, and no set has so many.
    """
    if sizes.tasks:
        return sizes.tasks
    for name in task_sets():
        if len(rows := task_set(name).rows) == sizes.n_tasks:
            return tuple(row.name for row in rows)
    raise CheckpointError(
        f"is a world model of {sizes.n_tasks} tasks and does not say which; convert it again with "
        f"--task INDEX, from 0 to {sizes.n_tasks - 1}"
    )


def of_task(stored: StoredWorldModel, name: str) -> StoredWorldModel:
    """Return the model of the task called ``name`` alone; a single-task model as it is.

    Raises:
        CheckpointError: it is not one of the model's tasks.
    """
    if not stored.sizes.n_tasks:
        return stored
    names = task_names(stored.sizes)
    if name not in names:
        raise CheckpointError(f"is a world model of {len(names)} tasks ({names[0]}, ...), not of {name}")
    task, reward = names.index(name), stored.reward
    sizes, state = single_task(stored.sizes, stored.state, task, None)
    if reward is not None and len(reward.mean) > 1:
        reward = RewardStatistics(*(x[task].reshape(y.shape) for x, y in _statistics(reward)))
    return StoredWorldModel(sizes, state, reward)


def _statistics(reward: RewardStatistics) -> list[tuple[Tensor, Tensor]]:
    """Statistics per task, each beside a tensor of the shape that those of a single task have."""
    one = torch.zeros(1)
    return [(reward.mean, one), (reward.var, one), (reward.count, torch.zeros(()))]


def single_task(
    sizes: Sizes, state: Mapping[str, Tensor], task: int, masks: Any
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
    state = {key: value[task] if key.startswith("obs_rms.") else value for key, value in state.items()}
    e = state.pop(TABLE)[task].double()
    if PRESENT in state:
        e = torch.cat([e, state.pop(PRESENT)[task].double()])
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
            world_model=sizes.of_one_task(),
            n_tasks=0,
            tasks=(),
            padded_obs=True,
            padded_act=not known,
            act_dim=act_dim,
        ),
        _without_actions(sizes, state, act_dim),
    )


def _without_actions(sizes: Sizes, state: dict[str, Tensor], act_dim: int) -> dict[str, Tensor]:
    """``state`` without the columns of actions that the task does not have."""
    columns = sizes.action_columns()
    for name, key in first_layers(state).items():
        if name != "encoder":
            start, stop = columns[name] + act_dim, columns[name] + sizes.act_dim
            state[key] = torch.cat((state[key][:, :start], state[key][:, stop:]), dim=1)
    return state
