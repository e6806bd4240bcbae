"""Arms on tasks: what all seeds of a run share, checked against the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pwm.analysis.cost.operations import ComputeMatch, epoch_flops, match_compute, warmup_flops
from pwm.analysis.cost.parameter_parity import Parity, check_parity
from pwm.configuration.building import pick_device
from pwm.configuration.config import ExperimentConfig, compose_config, diff
from pwm.configuration.overrides import last_of_each
from pwm.envs.base import EnvSpec
from pwm.errors import ConfigError
from pwm.runs.provenance import device_name
from pwm.study.comparison.fairness import NAMES, is_declared
from pwm.study.experiment_file import Experiment


@dataclass(frozen=True)
class Frame:
    """What all runs of an experiment share.

    Attributes:
        folder: of the runs.
        threads: CPU threads of each.
        here: whether they are trained on this machine, which must then have their device.
    """

    folder: Path
    threads: int
    here: bool

    @property
    def overrides(self) -> list[str]:
        """Overrides that come last."""
        return [f"general.logdir={self.folder}", f"general.threads={self.threads}", "general.progress=false"]


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
        n_tasks: tasks of the table of its world model; 0 for a model of a single task.
    """

    arm: str
    spec: EnvSpec
    overrides: tuple[str, ...]
    config: ExperimentConfig
    parity: Parity
    matched: ComputeMatch | None = None
    n_tasks: int = 0

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.spec.name

    @property
    def parameters(self) -> int:
        """Parameters of the world model."""
        return self.parity.totals[1]

    @property
    def progress(self) -> str:
        """The metric that counts the steps of its runs."""
        return str(self.config.alg.progress)

    @property
    def steps(self) -> int:
        """Steps of a whole run, as its trainer counts them."""
        return int(self.config.alg.steps(self.config.epochs))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Widths of observations and actions, and ``n_tasks``."""
        return self.spec.obs_dim, self.spec.act_dim, self.n_tasks

    @cached_property
    def epoch_flops(self) -> float:
        """Operations of one epoch, see ``pwm.analysis.cost.operations``."""
        return epoch_flops(self.config, *self.sizes)["total"]

    @cached_property
    def flops(self) -> float:
        """Operations of a whole run, evaluations left out."""
        return warmup_flops(self.config, *self.sizes) + self.config.epochs * self.epoch_flops


def task_cells(
    experiment: Experiment, task: str, spec: EnvSpec, frame: Frame, begin: Mapping[str, Sequence[str]]
) -> list[Cell]:
    """Return all arms on one task, the baseline first.

    Args:
        experiment: what is asked for.
        task: as the experiment names it.
        spec: its facts.
        frame: what all runs share.
        begin: by arm the overrides of runs that begin from a pretrained model; empty where none do.

    Raises:
        ConfigError: a configuration is not valid, its device is not there, its trainer has no environment, or
            arms differ in what is not declared.
    """
    arms = experiment.ordered_arms()
    first = last_of_each(experiment.run_overrides(task, experiment.baseline))
    env = compose(experiment.baseline, task, first).env
    # A simulator with threads of its own would take all cores; what the user asks for comes after this.
    speed = [f"env.num_threads={frame.threads}"] if hasattr(env, "num_threads") else []
    overrides = {}
    for arm in arms:
        preset, *given = experiment.run_overrides(task, arm)
        own = [*speed, *begin.get(arm, ()), *given, f"general.name={arm}"]
        overrides[arm] = last_of_each([preset, *own, *frame.overrides])
    configs = {arm: compose(arm, task, own) for arm, own in overrides.items()}
    baseline = configs[experiment.baseline]
    for arm, config in configs.items():
        check_device(experiment, f"arm {arm}, task {task}", baseline, config, frame.here)
    matched = {}
    for arm, other in experiment.compute_matched.items():
        matched[arm] = match_compute(configs[arm], configs[other], spec.obs_dim, spec.act_dim)
        overrides[arm] = last_of_each([*overrides[arm], *matched[arm].overrides])
        configs[arm] = compose(arm, task, overrides[arm])
    for arm in arms:
        check_declared(experiment, arm, baseline, configs[arm])
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


def compose(arm: str, task: str, overrides: Sequence[str]) -> ExperimentConfig:
    """Return the configuration of ``overrides``; a ConfigError says whose they are."""
    try:
        return compose_config(overrides)
    except ConfigError as error:
        raise ConfigError(f"arm {arm}, task {task}: {error}") from error


def check_declared(
    experiment: Experiment, arm: str, baseline: ExperimentConfig, config: ExperimentConfig
) -> None:
    """Refuse an arm that differs from the baseline in what is not declared."""
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


def check_device(
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
