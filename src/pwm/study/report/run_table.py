"""Every run in a line, in the columns of the original's results: what it reached, kept, took and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pwm.analysis.cost.training_cost import RunCost
from pwm.analysis.tables.run_measures import LAST_EPOCHS
from pwm.study.comparison.arm_comparison import StudyComparison
from pwm.study.comparison.wording import number, share
from pwm.study.report.document import Row, Table

SECONDS_IN_HOUR = 3600


def run_table(study: StudyComparison, costs: Mapping[str, Sequence[RunCost]]) -> Table:
    """Peak, final and late returns of every run, its share of the planned epochs, memory and hours.

    Args:
        study: the arms.
        costs: by arm's label those of its runs.
    """
    rows: list[Row] = [
        [
            ("Model", arm.label),
            ("Task", run.key[0]),
            ("Seed", str(run.key[2])),
            ("Peak", number(row["best"])),
            ("Final", number(row["final"])),
            (f"Last {LAST_EPOCHS} epochs", number(row[f"last_{LAST_EPOCHS}_epochs"])),
            ("Completed", share(row["completed"])),
            ("Memory (MB)", number(cost.memory)),
            ("Hours", number(cost.seconds / SECONDS_IN_HOUR)),
        ]
        for arm in study.arms
        for run, row, cost in zip(arm.table.runs, study.rows[arm.label], costs[arm.label], strict=True)
    ]
    notes = [
        "Returns are those of evaluations during training, which decide nothing here: the highest, the last, "
        f"and the mean of those in the last {LAST_EPOCHS} epochs. Completed: share of the planned epochs. "
        "Memory: peak of the process; hours: wall clock of all sittings."
    ]
    return Table("Every run at a glance.", rows, notes, names=3)
