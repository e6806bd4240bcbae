"""The plan of an experiment as text: its runs, what they cost, how long they will take, what is done."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from pwm.analysis.tables.records import load_records
from pwm.errors import PwmError
from pwm.numbers import aligned
from pwm.runs.status import FINISHED
from pwm.study.calibration import matrix_speed, measured_seconds
from pwm.study.cells import Cell
from pwm.study.plan import ExperimentPlan, PlannedRun

# Operations of an epoch beyond which measuring two epochs on a CPU is not short; such networks are so large
# that matrix products decide the time.
LONG_EPOCH = 3e11


@dataclass(frozen=True)
class Duration:
    """Duration of a run of a cell.

    Attributes:
        seconds: of the whole run.
        source: where that is known from.
    """

    seconds: float
    source: str


Durations = Mapping[tuple[str, str], Duration]


def estimate_from_runs(plan: ExperimentPlan) -> dict[tuple[str, str], Duration]:
    """Times by task and arm as finished runs of the experiment suggest; nothing for tasks without any.

    Where only other arms of the task have finished runs, their time per operation is taken.
    """
    measured: dict[tuple[str, str], list[float]] = {}
    for run in plan.every_run:
        if run.state().state == FINISHED and (seconds := _seconds_per_epoch(run)) is not None:
            measured.setdefault((run.cell.task, run.cell.arm), []).append(seconds)
    found = {}
    for cell in plan.cells:
        epochs = cell.config.epochs
        if own := measured.get((cell.task, cell.arm)):
            source = f"{len(own)} finished run{'s' * (len(own) > 1)} of this arm"
            found[cell.task, cell.arm] = Duration(epochs * statistics.median(own), source)
            continue
        others = [
            seconds / other.epoch_flops
            for other in plan.cells
            if other.task == cell.task
            for seconds in measured.get((other.task, other.arm), [])
        ]
        if others:
            seconds = epochs * cell.epoch_flops * statistics.median(others)
            found[cell.task, cell.arm] = Duration(seconds, "finished runs of other arms, by operations")
    return found


def estimate_by_measuring(cell: Cell, threads: int) -> Duration:
    """Time of a run of the cell, measured here and now: two epochs, or matrix products if those are long.

    Raises:
        PwmError: the run cannot be trained here.
    """
    if cell.epoch_flops <= LONG_EPOCH or cell.config.general.device != "cpu":
        return Duration(measured_seconds(cell.config, threads), "two epochs measured now")
    speed = matrix_speed(cell.config.general.device, threads)
    source = f"operations at {speed / 1e9:.0f} GFLOP/s, the speed of matrix products: at least this"
    return Duration(cell.flops / speed, source)


def plan_in_words(
    plan: ExperimentPlan, estimates: Durations, at_a_time: int, done: Callable[[PlannedRun], bool]
) -> str:
    """Plain text: a row per run, then how long all of it takes and how that is known.

    Args:
        plan: the experiment.
        estimates: times by task and arm, where known.
        at_a_time: runs in parallel.
        done: whether nothing is left to do for a run, its evaluation included.
    """
    counted = list(dict.fromkeys(run.cell.progress for run in plan.every_run))
    columns = [progress.replace("_", " ") for progress in counted]
    header = ("task", "arm", "seed", "parameters", *columns, "TFLOP", "time", "state")
    rows = [
        _row(run, counted, estimates.get((run.cell.task, run.cell.arm)), done(run)) for run in plan.every_run
    ]
    lines = [f"{plan.experiment.title} ({plan.folder})", ""]
    lines.append(aligned(header, rows, words=("task", "arm", "state")))
    lines += ["", _parity_line(plan), *_matched_lines(plan), total(plan, estimates, at_a_time)]
    for source in dict.fromkeys(e.source for e in estimates.values()):
        arms = [f"{task} {arm}" for (task, arm), e in estimates.items() if e.source == source]
        lines.append(f"  {source}: {', '.join(arms)}")
    return "\n".join(lines)


def total(plan: ExperimentPlan, estimates: Durations, at_a_time: int) -> str:
    """One line: how many runs there are, how many are finished, and how long the others take."""
    states = {run: run.state() for run in plan.every_run}
    left = [run for run, found in states.items() if found.state != FINISHED]
    counts = f"{len(states)} runs, {len(states) - len(left)} trained already"
    how = f"{at_a_time} at a time, {plan.threads} thread{'s' * (plan.threads > 1)} each"
    if not left:
        return counts
    if any((run.cell.task, run.cell.arm) not in estimates for run in left):
        return f"{counts}; {how}"
    seconds = [
        estimates[run.cell.task, run.cell.arm].seconds * (1 - states[run].epoch / run.config.epochs)
        for run in left
    ]
    # The last runs may have to wait for each other.
    longest = max(max(seconds), sum(seconds) / at_a_time)
    return f"{counts}; about {tqdm.format_interval(round(longest))} of training left; {how}"


def _parity_line(plan: ExperimentPlan) -> str:
    if not plan.experiment.parity:
        return "parity: does not apply to this experiment"
    differences = [
        f"{cell.task} {cell.arm} {cell.parity.difference:+.2%} {'PASS' if cell.parity.passed else 'FAIL'}"
        for cell in plan.candidates()
    ]
    return f"parity with {plan.experiment.baseline}: " + ", ".join(differences)


def _matched_lines(plan: ExperimentPlan) -> list[str]:
    """Return the difference between arms that were matched in computation by whole updates."""
    return [
        f"{cell.task}: an epoch of {cell.arm} costs {cell.matched.mismatch:+.2%} against "
        f"{plan.experiment.compute_matched[cell.arm]}"
        for cell in plan.cells
        if cell.matched is not None
    ]


def _row(run: PlannedRun, counted: Sequence[str], estimate: Duration | None, done: bool) -> tuple[str, ...]:
    """Cells of a run; ``counted`` are the metrics that have a column for what they count."""
    cell, found = run.cell, run.state()
    state = found.state
    if state == FINISHED:
        state = "done" if done else "trained, to be evaluated"
    elif found.epoch:
        state = f"to be continued at epoch {found.epoch} of {run.config.epochs}"
    return (
        cell.task,
        cell.arm,
        str(run.seed),
        f"{cell.parameters:,}",
        *(f"{cell.steps:,}" if cell.progress == name else "-" for name in counted),
        f"{teraflops:,.0f}" if (teraflops := cell.flops / 1e12) >= 100 else f"{teraflops:.3g}",
        "-" if estimate is None else tqdm.format_interval(round(estimate.seconds)),
        state,
    )


def _seconds_per_epoch(run: PlannedRun) -> float | None:
    try:
        last = load_records(run.folder)[-1]
        return last["wall_time"] / last["epoch"] if last["epoch"] else None
    except (PwmError, KeyError):
        # Its folder is damaged: the report will say so.
        return None
