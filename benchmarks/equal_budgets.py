"""What algorithms reach with equal budgets: after as many environment steps, and after as many minutes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from plot_study import Curve, Curves

# Column of a curve, its unit in the table, how many of the column's units make one, and the budgets.
BUDGETS = (
    ("env_steps", "env_steps", 1.0, (25_000, 50_000, 100_000)),
    ("train_time", "minutes", 60.0, (5, 10, 20)),
)


def reached(curve: Curve, column: str, budget: float) -> float:
    """Evaluated return of a run when ``column`` reached ``budget``, interpolated between two evaluations.

    NaN where the run ended earlier or did not record the column.
    """
    if column not in curve or not curve[column][0] <= budget <= curve[column][-1]:
        return float("nan")
    return float(np.interp(budget, curve[column], curve["eval/episode_return"]))


def at_equal_budgets(curves: Curves, algorithms: Iterable[str]) -> list[dict[str, Any]]:
    """Per task, budget and algorithm: median, lowest and highest return of the seeds that got so far.

    ``seeds`` counts them; where none did, the returns are empty.
    """
    algorithms = list(algorithms)
    table = []
    for task in sorted({task for task, _ in curves}):
        for column, unit, scale, budgets in BUDGETS:
            for budget in budgets:
                for algorithm in algorithms:
                    runs = curves.get((task, algorithm), [])
                    found = np.array([reached(run, column, budget * scale) for run in runs])
                    found = found[~np.isnan(found)]
                    line: dict[str, Any] = {
                        "task": task,
                        "budget": budget,
                        "unit": unit,
                        "algorithm": algorithm,
                        "seeds": len(found),
                        "median": "",
                        "lowest": "",
                        "highest": "",
                    }
                    if len(found):
                        line["median"] = round(float(np.median(found)), 1)
                        line["lowest"] = round(float(found.min()), 1)
                        line["highest"] = round(float(found.max()), 1)
                    table.append(line)
    return table
