"""The batched tasks, one module per model: each holds ``TASKS``, from the name of a task to its record."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pwm.envs.task_table import task_row

if TYPE_CHECKING:
    from pwm.envs.dmc.tasks.common import Task


def load_task(name: str) -> Task:
    """Return the record of the task called ``name`` in the table."""
    module = importlib.import_module(f"pwm.envs.dmc.tasks.{task_row(name).domain}")
    task: Task = module.TASKS[name]
    return task
