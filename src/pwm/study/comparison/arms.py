"""Runs that are compared under one label."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pwm.analysis.tables.runs import Key, Problem, Run, RunTable, cut_to_common_step, load_runs
from pwm.errors import DataError
from pwm.training.work import in_words


@dataclass(frozen=True)
class Arm:
    """All seeds of one algorithm on every task it was trained on.

    Attributes:
        label: its name in tables and plots; the run folders may call the algorithm something else.
        table: its runs and what is amiss with them.
    """

    label: str
    table: RunTable

    @property
    def algorithm(self) -> str:
        """Name of the algorithm in the run folders."""
        return self.table.runs[0].key[1]

    @property
    def tasks(self) -> list[str]:
        """Tasks it has runs of, sorted."""
        return sorted({run.key[0] for run in self.table.runs})

    def runs(self, task: str) -> list[Run]:
        """Its runs of one task, in the order of their seeds."""
        return [run for run in self.table.runs if run.key[0] == task]

    @property
    def shares_starts(self) -> bool:
        """True if runs on several tasks began from one model, so that they are not independent."""
        tasks: dict[str, set[str]] = {}
        for run in self.table.runs:
            if run.start is not None:
                tasks.setdefault(run.start, set()).add(run.key[0])
        return any(len(names) > 1 for names in tasks.values())

    @property
    def units(self) -> dict[str, list[str]]:
        """By task what each run [seeds] is drawn together with in a bootstrap: the model it began from.

        A run that began from none is its own.
        """
        return {task: [run.start or str(run.path) for run in self.runs(task)] for task in self.tasks}

    def seed_means(self, scores: Mapping[str, np.ndarray], tasks: Sequence[str]) -> np.ndarray:
        """Means over tasks [seeds] of scores [seeds] by task, of the seeds that all tasks have.

        Seeds that began from the same models are one: their mean.
        """
        by_task = [
            dict(zip((r.key[2] for r in self.runs(task)), zip(scores[task], self.units[task]), strict=True))
            for task in tasks
        ]
        seeds = sorted(set.intersection(*(set(found) for found in by_task)))
        units: dict[tuple[str, ...], list[float]] = {}
        for seed in seeds:
            values, begun = zip(*(found[seed] for found in by_task))
            units.setdefault(begun, []).append(float(np.mean(values)))
        return np.array([np.mean(means) for means in units.values()], dtype=float)

    def scores(self, measure: str = "final") -> dict[str, np.ndarray]:
        """Values [seeds] of a column of ``RunTable.rows`` by task, in the order of the seeds.

        Raises:
            DataError: a run has no value in it.
        """
        found: dict[str, list[float]] = {}
        for row in self.table.rows():
            if not isinstance(value := row.get(measure), (int, float)):
                raise DataError(f"{row['path']} has no value for {measure!r}")
            found.setdefault(row["task"], []).append(value)
        return {task: np.array(values, dtype=float) for task, values in found.items()}


def load_arms(
    paths: Mapping[str, Iterable[str | Path]],
    up_to_common_step: bool = False,
    expected: Mapping[str, Iterable[Key]] | None = None,
) -> list[Arm]:
    """Read the run folders of every label.

    Args:
        paths: by label run folders, folders above them, or glob patterns.
        up_to_common_step: also use unfinished runs, and cut the runs of each task, over all arms, at the
            step that all of them have evaluated.
        expected: by label the runs there should be, see ``load_runs``.

    Raises:
        DataError: a label has no usable run, or runs of more than one algorithm, or a run has no evaluation
            up to the common step.
    """
    wanted = expected or {}
    arms = [Arm(name, load_runs(found, up_to_common_step, wanted.get(name))) for name, found in paths.items()]
    for arm in arms:
        if not arm.table.runs:
            raise DataError(f"{arm.label}: no run can be used\n{arm.table.report()}")
        if len(names := sorted({run.key[1] for run in arm.table.runs})) > 1:
            raise DataError(
                f"{arm.label}: one label, but runs of {len(names)} algorithms: {', '.join(names)}"
            )
    if not up_to_common_step:
        return arms
    cut = {run.path: run for run in cut_to_common_step(run for arm in arms for run in arm.table.runs)}
    return [
        Arm(arm.label, dataclasses.replace(arm.table, runs=[cut[run.path] for run in arm.table.runs]))
        for arm in arms
    ]


def load_algorithms(paths: Sequence[str | Path], up_to_common_step: bool = False) -> list[Arm]:
    """One arm per algorithm found, with its name as label, in the order of the paths.

    Args:
        paths: run folders, folders above them, or glob patterns, of one or more algorithms each.
        up_to_common_step: as in ``load_arms``.

    Returns:
        The arms; what is amiss with runs of no arm is in the table of the first one.

    Raises:
        DataError: a path has no usable run, or a run has no evaluation up to the common step.
    """
    names: dict[str, None] = {}
    for path in paths:
        alone = load_runs([path], up_to_common_step)
        if not alone.runs:
            raise DataError(f"{path}: no run can be used\n{alone.report()}")
        names |= dict.fromkeys(run.key[1] for run in alone.runs)
    table = load_runs(paths, up_to_common_step)
    first = next(iter(names))

    def owner(problem: Problem) -> str:
        return problem.key[1] if problem.key is not None and problem.key[1] in names else first

    return [
        Arm(
            name,
            RunTable(
                [run for run in table.runs if run.key[1] == name],
                [problem for problem in table.problems if owner(problem) == name],
            ),
        )
        for name in names
    ]


def steps_in_words(arms: Iterable[Arm]) -> str:
    """Return what the steps of the arms' runs are, for example ``environment steps``."""
    return " or ".join(dict.fromkeys(in_words(run.progress) for arm in arms for run in arm.table.runs))


def references_of(arms: Iterable[Arm], task: str) -> dict[str, float]:
    """Return what the policies that know nothing score on a task, from the first run that knows, else {}."""
    known = (run.reference for arm in arms for run in arm.runs(task))
    return next((reference for reference in known if reference), {})
