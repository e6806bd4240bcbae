"""An experiment laid out: every run with its size and cost, whether the comparison is fair, what is done."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pwm.configuration.building import task_spec
from pwm.configuration.config import ExperimentConfig, diff
from pwm.configuration.general import General
from pwm.configuration.override_values import quote
from pwm.configuration.overrides import last_of_each
from pwm.envs.base import EnvSpec
from pwm.errors import ConfigError
from pwm.runs.run_changes import EXTENDS
from pwm.runs.run_folder import run_path
from pwm.runs.start import start_changed
from pwm.runs.status import FINISHED, StatusFile, is_finished
from pwm.study.cells import Cell, Frame, compose, task_cells
from pwm.study.experiment_file import Experiment, known_thresholds
from pwm.study.pretraining import beginning, model_cells

NEW, UNFINISHED = "new", "unfinished"


class RunState(NamedTuple):
    """State of a run folder.

    Attributes:
        state: ``new``, ``unfinished`` or ``finished``.
        epoch: epochs done, as last written.
    """

    state: str
    epoch: int


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """One run of an experiment.

    Attributes:
        cell: its arm and task.
        seed: its seed.
        start: the run whose world model it begins from, which has to be finished before; None for most.
    """

    cell: Cell
    seed: int
    start: PlannedRun | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """Task, arm and seed."""
        return self.cell.task, self.cell.arm, self.seed

    @property
    def title(self) -> str:
        """Task, arm and seed in words."""
        return f"{self.cell.task} {self.cell.arm} seed {self.seed}"

    def named_by(self, pattern: str) -> bool:
        """True if a pattern names the run, see ``Plan.part``."""
        name = "/".join(map(str, self.key))
        return any(fnmatchcase(name, whole) for whole in (pattern, f"{pattern}/*"))

    @property
    def overrides(self) -> list[str]:
        """Overrides of ``pwm train``."""
        start = [] if self.start is None else [f"general.checkpoint={self.start.folder}"]
        return [*self.cell.overrides, f"general.seed={self.seed}", *start]

    @cached_property
    def config(self) -> ExperimentConfig:
        """Its configuration."""
        general = dataclasses.replace(self.cell.config.general, seed=self.seed)
        if self.start is not None:
            general = dataclasses.replace(general, checkpoint=str(self.start.folder))
        return dataclasses.replace(self.cell.config, general=general)

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return run_path(self.config, self.cell.task)

    def changes(self) -> list[str]:
        """In what the configuration in the run folder differs from the planned one, besides its length.

        Raises:
            ConfigError: that configuration cannot be read.
        """
        if not (stored := self.folder / "config.yaml").exists():
            return []
        lines = diff(ExperimentConfig.load(stored).identity(), self.config.identity())
        return [line for line in lines if not line.startswith(EXTENDS)]

    def state(self) -> RunState:
        """Return the state of its folder."""
        return run_state(self.folder, self.config)

    def stale(self) -> bool:
        """True if it began from another model than there is now, or than there will be."""
        if self.start is None or self.state().state == NEW:
            return False
        return self.start.state().state == UNFINISHED or start_changed(self.folder, str(self.start.folder))


@dataclass(frozen=True)
class ExperimentPlan:
    """Everything an experiment consists of.

    Attributes:
        experiment: what was asked for.
        general: options that all runs share; name and seed mean nothing here.
        folder: of its runs and its report.
        threads: CPU threads of each run.
        cells: arms on tasks, the baseline of each task first; before them the arms' pretraining, if there is.
        runs: those that are compared, seeds outermost, so that after an interruption every arm has been seen
            equally often.
    """

    experiment: Experiment
    general: General
    folder: Path
    threads: int
    cells: list[Cell]
    runs: list[PlannedRun]

    @property
    def every_run(self) -> list[PlannedRun]:
        """``runs``, each after the one that it begins from."""
        return list(dict.fromkeys(run for last in self.runs for run in (last.start, last) if run is not None))

    def candidates(self) -> list[Cell]:
        """All cells but those of the baseline."""
        return [cell for cell in self.cells if cell.arm != self.experiment.baseline]

    def part(self, patterns: Sequence[str]) -> list[PlannedRun]:
        """Return the runs that any of the patterns names, and those they begin from; all where there is none.

        Args:
            patterns: ``TASK/ARM/SEED``, ``TASK/ARM`` or ``TASK``, with wildcards (``dflex_*/flow/[12]``).

        Raises:
            ConfigError: a pattern names no run.
        """
        every = self.every_run
        if not patterns:
            return every
        chosen: set[PlannedRun | None] = set()
        for pattern in patterns:
            found = {run for run in every if run.named_by(pattern)}
            if not found:
                tasks, arms, seeds = ({str(run.key[i]): None for run in every} for i in range(3))
                raise ConfigError(
                    f"--only {pattern} names no run; write TASK/ARM/SEED, TASK/ARM or TASK, * for any; "
                    f"tasks: {', '.join(tasks)}; arms: {', '.join(arms)}; seeds: {', '.join(seeds)}"
                )
            chosen |= found | {run.start for run in found}
        return [run for run in every if run in chosen]


def run_state(folder: Path, config: ExperimentConfig) -> RunState:
    """State of the folder of a run; of a damaged status the run itself says what is wrong.

    One that began from another model than there is now is not finished: the run will refuse to go on.
    """
    status = StatusFile(folder)
    if not status.path.exists():
        return RunState(NEW, 0)
    finished = is_finished(folder, config) and not start_changed(folder, config.general.checkpoint)
    return RunState(FINISHED if finished else UNFINISHED, status.epoch)


def make_plan(experiment: Experiment, here: bool = True) -> ExperimentPlan:
    """Compose and check every run; nothing is written.

    Args:
        experiment: what is asked for.
        here: whether its runs are trained on this machine, which must then have their device.

    Raises:
        ConfigError: a run's configuration is not valid, its device is not there, two tasks are the same, a
            threshold belongs to no task, or arms differ in what is not declared.
    """
    first = {
        task: last_of_each(experiment.run_overrides(task, experiment.baseline)) for task in experiment.tasks
    }
    configs = [compose(experiment.baseline, task, own) for task, own in first.items()]
    general = configs[0].general
    # One thread is the most efficient share of cores that other runs can use, too.
    threads = general.threads or 1
    frame = Frame(Path(general.logdir) / "experiments" / experiment.name, threads, here)
    specs = [_spec(task, config) for task, config in zip(experiment.tasks, configs, strict=True)]
    models = model_cells(experiment, specs, frame) if experiment.pretraining is not None else []
    begin = {model.arm: beginning(experiment, model) for model in models}
    cells: list[Cell] = []
    for task, spec in zip(experiment.tasks, specs, strict=True):
        if spec.name in {cell.task for cell in cells}:
            raise ConfigError(f"tasks={experiment.tasks}: {spec.name} is there twice")
        cells += task_cells(experiment, task, spec, frame, begin)
    _check_thresholds(experiment, [cell.task for cell in cells])
    starts = {(cell.arm, seed): PlannedRun(cell, seed) for cell in models for seed in experiment.seeds}
    runs = [
        PlannedRun(cell, seed, starts.get((cell.arm, seed))) for seed in experiment.seeds for cell in cells
    ]
    return ExperimentPlan(experiment, general, frame.folder, threads, [*models, *cells], runs)


def require_parity(plan: ExperimentPlan) -> None:
    """Refuse an experiment whose arms are not the same size, unless parity does not apply to it.

    Raises:
        ConfigError: names the arms, their sizes, and the width that restores parity.
    """
    failed = [cell for cell in plan.candidates() if not cell.parity.passed]
    if not plan.experiment.parity or not failed:
        return
    lines = [f"no parity with {plan.experiment.baseline}, so nothing is trained"]
    lines += [f"{cell.arm} on {cell.task}\n{cell.parity.report()}" for cell in failed]
    mended: dict[str, str] = {}
    for cell in failed:
        if cell.parity.override is not None:
            mended.setdefault(cell.arm, cell.parity.override)
    for arm, override in mended.items():
        own = last_of_each([*(plan.experiment.arms[arm] or []), override])
        lines.append("add " + shlex.quote(f"arms.{arm}=[{','.join(map(_quoted, own))}]"))
    raise ConfigError("\n".join(lines))


def require_own_folders(plan: ExperimentPlan) -> None:
    """Refuse to mix runs of another configuration into an experiment.

    Raises:
        ConfigError: names the folder and what differs, or the runs that began from other models.
    """
    for run in plan.every_run:
        if run.config.general.resume != "force" and (changes := run.changes()):
            raise ConfigError(
                f"{run.folder} was made with another configuration:\n  " + "\n  ".join(changes) + "\n"
                f"keep this one apart, for example with name={plan.experiment.name}_2"
            )
    stale = [run for run in plan.runs if run.stale()]
    if stale and plan.general.resume != "force":
        raise ConfigError(
            "what these runs began from was trained again since, or is to be trained further: "
            + ", ".join(str(run.folder) for run in stale)
            + "; remove them to make them anew, or keep this experiment apart, for example with "
            f"name={plan.experiment.name}_2"
        )


def require_starts(runs: Sequence[PlannedRun]) -> None:
    """Refuse runs of which one begins from another that is not finished: jobs of a cluster do not wait.

    Raises:
        ConfigError: names what has to be submitted before.
    """
    starts = dict.fromkeys(run.start for run in runs if run.start is not None)
    left = [run for run in starts if run.state().state != FINISHED]
    if left:
        raise ConfigError(
            f"runs begin from world models that are not there yet ({', '.join(run.title for run in left)}), "
            "and jobs of an array do not wait for one another; submit these first, with "
            f"--only {left[0].cell.task}, and the same command again when they have ended"
        )


def _spec(task: str, config: ExperimentConfig) -> EnvSpec:
    """Facts about a task; ConfigError for a trainer that has no environment, where no policy is evaluated."""
    if config.env is None:
        raise ConfigError(
            f"task {task}: alg.trainer={config.trainer} has no environment in which arms could be compared"
        )
    return task_spec(config)


def _quoted(override: str) -> str:
    """As an entry of a list."""
    return quote(override) if set(override) & set("[],{}'\"") else override


def _check_thresholds(experiment: Experiment, tasks: Sequence[str]) -> None:
    if not set(experiment.thresholds) - set(tasks):
        return
    # An experiment file may know more tasks than it is asked for.
    known = {*tasks, *known_thresholds()}
    if strange := sorted(set(experiment.thresholds) - known):
        raise ConfigError(f"thresholds: unknown task {strange[0]!r}; choose from: {', '.join(sorted(known))}")
