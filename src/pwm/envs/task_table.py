"""The tasks of MT30 and MT80 as data: what they are called, how wide they are, how long they last.

The table is ``tasks.json`` beside this file; nothing of a simulator is needed to read it. The number of a
task is its place in the table: data sets store it and task embeddings are indexed by it, so the order never
changes.
Source: TD-MPC2's task sets (Hansen et al., 2024), with widths taken from the environments themselves.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import torch
from torch import Tensor

from pwm.errors import ConfigError

# Component that runs the tasks of a suite.
COMPONENTS = {"dm_control": "dmc", "metaworld": "metaworld"}


@dataclass(frozen=True)
class TaskRow:
    """One task of the table.

    Attributes:
        id: its number, and its place in every set that holds it.
        name: for example ``walker-walk`` or ``mw-push``.
        suite: ``dm_control`` or ``metaworld``.
        domain, task: how the suite calls it, for example ``ball_in_cup`` and ``catch``.
        custom: whether it is none of the suite's own, but defined by its formulas.
        obs_dim: width of an observation, without padding.
        action_dim: width of an action, without padding.
        episode_length: steps of the agent after which an episode is cut.
        action_repeat: control steps of the suite per step of the agent; their rewards are added up.
    """

    id: int
    name: str
    suite: str
    domain: str
    task: str
    custom: bool
    obs_dim: int
    action_dim: int
    episode_length: int
    action_repeat: int

    @property
    def component(self) -> str:
        """Name of the environment component that runs it."""
        return COMPONENTS[self.suite]

    @property
    def env_name(self) -> str:
        """``EnvSpec.name`` of its environment, for example ``dmc_walker-walk``."""
        return f"{self.component}_{self.name}"


@dataclass(frozen=True)
class TaskSet:
    """The tasks that one multi-task model learns, numbered from 0.

    Attributes:
        name: ``mt30`` or ``mt80``.
        rows: its tasks in order.
    """

    name: str
    rows: tuple[TaskRow, ...]

    @property
    def obs_dim(self) -> int:
        """Width that all observations are padded to with zeros at their end."""
        return max(row.obs_dim for row in self.rows)

    @property
    def action_dim(self) -> int:
        """Width of the agent's action; a task takes the first ``action_dim`` entries of its row."""
        return max(row.action_dim for row in self.rows)

    def action_masks(self) -> Tensor:
        """Return [n_tasks, action_dim] float32: 1 for the entries that a task takes, 0 for the others."""
        taken = torch.tensor([row.action_dim for row in self.rows])
        return (torch.arange(self.action_dim) < taken.unsqueeze(1)).to(torch.float32)


@cache
def all_tasks() -> tuple[TaskRow, ...]:
    """Return all 80 tasks in the order of their numbers."""
    return tuple(TaskRow(**row) for row in _content()["tasks"])


def task_set(name: str) -> TaskSet:
    """Return the set called ``name``.

    Raises:
        ConfigError: there is no such set.
    """
    sizes = _content()["sets"]
    if name not in sizes:
        raise ConfigError(f"task set {name!r} is unknown; choose one of: {', '.join(sizes)}")
    return TaskSet(name, all_tasks()[: sizes[name]])


def task_sets() -> tuple[str, ...]:
    """Return the names of all sets."""
    return tuple(_content()["sets"])


def task_names(suite: str) -> tuple[str, ...]:
    """Return the names of all tasks of ``suite`` (``dm_control`` or ``metaworld``) in order."""
    return tuple(row.name for row in all_tasks() if row.suite == suite)


def check_task(suite: str, name: str) -> None:
    """Raise ConfigError, with the most similar name and all, unless ``name`` is a task of ``suite``."""
    known = task_names(suite)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"env.task={name!r} is unknown{hint}; choose one of: {', '.join(known)}")


def task_row(name: str) -> TaskRow:
    """Return the task called ``name``.

    Raises:
        ConfigError: there is no such task; the message names the most similar one.
    """
    for row in all_tasks():
        if row.name == name:
            return row
    close = difflib.get_close_matches(str(name), [row.name for row in all_tasks()], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"task {name!r} is none of the {len(all_tasks())} tasks of the table{hint}")


def table_name(env_name: str) -> str:
    """Return what the table calls the task of an environment, or the environment's name if it does not.

    Args:
        env_name: ``EnvSpec.name``, for example ``dmc_walker-walk``.
    """
    short = env_name.partition("_")[2]
    return short if any(row.name == short for row in all_tasks()) else env_name


@cache
def _content() -> dict[str, dict]:
    return dict(json.loads(resources.files("pwm.envs").joinpath("tasks.json").read_text(encoding="utf-8")))
