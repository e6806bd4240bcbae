"""What must be true of the rows of a data set; checked when they are written and by ``pwm data verify``."""

from __future__ import annotations

import numpy as np

from pwm.data.offline.layout import Block, Layout
from pwm.envs.task_table import all_tasks
from pwm.errors import DataError

# Actions and rewards are rounded to float32 by whoever stores them.
ROUNDING = 1e-5
# Last columns of observations that may be zero from beginning to end: a finger that never meets the body
# neither feels nor turns it.
STILL = {"finger-spin": 3}


def check_block(layout: Layout, block: Block, where: str, first: int = 0) -> None:
    """See that every number of ``block`` can be what it is said to be.

    Observations, actions and rewards are finite and in range, padding and END rows are zero, only the last
    transition of a segment terminates, and the observations of a dm_control task are as wide as they should.

    Args:
        layout: of the data set.
        block: segments.
        where: begins the message.
        first: number of the first segment, for the message.

    Raises:
        DataError: names the first segment that is wrong, its task and what is wrong with it.
    """
    steps, segments = block
    _check_segments(layout, block, where)
    rows = segments["transitions"].astype(np.int64) + 1
    task = np.repeat(segments["task"], rows)
    end = np.zeros(len(steps), bool)
    end[np.cumsum(rows) - 1] = True
    before_end = np.zeros(len(steps), bool)
    before_end[np.cumsum(rows) - 2] = True

    def refuse(bad: np.ndarray, what: str, values: np.ndarray) -> None:
        if bad.any():
            row = int(bad.argmax())
            segment = int(np.searchsorted(np.cumsum(rows), row, side="right"))
            step, name = row - int(segments["start"][segment]), layout.tasks[task[row]].name
            found = np.array2string(np.asarray(values[row]), threshold=8, precision=4)
            raise DataError(f"{where}: segment {first + segment} ({name}), step {step}: {what}: {found}")

    for key in ("obs", "action", "reward"):
        finite = np.isfinite(steps[key])
        refuse(~(finite if finite.ndim == 1 else finite.all(1)), f"{key} is not finite", steps[key])
    for key, widths in _widths(layout).items():
        padded = (steps[key] != 0) & (np.arange(steps[key].shape[1]) >= widths[task][:, None])
        refuse(padded.any(1), f"{key} is not zero beyond the task's width", steps[key])
    refuse((np.abs(steps["action"]) > 1 + ROUNDING).any(1), "action is outside [-1, 1]", steps["action"])
    bound = np.array([np.inf if t.max_reward is None else t.max_reward for t in layout.tasks])[task]
    negative = np.isfinite(bound) & (steps["reward"] < -ROUNDING)
    outside = negative | (steps["reward"] > bound + ROUNDING)
    refuse(outside, "reward is outside the task's range", steps["reward"])
    filled = (steps["action"] != 0).any(1) | (steps["reward"] != 0) | (steps["terminated"] != 0)
    refuse(end & filled, "the END row holds a transition", steps)
    odd = (steps["terminated"] != 0) & ((steps["terminated"] != 1) | ~before_end)
    refuse(odd, "terminated is neither 0 nor 1, or set before the last transition", steps["terminated"])
    _check_used(layout, block, where, first)


def _check_segments(layout: Layout, block: Block, where: str) -> None:
    """Refuse segments that do not cover the rows one after the other, or are of no task."""
    steps, segments = block
    transitions = segments["transitions"].astype(np.int64)
    if not len(segments) or transitions.min() < 1:
        raise DataError(f"{where}: a segment has no transition")
    ends = np.cumsum(transitions + 1)
    if not np.array_equal(segments["start"], ends - transitions - 1) or ends[-1] != len(steps):
        raise DataError(f"{where}: the segments do not cover its {len(steps)} rows one after the other")
    task = segments["task"]
    if task.min() < 0 or task.max() >= len(layout.tasks):
        raise DataError(f"{where}: task {task.min()}..{task.max()} is not below {len(layout.tasks)}")
    sums = np.add.reduceat(steps["reward"].astype(np.float64), segments["start"])
    if not np.allclose(sums, segments["reward_sum"], rtol=1e-6, atol=1e-6, equal_nan=True):
        raise DataError(f"{where}: sums of rewards are not those of its segments")


def _widths(layout: Layout) -> dict[str, np.ndarray]:
    return {
        "obs": np.array([t.obs_dim for t in layout.tasks]),
        "action": np.array([t.action_dim for t in layout.tasks]),
    }


def _check_used(layout: Layout, block: Block, where: str, first: int) -> None:
    """Refuse a segment of dm_control that only uses the observations of a narrower task.

    Data of one task under the name of a wider one leave the same columns empty from beginning to end.
    """
    steps, segments = block
    table = {row.name: row for row in all_tasks() if row.suite == "dm_control"}
    owner = {row.obs_dim: row.name for row in table.values()}
    own = [t.obs_dim - STILL.get(t.name, 0) if t.name in table else 0 for t in layout.tasks]
    width = np.array(own)[segments["task"]]
    filled = ((steps["obs"] != 0) * np.arange(1, layout.obs_dim + 1)).max(1)
    used = np.maximum.reduceat(filled, segments["start"])
    wrong = (used < width) & np.isin(used, list(owner))
    if wrong.any():
        index = int(wrong.argmax())
        name = layout.tasks[segments["task"][index]].name
        raise DataError(
            f"{where}: segment {first + index} ({name}): its observations are {used[index]} wide, "
            f"like those of {owner[int(used[index])]}, and not {width[index]}"
        )
