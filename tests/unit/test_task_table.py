"""The table of tasks holds what MT30 and MT80 are, and hands it on without a simulator."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pwm.envs.task_table import all_tasks, task_names, task_row, task_set
from pwm.errors import ConfigError

CUSTOM = {
    *("walker-walk-backwards", "walker-run-backwards", "cheetah-run-backwards", "cheetah-run-front"),
    *("cheetah-run-back", "cheetah-jump", "hopper-hop-backwards", "reacher-three-easy"),
    *("reacher-three-hard", "cup-spin", "pendulum-spin"),
}


def test_every_task_is_at_its_number_under_a_name_of_its_own() -> None:
    rows = all_tasks()
    assert [row.id for row in rows] == list(range(80))
    assert len({row.name for row in rows}) == 80
    assert {row.name for row in rows if row.custom} == CUSTOM
    assert task_names("dm_control") == tuple(row.name for row in rows[:30])
    assert task_names("metaworld") == tuple(row.name for row in rows[30:])
    assert rows[16].name == "fish-swim"
    assert rows[67].name == "mw-shelf-place"
    assert rows[79].name == "mw-hand-insert"


def test_names_follow_from_what_the_suites_call_them() -> None:
    for row in all_tasks():
        short = {"ball_in_cup": "cup", "metaworld": "mw"}.get(row.domain, row.domain)
        assert row.name.replace("-", "_") == f"{short}_{row.task}".replace("-", "_")


@pytest.mark.parametrize(("name", "count", "obs_dim"), [("mt30", 30, 24), ("mt80", 80, 39)])
def test_sets_are_padded_to_their_widest_task(name: str, count: int, obs_dim: int) -> None:
    tasks = task_set(name)
    assert len(tasks.rows) == count
    assert (tasks.obs_dim, tasks.action_dim) == (obs_dim, 6)
    masks = tasks.action_masks()
    assert masks.shape == (count, 6)
    assert masks.dtype == torch.float32
    assert masks[6].tolist() == [1, 0, 0, 0, 0, 0]
    assert masks[16].tolist() == [1, 1, 1, 1, 1, 0]
    assert masks.sum(1).tolist() == [row.action_dim for row in tasks.rows]


def test_episodes_and_widths_of_the_suites() -> None:
    for row in all_tasks():
        assert row.action_repeat == 2
        assert row.episode_length == (500 if row.suite == "dm_control" else 100)
        assert row.suite == "dm_control" or (row.obs_dim, row.action_dim) == (39, 4)


def test_unknown_names_are_refused_with_a_hint() -> None:
    assert task_row("cup-spin").domain == "ball_in_cup"
    with pytest.raises(ConfigError, match=r"'walker-wlak'.*did you mean 'walker-walk'"):
        task_row("walker-wlak")
    with pytest.raises(ConfigError, match=r"'mt50'.*mt30, mt80"):
        task_set("mt50")


def test_reading_the_table_imports_no_simulator() -> None:
    code = (
        "import sys; from pwm.envs.task_table import task_set; task_set('mt80').action_masks(); "
        "import pwm.envs.dmc as d; d.Options(); "
        "assert not {'mujoco', 'dm_control', 'gymnasium'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
