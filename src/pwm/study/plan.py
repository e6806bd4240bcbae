"""An experiment laid out: every run with its size and cost, whether the comparison is fair, what is done."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pwm.analysis.cost.operations import ComputeMatch, epoch_flops, match_compute, warmup_flops
from pwm.analysis.cost.parameter_parity import Parity, check_parity
from pwm.configuration.building import pick_device, task_spec
from pwm.configuration.config import ExperimentConfig, compose_config, diff
from pwm.configuration.general import General
from pwm.configuration.override_values import quote
from pwm.configuration.overrides import last_of_each
from pwm.envs.base import EnvSpec
from pwm.errors import ConfigError
from pwm.runs.provenance import device_name
from pwm.runs.run_changes import EXTENDS
from pwm.runs.run_folder import run_path
from pwm.runs.status import FINISHED, StatusFile, is_finished
from pwm.study.comparison.fairness import NAMES, is_declared
from pwm.study.experiment_file import Experiment, known_thresholds
from pwm.training.trainer import DEFAULT

NEW, UNFINISHED = "new", "unfinished"


@dataclass(frozen=True, eq=False)
class Cell:
    """One arm on one task: what all its seeds share.

    Attributes:
        arm: its name.
        spec: the task.
        overrides: of ``pwm train``, but for the seed.
        config: what they compose to.
        parity: of its world model with the baseline's; the baseline is compared with itself.
        matched: how it was made as costly as another arm; None for an arm that was not.
    """

    arm: str
    spec: EnvSpec
    overrides: tuple[str, ...]
    config: ExperimentConfig
    parity: Parity
    matched: ComputeMatch | None = None

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.spec.name

    @property
    def parameters(self) -> int:
        """Parameters of the world model."""
        return self.parity.totals[1]

    @property
    def env_steps(self) -> int:
        """Environment steps of a whole run."""
        alg = self.config.alg
        warmup = math.ceil(alg.warmup_env_steps / alg.num_envs)
        return alg.num_envs * (warmup + self.config.epochs * alg.objective.horizon)

    @cached_property
    def epoch_flops(self) -> float:
        """Operations of one epoch, see ``pwm.analysis.cost.operations``."""
        return epoch_flops(self.config, self.spec.obs_dim, self.spec.act_dim)["total"]

    @cached_property
    def flops(self) -> float:
        """Operations of a whole run, evaluations left out."""
        warmup = warmup_flops(self.config, self.spec.obs_dim, self.spec.act_dim)
        return warmup + self.config.epochs * self.epoch_flops


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
    """One run of an experiment."""

    cell: Cell
    seed: int

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
        return [*self.cell.overrides, f"general.seed={self.seed}"]

    @cached_property
    def config(self) -> ExperimentConfig:
        """Its configuration."""
        config = self.cell.config
        return dataclasses.replace(config, general=dataclasses.replace(config.general, seed=self.seed))

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


@dataclass(frozen=True)
class ExperimentPlan:
    """Everything an experiment consists of.

    Attributes:
        experiment: what was asked for.
        general: options that all runs share; name and seed mean nothing here.
        folder: of its runs and its report.
        threads: CPU threads of each run.
        cells: arms on tasks, the baseline of each task first.
        runs: seeds outermost, so that after an interruption every arm has been seen equally often.
    """

    experiment: Experiment
    general: General
    folder: Path
    threads: int
    cells: list[Cell]
    runs: list[PlannedRun]

    def candidates(self) -> list[Cell]:
        """All cells but those of the baseline."""
        return [cell for cell in self.cells if cell.arm != self.experiment.baseline]

    def part(self, patterns: Sequence[str]) -> list[PlannedRun]:
        """Return the runs that any of the patterns names, in the order of the plan; all where there is none.

        Args:
            patterns: ``TASK/ARM/SEED``, ``TASK/ARM`` or ``TASK``, with wildcards (``dflex_*/flow/[12]``).

        Raises:
            ConfigError: a pattern names no run.
        """
        if not patterns:
            return self.runs
        chosen = set()
        for pattern in patterns:
            found = {run for run in self.runs if run.named_by(pattern)}
            if not found:
                tasks, arms, seeds = ({str(run.key[i]): None for run in self.runs} for i in range(3))
                raise ConfigError(
                    f"--only {pattern} names no run; write TASK/ARM/SEED, TASK/ARM or TASK, * for any; "
                    f"tasks: {', '.join(tasks)}; arms: {', '.join(arms)}; seeds: {', '.join(seeds)}"
                )
            chosen |= found
        return [run for run in self.runs if run in chosen]


def run_state(folder: Path, config: ExperimentConfig) -> RunState:
    """State of the folder of a run; of a damaged status the run itself says what is wrong."""
    status = StatusFile(folder)
    if not status.path.exists():
        return RunState(NEW, 0)
    return RunState(FINISHED if is_finished(folder, config) else UNFINISHED, status.epoch)


def make_plan(experiment: Experiment, here: bool = True) -> ExperimentPlan:
    """Compose and check every run; nothing is written.

    Args:
        experiment: what is asked for.
        here: whether its runs are trained on this machine, which must then have their device.

    Raises:
        ConfigError: a run's configuration is not valid, its device is not there, two tasks are the same, a
            threshold belongs to no task, or arms differ in what is not declared.
    """
    task, arm = experiment.tasks[0], experiment.baseline
    general = _compose(arm, task, last_of_each(experiment.run_overrides(task, arm))).general
    folder = Path(general.logdir) / "experiments" / experiment.name
    # One thread is the most efficient share of cores that other runs can use, too.
    threads = general.threads or 1
    cells: list[Cell] = []
    for task in experiment.tasks:
        found = _task_cells(experiment, task, folder, threads, here)
        if found[0].task in {cell.task for cell in cells}:
            raise ConfigError(f"tasks={experiment.tasks}: {found[0].task} is there twice")
        cells += found
    _check_thresholds(experiment, [cell.task for cell in cells])
    runs = [PlannedRun(cell, seed) for seed in experiment.seeds for cell in cells]
    return ExperimentPlan(experiment, general, folder, threads, cells, runs)


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
    mended = {cell.arm: cell.parity.override for cell in failed if cell.parity.override is not None}
    for arm, override in mended.items():
        own = last_of_each([*(plan.experiment.arms[arm] or []), override])
        lines.append("add " + shlex.quote(f"arms.{arm}=[{','.join(map(_quoted, own))}]"))
    raise ConfigError("\n".join(lines))


def require_own_folders(plan: ExperimentPlan) -> None:
    """Refuse to mix runs of another configuration into an experiment.

    Raises:
        ConfigError: names the folder and what differs.
    """
    for run in plan.runs:
        if run.config.general.resume != "force" and (changes := run.changes()):
            raise ConfigError(
                f"{run.folder} was made with another configuration:\n  " + "\n  ".join(changes) + "\n"
                f"keep this one apart, for example with name={plan.experiment.name}_2"
            )


def _task_cells(experiment: Experiment, task: str, folder: Path, threads: int, here: bool) -> list[Cell]:
    """All arms on one task, the baseline first."""
    arms = experiment.ordered_arms()
    baseline_overrides = last_of_each(experiment.run_overrides(task, experiment.baseline))
    env = _compose(experiment.baseline, task, baseline_overrides).env
    fixed = [f"general.logdir={folder}", f"general.threads={threads}", "general.progress=false"]
    # A simulator with threads of its own would take all cores; what the user asks for comes after this.
    speed = [f"env.num_threads={threads}"] if hasattr(env, "num_threads") else []
    overrides = {}
    for arm in arms:
        preset, *given = experiment.run_overrides(task, arm)
        overrides[arm] = last_of_each([preset, *speed, *given, f"general.name={arm}", *fixed])
    configs = {arm: _compose(arm, task, own) for arm, own in overrides.items()}
    baseline = configs[experiment.baseline]
    for arm, config in configs.items():
        if config.trainer != DEFAULT:
            raise ConfigError(
                f"arm {arm}, task {task}: alg.trainer={config.trainer}; experiments count environment steps, "
                f"so they take runs of alg.trainer={DEFAULT} alone"
            )
        _check_device(experiment, f"arm {arm}, task {task}", baseline, config, here)
    spec = task_spec(baseline)
    matched = {}
    for arm, other in experiment.compute_matched.items():
        matched[arm] = match_compute(configs[arm], configs[other], spec.obs_dim, spec.act_dim)
        overrides[arm] = last_of_each([*overrides[arm], *matched[arm].overrides])
        configs[arm] = _compose(arm, task, overrides[arm])
    for arm in arms:
        _check_declared(experiment, arm, baseline, configs[arm])
    return [
        Cell(
            arm,
            spec,
            tuple(overrides[arm]),
            configs[arm],
            check_parity(baseline, configs[arm], spec.obs_dim, spec.act_dim),
            matched.get(arm),
        )
        for arm in arms
    ]


def _compose(arm: str, task: str, overrides: Sequence[str]) -> ExperimentConfig:
    try:
        return compose_config(overrides)
    except ConfigError as error:
        raise ConfigError(f"arm {arm}, task {task}: {error}") from error


def _quoted(override: str) -> str:
    """As an entry of a list."""
    return quote(override) if set(override) & set("[],{}'\"") else override


def _check_declared(
    experiment: Experiment, arm: str, baseline: ExperimentConfig, config: ExperimentConfig
) -> None:
    declared = experiment.declared
    differing = {line.split(":")[0]: line for line in diff(baseline.identity(), config.identity())}
    if strange := [
        line for key, line in differing.items() if key not in NAMES and not is_declared(key, declared)
    ]:
        raise ConfigError(
            f"{arm} differs from {experiment.baseline} in what is not declared:\n  "
            + "\n  ".join(strange)
            + f"\ndeclared={declared}; add these keys to it if the arms are meant to differ in them"
        )


def _check_device(
    experiment: Experiment, where: str, baseline: ExperimentConfig, config: ExperimentConfig, here: bool
) -> None:
    """Refuse a device that is not there, or that only some arms use; it is no part of a run's identity."""
    devices = [c.general.device for c in (baseline, config)]
    try:
        names = [device_name(pick_device(name)) for name in devices] if here else devices
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if names[0] != names[1] and not is_declared("manifest.device", experiment.declared):
        raise ConfigError(
            f"{where}: general.device={config.general.device} ({names[1]}), but {experiment.baseline} runs "
            f"on {baseline.general.device} ({names[0]}); add manifest.device to "
            f"declared={experiment.declared} if the arms are meant to differ in it"
        )


def _check_thresholds(experiment: Experiment, tasks: Sequence[str]) -> None:
    if not set(experiment.thresholds) - set(tasks):
        return
    # An experiment file may know more tasks than it is asked for.
    known = {*tasks, *known_thresholds()}
    if strange := sorted(set(experiment.thresholds) - known):
        raise ConfigError(f"thresholds: unknown task {strange[0]!r}; choose from: {', '.join(sorted(known))}")
