"""What the runs of an experiment found, put together for the report."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pwm.analysis.cost.parameter_parity import Parities, Parity, check_parity
from pwm.analysis.tables.model_fits import ModelFit, read_fit
from pwm.analysis.tables.runs import Key, Problem, RunTable, load_runs
from pwm.checkpoints.policy_evaluation import held_out_evaluation, held_out_returns
from pwm.checkpoints.policy_files import CHECKPOINTS
from pwm.errors import CheckpointError, ConfigError, DataError
from pwm.runs import start
from pwm.study.comparison.arms import Arm
from pwm.study.extraction import full_return, score
from pwm.study.plan import ExperimentPlan
from pwm.study.report.assembly import Findings, write_report
from pwm.study.report.models import SharedModel

# What a run that failed is called by its folder, which may know less than who started it.
SUPERSEDED = ("missing", "partial", "failed")


def write_reports(
    plan: ExperimentPlan, failures: Mapping[Key, str], episodes: int, commands: Sequence[str]
) -> list[Path]:
    """Write the report of all arms, and one of each pair of arms matched in computation.

    Args:
        plan: the experiment.
        failures: runs that failed, and why.
        episodes: held-out episodes of every policy.
        commands: how to do it again.

    Returns:
        The HTML files.

    Raises:
        DataError: there are too few runs for a comparison.
    """
    experiment = plan.experiment
    arms = {name: _load_arm(plan, name, failures, episodes) for name in experiment.ordered_arms()}
    baseline = experiment.baseline
    reports = [_write(plan, experiment.title, list(arms.values()), plan.folder, episodes, commands)]
    for matched, other in experiment.compute_matched.items():
        if matched != baseline and arms[matched].table.runs and arms[other].table.runs:
            title = f"{experiment.title}: {other} against {matched}, which costs as much"
            pair = [arms[matched], arms[other]]
            reports.append(_write(plan, title, pair, plan.folder / matched, episodes, commands))
    return reports


def _write(
    plan: ExperimentPlan,
    title: str,
    arms: Sequence[Arm],
    folder: Path,
    episodes: int,
    commands: Sequence[str],
) -> Path:
    usable = [arm for arm in arms if arm.table.runs]
    lost = [problem for arm in arms if not arm.table.runs for problem in arm.table.problems]
    if not arms[0].table.runs or len(usable) < 2:
        without = ", ".join(arm.label for arm in arms if not arm.table.runs)
        raise DataError("\n  ".join([f"no run can be used of: {without}", *map(str, lost)]))
    # An arm without runs is no arm of the report, which would be silent about it.
    first = dataclasses.replace(usable[0].table, problems=[*usable[0].table.problems, *lost])
    usable[0] = Arm(usable[0].label, first)
    labels = [arm.label for arm in usable]
    tasks = {task for arm in usable for task in arm.tasks}
    findings = Findings(
        title=title,
        arms=usable,
        declared=plan.experiment.declared,
        commands=list(commands),
        held_out={run.key: held_out(run.path, episodes) for arm in usable for run in arm.table.runs},
        parity=_parity(plan, labels) if plan.experiment.parity else {},
        compute_matched=plan.experiment.compute_matched,
        full_returns={task: found for task in tasks if (found := full_return(task)) is not None},
        task_scores=_task_scores(usable, episodes),
        models=_models(plan, usable),
        thresholds={task: found for task, found in plan.experiment.thresholds.items() if task in tasks},
    )
    return write_report(findings, folder)[0]


def _parity(plan: ExperimentPlan, labels: Sequence[str]) -> Parities:
    """Of every arm with the first one, on every task."""
    baseline = {cell.task: cell for cell in plan.cells if cell.arm == labels[0]}
    found: dict[str, dict[str, Parity]] = {label: {} for label in labels[1:]}
    for cell in plan.cells:
        if cell.arm in found:
            found[cell.arm][cell.task] = check_parity(baseline[cell.task].config, cell.config, *cell.sizes)
    return found


def _task_scores(arms: Sequence[Arm], episodes: int) -> dict[Key, float]:
    """Scores between 0 and 1 of the final policies of the runs, where the task has such a score."""
    found: dict[Key, float] = {}
    for run in (run for arm in arms for run in arm.table.runs):
        evaluation = held_out_evaluation(run.path, "final", episodes)
        if evaluation is not None and (value := score(run.task, evaluation)) is not None:
            found[run.key] = value
    return found


def _models(plan: ExperimentPlan, arms: Sequence[Arm]) -> list[SharedModel]:
    """The world models that the runs of the arms began from."""
    starts = {run.key: run.start for run in plan.runs}
    begun = [(arm.label, starts.get(run.key), run.start) for arm in arms for run in arm.table.runs]
    return [
        SharedModel(label, model.seed, runs, model.folder, _fit(model.folder, digest))
        for (label, model, digest), runs in Counter(begun).items()
        if model is not None
    ]


def _fit(folder: Path, digest: str | None) -> ModelFit | None:
    """What is known of the model in a folder, if it still is the one with this digest."""
    if start.digest(folder) != digest:
        return None
    with contextlib.suppress(ConfigError, DataError):
        return read_fit(folder)
    return None


def held_out(folder: Path, episodes: int) -> dict[str, list[float]]:
    """Stored held-out returns of a run by checkpoint, of those that were evaluated."""
    found = {}
    for which in CHECKPOINTS:
        # A policy that is missing was not evaluated either.
        with contextlib.suppress(CheckpointError):
            found[which] = held_out_returns(folder, which, episodes)
    return {which: returns for which, returns in found.items() if returns is not None}


def _load_arm(plan: ExperimentPlan, name: str, failures: Mapping[Key, str], episodes: int) -> Arm:
    """The arm's runs that are trained and evaluated; all others are among its problems."""
    runs = {run.key: run for run in plan.runs if run.cell.arm == name}
    folders = [run.folder for run in runs.values() if run.folder.exists()]
    try:
        table = load_runs(folders, expected=runs)
    except DataError:
        missing = [Problem("missing", "there is no run folder of it", None, key) for key in runs]
        table = RunTable([], missing)
    used = [run for run in table.runs if len(held_out(run.path, episodes)) == len(CHECKPOINTS)]
    failed = {key: reason for key, reason in failures.items() if key in runs}
    problems = [p for p in table.problems if p.key not in failed or p.kind not in SUPERSEDED]
    problems += [Problem("failed", reason, runs[key].folder, key) for key, reason in failed.items()]
    return Arm(name, RunTable(used, problems))
