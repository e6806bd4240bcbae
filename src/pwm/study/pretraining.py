"""World models that runs of an experiment begin from: one per arm and seed, pretrained on all tasks' data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pwm.analysis.cost.parameter_parity import check_parity
from pwm.checkpoints.pretrained import sizes_of
from pwm.configuration.config import ExperimentConfig
from pwm.configuration.overrides import last_of_each
from pwm.data.offline.manifest import is_store
from pwm.envs.base import EnvSpec
from pwm.envs.task_table import table_name
from pwm.errors import ConfigError
from pwm.study.cells import Cell, Frame, check_declared, check_device, compose
from pwm.study.experiment_file import Experiment
from pwm.study.extraction import fitting
from pwm.training.recorded import open_data
from pwm.training.trainers.pretraining import PretrainedSpec, specification

TASKS = "alg.tasks"


def model_cells(experiment: Experiment, specs: Sequence[EnvSpec], frame: Frame) -> list[Cell]:
    """Return the pretraining of every arm, the baseline first.

    Args:
        experiment: what is asked for; it has a section ``pretraining``.
        specs: its tasks.
        frame: what all runs share.

    Raises:
        ConfigError: there are no data, or as ``task_cells``.
        DataError: the data cannot be used.
    """
    names = [table_name(spec.name) for spec in specs]
    _check_data(experiment.data, names)
    overrides = {}
    for arm in experiment.ordered_arms():
        # Its folder stands beside those of the arm's runs, and a task may be called as the tasks together.
        last = [_data(experiment), f"general.name={arm}_model", *frame.overrides]
        own = [f"{TASKS}={','.join(names)}", *experiment.pretraining_overrides(arm), *last]
        overrides[arm] = last_of_each(own)
    configs = {arm: compose(arm, "pretraining", own) for arm, own in overrides.items()}
    baseline = configs[experiment.baseline]
    for arm, config in configs.items():
        check_device(experiment, f"arm {arm}, pretraining", baseline, config, frame.here)
        check_declared(experiment, arm, baseline, config)
    spec = _specification(baseline)
    sizes = spec.obs_dim, spec.act_dim, len(spec.table)
    return [
        Cell(
            arm, spec, tuple(own), configs[arm], check_parity(baseline, configs[arm], *sizes), None, sizes[2]
        )
        for arm, own in overrides.items()
    ]


def beginning(experiment: Experiment, model: Cell) -> list[str]:
    """Return the overrides of runs that begin from the world model of ``model``: its sizes, and the data."""
    assert isinstance(model.spec, PretrainedSpec)
    sizes = sizes_of(model.config, model.spec.obs_dim, model.spec.act_dim, model.spec.table)
    return [*fitting(sizes, model.config.alg.model_learning.rew_rms), _data(experiment)]


def _specification(config: ExperimentConfig) -> PretrainedSpec:
    options = config.alg
    shared = options.data, options.objective.horizon, options.task_names(), options.balanced
    return specification(open_data(*shared, options.held_out))


def _data(experiment: Experiment) -> str:
    return f"alg.data={experiment.data}"


def _check_data(data: str, names: Sequence[str]) -> None:
    if data and is_store(Path(data)):
        return
    wrong = f"data={data} is no data set" if data else "data= is missing, the data set of all arms"
    raise ConfigError(
        f"{wrong}; one is collected with `pwm data collect tasks={','.join(names)} policy=random episodes=50 "
        "to=data/NAME` (docs/data.md)"
    )
