"""Renew the results tables of the README from committed data.

    python benchmarks/readme_tables.py

They are those of ``results/cpu_suite`` once that has runs, and of the recipe before until then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from equal_budgets import UNITS, at_equal_budgets
from study_files import RESULTS, ROOT, Curves, Row, load, load_rows

from pwm.files import write_text
from pwm.numbers import readable

SUITE = RESULTS / "cpu_suite"
ARCHIVE = RESULTS / "archive" / "cpu_suite_h16"
README = ROOT / "README.md"
BEGIN = "<!-- tables of results, by benchmarks/readme_tables.py -->"
END = "<!-- end of the tables of results -->"
# Algorithms in the order of their columns, and what the columns are called.
HEADS = {
    "mlp": "MLP",
    "pwm_small_h16": "MLP",
    "residual": "residual",
    "pwm_small_h16_residual": "residual",
    "flow": "flow",
    "pwm_small_h16_flow": "flow",
    "sac": "SAC",
    "crossq": "CrossQ",
    "tqc": "TQC",
    "ppo": "PPO",
}
OURS = ("mlp", "residual", "flow")
MINUTES = 10


def tables(suite: Path = SUITE, archive: Path = ARCHIVE) -> str:
    """Markdown of the results that are there, the newest recipe's before the older one's."""
    if load_rows(suite):
        return new_suite(*load(suite))
    rows = load_rows(archive)
    return "\n".join(
        [
            "The suite of this recipe has not been run yet. This is that of the recipe before,",
            "`pwm_small_h16*`: mean return of 64 held-out episodes with the FINAL policy, median of three",
            "seeds of 2 to 11 minutes each ([data](results/archive/README.md)).",
            "",
            *held_out_table(rows),
            "",
            "![Learning curves of the suite](results/archive/cpu_suite_h16/curves.png)",
        ]
    )


def new_suite(rows: Sequence[Row], curves: Curves) -> str:
    """Markdown of a suite with baselines: held-out returns, equal steps, equal minutes."""
    seeds = sorted({int(r["seed"]) for r in rows})
    budgets = at_equal_budgets(curves, known(rows))
    steps, minutes = ([line for line in budgets if line["unit"] == unit.name] for unit in UNITS)
    # The longest budget of steps that a run of ours used up.
    last: dict[str, int] = {}
    for line in steps:
        if line["seeds"] and line["algorithm"] in OURS:
            last[line["task"]] = max(line["budget"], last.get(line["task"], 0))
    equal_steps = [line for line in steps if line["budget"] == last.get(line["task"])]
    equal_minutes = [line for line in minutes if line["budget"] == MINUTES]
    seeds_in_words = f"median over seeds ({len(seeds)} at most)" if len(seeds) > 1 else "one seed so far"
    note = "; model-free agents may train longer" if set(known(rows)) - set(OURS) else ""
    return "\n".join(
        [
            "Mean return of 64 held-out episodes with the FINAL policy, one CPU thread per run, "
            + seeds_in_words,
            f"([data](results/cpu_suite/README.md)){note}:",
            "",
            *held_out_table(rows),
            "",
            f"Evaluated return after as many environment steps (the most that ours take), {seeds_in_words}:",
            "",
            *budget_table(equal_steps, known(rows)),
            "",
            f"Evaluated return within {MINUTES} minutes of training on one core; a run that ended before",
            "keeps its last:",
            "",
            *budget_table(equal_minutes, known(rows)),
            "",
            "![Learning curves of the suite](results/cpu_suite/curves.png)",
        ]
    )


def known(rows: Iterable[Row]) -> list[str]:
    """Algorithms of the rows, in the order of ``HEADS``."""
    found = {r["algorithm"] for r in rows}
    return [name for name in HEADS if name in found]


def held_out_table(rows: Sequence[Row]) -> list[str]:
    """Lines of a table: per task what doing nothing scores, and the median over seeds of every algorithm."""
    algorithms = known(rows)
    lines = header(["doing nothing"], algorithms)
    for task in sorted({r["task"] for r in rows}):
        of_task = [r for r in rows if r["task"] == task]
        cells = [rounded(float(of_task[0]["zero_action"]))]
        for algorithm in algorithms:
            values = [float(r["held_out_final"]) for r in of_task if r["algorithm"] == algorithm]
            cells.append(rounded(float(np.median(values))) if values else "")
        lines.append(f"| {short(task)} | {' | '.join(cells)} |")
    return lines


def budget_table(lines: Sequence[Row], algorithms: Sequence[str]) -> list[str]:
    """Lines of a table of one budget per task; the highest median is bold."""
    found = header(["budget"], algorithms)
    for task in sorted({line["task"] for line in lines}):
        of_task = {line["algorithm"]: line for line in lines if line["task"] == task}
        budget = next(iter(of_task.values()))
        unit = "steps" if budget["unit"] == UNITS[0].name else "minutes"
        cells = [f"{budget['budget']} {unit}"]
        for algorithm in algorithms:
            line = of_task[algorithm]
            text = "" if line["median"] == "" else rounded(line["median"])
            cells.append(f"**{text}**" if line["rank"] == 1 else text)
        found.append(f"| {short(task)} | {' | '.join(cells)} |")
    return found


def header(first: Sequence[str], algorithms: Sequence[str]) -> list[str]:
    """First two lines of a table."""
    heads = ["task", *first, *(HEADS[name] for name in algorithms)]
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]


def rounded(value: float) -> str:
    """A return without decimals, unless they matter."""
    return f"{value:.0f}" if abs(value) >= 100 else readable(value)


def short(task: str) -> str:
    """Name of a task without the engine's."""
    return task.removeprefix("gym_").removeprefix("dflex_")


def renewed(text: str, block: str) -> str:
    """``text`` with ``block`` between the two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def renew_readme() -> None:
    """Write the tables into the README."""
    write_text(README, renewed(README.read_text(encoding="utf-8"), tables()))


if __name__ == "__main__":
    sys.exit(renew_readme())
