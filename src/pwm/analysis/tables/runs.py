"""Run folders to tables: one row per run, one row per evaluation, and a list of everything that is amiss.

Nothing is left out without a word: a run that is missing, failed, unfinished, damaged or there twice is in
``RunTable.problems`` with the reason and whether it is used all the same.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pwm.analysis.tables.records import load_reference, read_evaluations
from pwm.analysis.tables.run_measures import EvaluationRecord, measures
from pwm.checkpoints.run_search import expand, run_folders
from pwm.configuration.building import task_spec
from pwm.configuration.config import ExperimentConfig, diff
from pwm.errors import ConfigError, DataError, PwmError
from pwm.files import read_object, write_text
from pwm.runs import start
from pwm.runs.provenance import read_manifest
from pwm.runs.run_changes import NEVER, describe_changes
from pwm.runs.status import FAILED, FINISHED, PREEMPTED, RUN_STATES, RUNNING
from pwm.training.work import in_words

# Task, algorithm and seed.
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Run:
    """One readable run folder.

    Attributes:
        path: the folder.
        task: the environment's ``EnvSpec.name``.
        config: its configuration.
        state: ``running`` (or killed), ``finished``, ``preempted`` or ``failed``, as ``status.json`` says.
        reason: what ``status.json`` gives for it.
        parameters: counts by network; empty without ``manifest.json``.
        commit: of the source tree; None where unknown.
        reference: returns of the zero-action and random-action policies, where known.
        evaluations: in the order of training, at least one.
        changed: what was changed within the run that decides its numbers, in words; ``never`` without that.
        start: SHA-256 of the file it began from; None where there is none, or the run does not say.
    """

    path: Path
    task: str
    config: ExperimentConfig
    state: str
    reason: str
    parameters: dict[str, int]
    commit: str | None
    reference: dict[str, float]
    evaluations: tuple[EvaluationRecord, ...]
    changed: str = NEVER
    start: str | None = None

    @property
    def key(self) -> Key:
        """Task, algorithm and seed."""
        return key_of(self.task, self.config)

    @property
    def progress(self) -> str:
        """The metric that counts the steps of its trainer."""
        return str(self.config.alg.progress)

    @property
    def steps(self) -> int:
        """Steps up to its last evaluation."""
        return self.evaluations[-1].steps

    @property
    def name(self) -> str:
        """Task, algorithm and seed in words."""
        return describe_key(self.key)


@dataclass(frozen=True)
class Problem:
    """Something about a run that a reader of the table has to know.

    Attributes:
        kind: ``missing``, ``damaged``, ``failed``, ``partial``, ``duplicate``, ``inconsistent`` (another
            configuration than the other seeds of its algorithm), ``stopped early`` or ``changed`` (trained
            further than planned at first, or otherwise).
        reason: in words.
        path: the folder; None for a run that does not exist.
        key: task, algorithm and seed; None where they cannot be known.
        used: the run is in the table all the same.
    """

    kind: str
    reason: str
    path: Path | None
    key: Key | None
    used: bool = False

    def __str__(self) -> str:
        name = describe_key(self.key) if self.key else "unknown run"
        place = "" if self.path is None else f" ({self.path})"
        return f"{self.kind}: {name}{place}: {self.reason}; {'used' if self.used else 'not used'}"


@dataclass(frozen=True)
class RunTable:
    """Content of a set of run folders.

    Attributes:
        runs: those used, one per task, algorithm and seed, in this order.
        problems: what is amiss, whether used or not.
    """

    runs: list[Run]
    problems: list[Problem]

    def rows(self, thresholds: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
        """One row per run, see ``measures`` for the figures; ``thresholds`` are returns by task."""
        return [_row(run, (thresholds or {}).get(run.key[0])) for run in self.runs]

    def evaluations(self) -> list[dict[str, Any]]:
        """One row per evaluation of every run; the column of its steps has the name of their metric."""
        return [
            dict(zip(("task", "algorithm", "seed"), run.key))
            | {{"steps": run.progress}.get(k, k): v for k, v in dataclasses.asdict(evaluation).items()}
            for run in self.runs
            for evaluation in run.evaluations
        ]

    def report(self) -> str:
        """Return the number of runs, then one line per problem."""
        count = f"{len(self.runs)} runs used, {len(self.problems)} problems"
        return "\n".join([count, *(f"  {problem}" for problem in self.problems)])


def load_runs(
    paths: Iterable[str | Path], up_to_common_step: bool = False, expected: Iterable[Key] | None = None
) -> RunTable:
    """Read run folders.

    Of several finished folders of one task, algorithm and seed the one trained longest is used, then the
    first by name.

    Args:
        paths: run folders, folders above them, or glob patterns (``**`` for any depth).
        up_to_common_step: also use runs that are preempted, running or killed, and cut all runs of each task
            at the step that all of them have evaluated. Failed runs are never used.
        expected: runs there should be; None expects of every task all algorithms and, of each of them, all
            seeds found for that task.

    Raises:
        DataError: there is no run folder at all.
    """
    folders, problems = _find(paths)
    if not folders:
        raise DataError("; ".join(problem.reason for problem in problems) or "no paths to search for runs")
    readable: list[Run] = []
    for folder in folders:
        try:
            readable.append(read_run(folder))
        except (ConfigError, DataError) as error:
            problems.append(Problem("damaged", str(error), folder, _key_if_readable(folder)))
    problems += [problem for run in readable if (problem := _unfinished(run)) is not None]
    problems += [
        Problem("changed", run.changed, run.path, run.key) for run in readable if run.changed != NEVER
    ]
    states = (FINISHED, PREEMPTED, RUNNING) if up_to_common_step else (FINISHED,)
    chosen, twice = _one_per_key(run for run in readable if run.state in states)
    if up_to_common_step:
        chosen = cut_to_common_step(chosen)
    problems += twice + _inconsistent(chosen)
    problems += _missing({run.key for run in chosen}, problems, expected)
    used = {run.path for run in chosen}
    return RunTable(chosen, [dataclasses.replace(p, used=p.path in used) for p in problems])


def read_run(folder: Path) -> Run:
    """Read one run folder.

    Raises:
        ConfigError: its configuration cannot be read.
        DataError: another file is missing or damaged, or there is no evaluation.
    """
    if not (folder / "config.yaml").is_file():
        raise DataError("config.yaml is missing")
    config = ExperimentConfig.load(folder / "config.yaml")
    status = read_object(folder / "status.json")
    if (state := status.get("state")) not in RUN_STATES:
        raise DataError(f"status.json names the state {state!r}; it must be one of: {', '.join(RUN_STATES)}")
    evaluations = read_evaluations(folder, config.alg.progress)
    if state == FINISHED and evaluations[-1].epoch != status.get("epoch"):
        raise DataError(
            f"status.json says finished at epoch {status.get('epoch')}, but the last evaluation in "
            f"metrics.jsonl is of epoch {evaluations[-1].epoch}"
        )
    made_with = read_manifest(folder)
    return Run(
        path=folder,
        task=task_of(made_with, config),
        config=config,
        state=state,
        reason=str(status.get("reason", "")),
        parameters=made_with.get("parameters", {}),
        commit=made_with.get("git_commit"),
        changed=describe_changes(made_with, config.alg.optimisation),
        reference=load_reference(folder),
        evaluations=evaluations,
        start=made_with.get(start.KEY, {}).get("sha256"),
    )


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; None, and a key that a row does not have, become an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def task_of(made_with: Mapping[str, Any], config: ExperimentConfig) -> str:
    """Return the name of a run's task from its manifest; where that does not say, the environment is asked.

    Raises:
        DataError: neither can tell.
    """
    if "task" in made_with:
        return str(made_with["task"])
    try:
        return task_spec(config).name
    except PwmError as error:
        raise DataError(
            f"manifest.json names no task, and its environment cannot be asked: {error}"
        ) from error


def key_of(task: str, config: ExperimentConfig) -> Key:
    """Task, algorithm (the run's name) and seed."""
    return task, config.run_name, config.general.seed


def describe_key(key: Key) -> str:
    """For example ``dflex_hopper pwm_small seed 1``."""
    return f"{key[0]} {key[1]} seed {key[2]}"


def _row(run: Run, threshold: float | None) -> dict[str, Any]:
    task, algorithm, seed = run.key
    networks = [run.parameters.get(name) for name in ("world_model", "actor", "critic")]
    return {
        "task": task,
        "algorithm": algorithm,
        "seed": seed,
        "state": run.state,
        "epochs": run.evaluations[-1].epoch,
        "planned_epochs": run.config.epochs,
        "completed": run.evaluations[-1].epoch / run.config.epochs,
        run.progress: run.steps,
        "wall_time": run.evaluations[-1].wall_time,
        "parameters": None if None in networks else sum(n for n in networks if n is not None),
        "world_model_parameters": networks[0],
        **measures(run.evaluations, run.reference, threshold),
        **{name: run.reference.get(name) for name in ("zero_action", "random_action")},
        "config_hash": run.config.hash(),
        "commit": run.commit,
        "path": str(run.path),
    }


def _find(paths: Iterable[str | Path]) -> tuple[list[Path], list[Problem]]:
    folders: dict[Path, Path] = {}
    problems = []
    for given in paths:
        found = sorted(folder for match in expand(given) for folder in run_folders(match))
        # The same folder reached in two ways is one run.
        for folder in found:
            folders.setdefault(folder.resolve(), folder)
        if not found:
            problems.append(Problem("missing", f"no run folder in {given}", None, None))
    return sorted(folders.values()), problems


def _key_if_readable(folder: Path) -> Key | None:
    try:
        config = ExperimentConfig.load(folder / "config.yaml")
        try:
            made_with = read_manifest(folder)
        except DataError:
            made_with = {}
        return key_of(task_of(made_with, config), config)
    except PwmError:
        return None


def _unfinished(run: Run) -> Problem | None:
    """The problem of a run that has not done all its epochs; None if it has."""
    done, planned = run.evaluations[-1].epoch, run.config.epochs
    if run.state == FINISHED:
        reason = f"finished at epoch {done} of {planned} (general.patience={run.config.general.patience})"
        return None if done >= planned else Problem("stopped early", reason, run.path, run.key)
    if run.state == FAILED:
        return Problem("failed", run.reason or "status.json gives no reason", run.path, run.key)
    said = "still running, or killed" if run.state == RUNNING else f"{run.state}, {run.reason}"
    reason = f"{said}; last evaluation at epoch {done} of {planned}"
    return Problem("partial", reason, run.path, run.key)


def _one_per_key(runs: Iterable[Run]) -> tuple[list[Run], list[Problem]]:
    groups: dict[Key, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.key, []).append(run)
    chosen, problems = [], []
    for key in sorted(groups):
        best, *others = sorted(groups[key], key=lambda r: (r.state != FINISHED, -r.steps, r.path))
        chosen.append(best)
        for other in others:
            lines = diff(best.config.identity(), other.config.identity())
            compared = f"another configuration: {'; '.join(lines)}" if lines else "the same configuration"
            reason = f"{best.path}, which is used instead, has {compared}"
            problems.append(Problem("duplicate", reason, other.path, key))
    return chosen, problems


def cut_to_common_step(runs: Iterable[Run]) -> list[Run]:
    """The runs, those of each task up to the step that all of them have evaluated.

    Raises:
        DataError: a run has no evaluation up to there, or runs of a task count other things.
    """
    runs = list(runs)
    common: dict[str, int] = {}
    counted: dict[str, str] = {}
    for run in runs:
        common[run.key[0]] = min(run.steps, common.get(run.key[0], run.steps))
        if (other := counted.setdefault(run.key[0], run.progress)) != run.progress:
            raise DataError(
                f"{run.path} counts {in_words(run.progress)}, other runs of {run.key[0]} count "
                f"{in_words(other)}; they have no step in common"
            )
    cut = []
    for run in runs:
        kept = tuple(e for e in run.evaluations if e.steps <= common[run.key[0]])
        if not kept:
            raise DataError(
                f"{run.path}: no evaluation up to step {common[run.key[0]]}, where another run of "
                f"{run.key[0]} ends; its first is at step {run.evaluations[0].steps}"
            )
        cut.append(dataclasses.replace(run, evaluations=kept))
    return cut


def _inconsistent(runs: Iterable[Run]) -> list[Problem]:
    """Runs whose configuration differs from that of their algorithm's first seed by more than seeds do."""
    first: dict[tuple[str, str], Run] = {}
    problems = []
    for run in runs:
        leader = first.setdefault(run.key[:2], run)
        # Every seed may begin from a model of its own.
        own = ("general.seed", "general.checkpoint")
        a, b = ({k: v for k, v in r.config.identity().items() if k not in own} for r in (leader, run))
        if lines := diff(a, b):
            reason = f"other configuration than seed {leader.key[2]}: {'; '.join(lines)}"
            problems.append(Problem("inconsistent", reason, run.path, run.key))
    return problems


def _missing(present: set[Key], problems: Iterable[Problem], expected: Iterable[Key] | None) -> list[Problem]:
    known = present | {problem.key for problem in problems if problem.key is not None}
    if expected is None:
        algorithms = {algorithm for _, algorithm, _ in known}
        expected = [(task, algorithm, seed) for task, _, seed in known for algorithm in algorithms]
    reason = "there is no run folder of it"
    return [Problem("missing", reason, None, key) for key in sorted(set(expected) - known)]
