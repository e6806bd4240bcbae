"""What algorithms reach with equal budgets: after as many environment steps, and within as many minutes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from study_files import Curve, Curves, Row


class Unit(NamedTuple):
    """What a budget is counted in.

    Attributes:
        name: in the table.
        column: of the curves.
        scale: how many of the column's units make one.
        budgets: looked at.
        holds: whether a run that has ended keeps its last return: whoever waits longer has it still, but
            nobody has seen what more environment steps make of it.
    """

    name: str
    column: str
    scale: float
    budgets: tuple[int, ...]
    holds: bool


UNITS = (
    Unit("env_steps", "env_steps", 1.0, (25_000, 50_000, 100_000), holds=False),
    Unit("minutes", "train_time", 60.0, (5, 10, 20), holds=True),
)


def reached(curve: Curve, unit: Unit, budget: float) -> float:
    """Evaluated return of a run when it had used up ``budget``, interpolated between two evaluations.

    NaN where the first evaluation came later, the run ended earlier (see ``Unit.holds``) or did not record
    the column.
    """
    if unit.column not in curve:
        return math.nan
    used = curve[unit.column] / unit.scale
    if not used[0] <= budget or (budget > used[-1] and not unit.holds):
        return math.nan
    return float(np.interp(budget, used, curve["eval/episode_return"]))


def at_equal_budgets(curves: Curves, algorithms: Iterable[str]) -> list[Row]:
    """Per task, budget and algorithm: median, lowest and highest return of the seeds that got so far.

    ``seeds`` counts them; where none did, the returns are empty. ``ended`` counts those of them whose last
    return stands for a budget they did not use up. ``rank`` is 1 for the highest median.
    """
    algorithms = list(algorithms)
    table: list[Row] = []
    for task in sorted({task for task, _ in curves}):
        for unit in UNITS:
            for budget in unit.budgets:
                runs = {name: curves.get((task, name), []) for name in algorithms}
                table += _ranked([_line(task, unit, budget, name, found) for name, found in runs.items()])
    return table


def _line(task: str, unit: Unit, budget: int, algorithm: str, runs: Iterable[Curve]) -> Row:
    returns = [(reached(run, unit, budget), run) for run in runs]
    found = [(value, run) for value, run in returns if not math.isnan(value)]
    line: Row = {"task": task, "budget": budget, "unit": unit.name, "algorithm": algorithm}
    line |= {"seeds": len(found), "median": "", "lowest": "", "highest": "", "ended": "", "rank": ""}
    if found:
        values = [value for value, _ in found]
        line["median"] = round(float(np.median(values)), 1)
        line["lowest"], line["highest"] = round(min(values), 1), round(max(values), 1)
        line["ended"] = sum(bool(budget > run[unit.column][-1] / unit.scale) for _, run in found)
    return line


def _ranked(lines: list[Row]) -> list[Row]:
    medians = sorted((line["median"] for line in lines if line["median"] != ""), reverse=True)
    for line in lines:
        if line["median"] != "":
            line["rank"] = 1 + medians.index(line["median"])
    return lines
