"""Export the runs of an experiment as data: rows, curves, tables and pictures below ``results/``.

    pwm experiment experiment=cpu_suite --only 'dflex_hopper/*/1'     trains, evaluates and reports
    python benchmarks/export_suite.py                                 exports what is finished
    python benchmarks/export_suite.py --experiment cpu_ablations

Finished runs in ``logs/experiments/<name>`` are merged into ``results/<name>``, where those of
``model_free.py`` stand beside them: ``runs.csv`` (one row per run), ``curves/`` (its evaluations) and
``gradients/`` (their signal and noise). Of all runs that are stored there it then makes

    ``summary.csv``         per task and algorithm, medians over seeds
    ``comparison.csv``      per pair of algorithms: the difference, and how likely a run of one beats one of
                            the other, task by task and over all tasks both have
    ``equal_budgets.csv``   returns after as many environment steps and within as many minutes, with ranks
    pictures                see ``plot_study.py``

and renews the tables of the README (``readme_tables.py``).
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from equal_budgets import at_equal_budgets
from numpy.typing import NDArray
from plot_study import changes_only, plot_study
from readme_tables import SUITE, renew_readme
from study_files import (
    CURVE,
    GRADIENTS,
    HELD_OUT_EPISODES,
    RESULTS,
    ROOT,
    Row,
    csv_text,
    curve_path,
    figures,
    held_out_columns,
    load,
    merge,
    rounded,
)

from pwm.analysis.statistics.comparison import Comparison, compare_scores
from pwm.analysis.statistics.estimates import Estimate, median, probability_of_improvement
from pwm.analysis.tables.records import load_records
from pwm.analysis.tables.runs import Run, load_runs
from pwm.errors import CheckpointError, DataError, PwmError
from pwm.files import write_text
from pwm.runs.provenance import read_manifest
from pwm.study.comparison.wording import count
from pwm.study.experiment_file import experiment_names, load_experiment
from pwm.study.findings import held_out

# Words of a command that say nothing about what is computed, and may name a folder of one machine.
PRIVATE = ("general.logdir=", "general.progress=")


def curve_records(folder: Path) -> list[dict[str, float]]:
    """Records of the epochs that were evaluated, with the ``train_time`` [s] of the processor."""
    evaluated = [r for r in load_records(folder) if r.get("eval/episode_return") is not None]
    return [r | {"train_time": r["cpu_time"]} for r in evaluated]


def public(command: str) -> str:
    """A command without the words that say nothing about what is computed."""
    return " ".join(word for word in command.split() if not word.startswith(PRIVATE))


def export_run(run: Run, results: Path, episodes: int) -> Row:
    """Write the curve of a finished run; returns its row of ``runs.csv``.

    Raises:
        DataError: its policies were not evaluated on so many held-out episodes.
    """
    returns = held_out(run.path, episodes)
    if len(returns) < 2:
        raise DataError(f"{run.path} has no {episodes} held-out episodes of its best and its final policy")
    records, made = curve_records(run.path), read_manifest(run.path)
    task, algorithm, seed = run.key
    row = {
        "task": task,
        "algorithm": algorithm,
        "seed": seed,
        "world_model_parameters": run.parameters.get("world_model", ""),
        **figures(records, run.reference),
        "commit": run.commit,
        "command": public(made.get("command", "")),
        "hardware": f"{made.get('device')}, {count(made.get('threads', 0), 'thread')}",
        "versions": ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items()),
    }
    for which, found in returns.items():
        row |= held_out_columns(which, found)
    write_text(curve_path(results, task, algorithm, seed), csv_text(CURVE, records))
    if measured := [r for r in load_records(run.path) if r.get("actor/esnr") is not None]:
        place = curve_path(results, task, algorithm, seed, "gradients")
        write_text(place, csv_text(GRADIENTS, measured))
    return row


def export(folder: Path, results: Path, episodes: int) -> Iterator[str]:
    """Merge the finished runs below ``folder`` into ``results``; yields a line per problem of a run.

    Raises:
        DataError: there is no run.
    """
    table = load_runs([folder])
    yield from (str(problem) for problem in table.problems if problem.kind != "missing")
    rows = []
    for run in table.runs:
        try:
            rows.append(export_run(run, results, episodes))
        except (DataError, CheckpointError) as error:
            yield str(error)
    merge(results, rows)


def scores(rows: Iterable[Row], algorithm: str) -> dict[str, NDArray[np.float64]]:
    """Held-out returns [seeds] of an algorithm's final policies by task."""
    found: dict[str, list[float]] = {}
    for r in rows:
        if r["algorithm"] == algorithm:
            found.setdefault(r["task"], []).append(float(r["held_out_final"]))
    return {task: np.array(values) for task, values in found.items()}


def summarise(rows: Sequence[Row], algorithms: Iterable[str]) -> list[Row]:
    """Per task and algorithm medians over seeds, those of the held-out returns with a bootstrap interval.

    ``retention`` is defined by ``measures``: the share of the peak's gain over the better of zero and random
    actions that the last evaluations kept; empty where no seed gained anything.
    """
    table = []
    for task, algorithm in itertools.product(sorted({r["task"] for r in rows}), algorithms):
        runs = [r for r in rows if r["task"] == task and r["algorithm"] == algorithm]
        if not runs:
            continue

        def column(name: str, runs: Sequence[Row] = runs) -> list[float]:
            return [float(r[name]) for r in runs if r[name] not in ("", None)]

        kept, errors = column("retention"), column("latent_error_k1")
        table.append(
            {
                "task": task,
                "algorithm": algorithm,
                "seeds": len(runs),
                "env_steps": int(np.median(column("env_steps"))),
                "minutes": round(float(np.median(column("train_time"))) / 60, 1),
                **estimate_columns("held_out_final", median(column("held_out_final"))),
                **estimate_columns("held_out_best", median(column("held_out_best"))),
                "peak": rounded(float(np.median(column("peak")))),
                "last10": rounded(float(np.median(column("last10")))),
                "zero_action": runs[0]["zero_action"],
                "random_action": runs[0]["random_action"],
                "retention": round(float(np.median(kept)), 3) if kept else "",
                "worst_retention": round(min(kept), 3) if kept else "",
                "latent_error_k1": f"{np.median(errors):.3g}" if errors else "",
            }
        )
    return table


def compare(rows: Sequence[Row], algorithms: Sequence[str]) -> list[Row]:
    """Pairs of algorithms by their held-out returns: every pair, of changes to the first one those with it.

    One row per task both have, and one named ``all tasks``. ``better`` is the probability that a run of the
    candidate beats one of the baseline; see ``compare_scores``.
    """
    known = {name: found for name in algorithms if (found := scores(rows, name))}
    pairs = [(b, a) for a, b in itertools.combinations(known, 2)]
    if changes_only(list(known)):
        pairs = [pair for pair in pairs if pair[1] == algorithms[0]]
    table: list[Row] = []
    for candidate, baseline in pairs:
        shared = sorted(known[candidate].keys() & known[baseline].keys())
        if shared:
            arms = [{task: known[name][task] for task in shared} for name in (candidate, baseline)]
            names = {"candidate": candidate, "baseline": baseline}
            table += [names | line for line in _pair(compare_scores(*arms), *arms)]
    return table


def _pair(
    found: Comparison, candidate: dict[str, NDArray[np.float64]], baseline: dict[str, NDArray[np.float64]]
) -> Iterator[Row]:
    for task in found.tasks:
        x, y = candidate[task.task], baseline[task.task]
        yield {
            "task": task.task,
            "seeds": len(x),
            "baseline_seeds": len(y),
            **estimate_columns("better", probability_of_improvement(x[:, None], y[:, None])),
            **estimate_columns("difference", task.difference),
            "welch_p_holm": "" if math.isnan(task.welch_p_holm) else round(task.welch_p_holm, 4),
        }
    # There is none where tasks differ in their number of seeds.
    if found.improvement is not None:
        seeds, baseline_seeds = (len(next(iter(arm.values()))) for arm in (candidate, baseline))
        yield {
            "task": "all tasks",
            "seeds": seeds,
            "baseline_seeds": baseline_seeds,
            **estimate_columns("better", found.improvement),
        }


def estimate_columns(name: str, estimate: Estimate | None) -> Row:
    """Columns ``name``, ``name_low`` and ``name_high``; empty where the scores do not allow one."""
    values = (math.nan,) * 3 if estimate is None else (estimate.value, estimate.low, estimate.high)
    ends = ("", "_low", "_high")
    return {f"{name}{end}": rounded(value) for end, value in zip(ends, values, strict=True)}


def report(results: Path, arms: Sequence[str]) -> list[Row]:
    """Write tables and pictures of the stored runs; returns the summary.

    Args:
        results: folder of ``runs.csv`` and ``curves/``.
        arms: algorithms that come first, in this order.

    Raises:
        DataError: there are no runs.
    """
    rows, curves = load(results)
    if not rows:
        raise DataError(f"{results} has no runs.csv, and there are no run folders to make it from")
    algorithms = list(dict.fromkeys([*arms, *sorted(r["algorithm"] for r in rows)]))
    summary = summarise(rows, algorithms)
    tables = {
        "summary.csv": summary,
        "comparison.csv": compare(rows, algorithms),
        "equal_budgets.csv": at_equal_budgets(curves, [a for a in algorithms if scores(rows, a)]),
    }
    for name, table in tables.items():
        write_text(results / name, csv_text(list(table[0]) if table else [], table))
    plot_study(results, rows, curves, algorithms)
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and say what was left out; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiment", choices=experiment_names(), default="cpu_suite")
    parser.add_argument("--runs", type=Path, help="its folder (default: logs/experiments/NAME)")
    parser.add_argument("--results", type=Path, help="where the data go (default: results/NAME)")
    parser.add_argument("--episodes", type=int, default=HELD_OUT_EPISODES, help="held out, of every policy")
    chosen = parser.parse_args(arguments)
    folder = chosen.runs or ROOT / "logs" / "experiments" / chosen.experiment
    results = chosen.results or RESULTS / chosen.experiment
    try:
        # Tables can be made anew where the runs themselves are no longer, or never were.
        if chosen.runs or folder.exists():
            for line in export(folder, results, chosen.episodes):
                print(line)
        summary = report(results, load_experiment([f"experiment={chosen.experiment}"]).ordered_arms())
    except PwmError as error:
        print(f"export_suite: {error}", file=sys.stderr)
        return 2
    print(csv_text(list(summary[0]), summary), end="")
    if results == SUITE:
        renew_readme()
    return 0


if __name__ == "__main__":
    sys.exit(main())
