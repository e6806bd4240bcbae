"""What an experiment compares: arms, tasks and seeds, from ``pwm/configs/experiment/NAME.yaml``.

On the command line ``experiment=NAME`` chooses the file, keys of ``Experiment`` replace what it says
(``seeds=[1,2]``, ``arms.flow=[dynamics=flow,alg.flow_substeps=2]``), ``env=...`` names a single task, and all
other overrides go to every run. Overrides are read as those of ``pwm train`` are.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pwm.configuration.composition import assign, type_at
from pwm.configuration.config import ExperimentConfig, build_options
from pwm.configuration.general import FOLDER_NAME, FOLDER_NAME_RULE
from pwm.configuration.override_values import as_typed, split_words
from pwm.configuration.overrides import Override, parse_override, parse_overrides, preset_names
from pwm.configuration.predecessor_keys import successor
from pwm.errors import ConfigError

GROUP = "experiment"
# Keys of a run that the experiment decides, and what to write instead.
RESERVED = {"general.seed": "seeds=[...]", "general.name": "name=..."}


@dataclass
class Experiment:
    """Content of an experiment file, with what the command line changed.

    Attributes:
        title: what is compared, in words; the title of the report.
        baseline: arm that the others are compared with.
        arms: overrides of each arm; null leaves an arm out.
        name: folder of the runs and the report below ``<general.logdir>/experiments/``; the name of the file
            if empty.
        declared: configuration keys in which arms may differ, as patterns (``alg.dynamics.*``).
        overrides: of every run; those of its task come after them, and then those of its arm.
        final_overrides: of every run, after those of its task; the command line adds its own to them.
        tasks: environment preset and overrides of each task, separated by spaces
            (``gym env.id=Pendulum-v1``), those with spaces in quotes.
        seeds: of the runs of every arm on every task.
        thresholds: returns that count as solved, by the name of the task.
        compute_matched: arms that get as many world-model updates, per epoch and in warm-up, as make them
            as costly as another arm: ``{arm: other arm}``.
        parity: whether all arms must have world models of the same size.
        pretraining: overrides of ``pwm pretrain``, where runs begin from a world model that is shared by all
            tasks: every arm pretrains one per seed, and then ``arms`` are overrides of that, not of the runs,
            whose sizes follow. It learns the tasks of the experiment, unless it names ``alg.tasks``. null
            pretrains nothing.
        data: data set of the pretraining and of the runs that begin from it.
    """

    title: str
    baseline: str
    arms: dict[str, list[str] | None]
    name: str = ""
    declared: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=lambda: ["alg=pwm_small"])
    final_overrides: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=lambda: ["dflex_hopper"])
    seeds: list[int] = field(default_factory=lambda: [42, 123, 456])
    thresholds: dict[str, float] = field(default_factory=dict)
    compute_matched: dict[str, str] = field(default_factory=dict)
    parity: bool = True
    pretraining: list[str] | None = None
    data: str = ""

    def __post_init__(self) -> None:
        for name in [self.name, *self.arms] if self.name else self.arms:
            if not FOLDER_NAME.fullmatch(name):
                raise ConfigError(f"{name!r} cannot name a folder; {FOLDER_NAME_RULE}")
        self.arms = {name: arm for name, arm in self.arms.items() if arm is not None}
        arms = ", ".join(self.arms)
        if len(self.arms) < 2:
            raise ConfigError(f"arms: {arms or 'none'}; an experiment compares at least two")
        if self.baseline not in self.arms:
            raise ConfigError(f"baseline={self.baseline!r}; choose one of the arms: {arms}")
        for pair in self.compute_matched.items():
            if unknown := [arm for arm in pair if arm not in self.arms]:
                raise ConfigError(f"compute_matched names {unknown[0]!r}; choose one of the arms: {arms}")
            if pair[1] in self.compute_matched:
                raise ConfigError(f"compute_matched.{pair[0]}={pair[1]}, which is matched to an arm itself")
        for key in ("tasks", "seeds"):
            _check_list(key, getattr(self, key))
        if not all(task.strip() for task in self.tasks):
            raise ConfigError(f"tasks={self.tasks}: a task is the name of an env preset, then its overrides")
        # Later ones of ``overrides`` may replace earlier ones, so that each is read alone.
        for key, entries in (
            ("tasks", map(task_overrides, self.tasks)),
            ("arms", self.arms.values()),
            ("overrides", ([override] for override in self.overrides)),
            ("final_overrides", ([override] for override in self.final_overrides)),
            ("pretraining", ([override] for override in self.pretraining or [])),
        ):
            for overrides in entries:
                try:
                    _check_overrides(overrides or [])
                except ConfigError as error:
                    raise ConfigError(f"{key}: {error}") from error
        if bad := [seed for seed in self.seeds if seed < 0]:
            raise ConfigError(f"seeds={self.seeds}: {bad[0]} must not be negative")

    def ordered_arms(self) -> list[str]:
        """Names of the arms, the baseline first."""
        return [self.baseline, *(name for name in self.arms if name != self.baseline)]

    def run_overrides(self, task: str, arm: str) -> list[str]:
        """Overrides of the runs of an arm on a task, but for seed, name and folder; later ones count."""
        own = (self.arms[arm] or []) if self.pretraining is None else []
        preset, *of_task = task_overrides(task)
        return [preset, *self.overrides, *of_task, *self.final_overrides, *own]

    def pretraining_overrides(self, arm: str) -> list[str]:
        """Overrides of an arm's pretraining, but for tasks, data, seed, name and folder; later ones count.

        Of those for all runs it gets what cannot change results, such as the device.
        """
        common = [*self.overrides, *self.final_overrides]
        shared = [word for word in common if _is_operational(parse_override(word).key)]
        return ["alg.trainer=pretraining", *shared, *(self.pretraining or []), *(self.arms[arm] or [])]


def _is_operational(key: str) -> bool:
    group, _, name = key.partition(".")
    return group == "wandb" or (group == "general" and name in ExperimentConfig.operational)


def task_overrides(task: str) -> list[str]:
    """Overrides of ``pwm train`` that an entry of ``tasks`` stands for."""
    preset, *options = split_words(task)
    return [f"env={preset.removeprefix('env=')}", *options]


def known_thresholds() -> set[str]:
    """Tasks for which an experiment file names the return that counts as solved."""
    # Composing all of these files takes a second; what they inherit is in one of them.
    folder = resources.files("pwm.configs").joinpath(GROUP)
    texts = (folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8") for name in experiment_names())
    return {task for text in texts for task in yaml.safe_load(text).get("thresholds") or {}}


def experiment_names() -> list[str]:
    """Names of the experiment files."""
    return preset_names(GROUP)


def load_experiment(overrides: Sequence[str]) -> Experiment:
    """The experiment that ``key=value`` overrides describe, as typed on the command line.

    Raises:
        ConfigError: an override cannot be read, there is no such experiment, a value is not allowed, or an
            override for every run sets what every arm or the experiment decides itself.
    """
    name, own, tasks, common = _sorted_out(overrides)
    values = _load_file(name)
    assign(values, own, lambda path: type_at(Experiment, path), lambda: ())
    if tasks:
        values["tasks"] = tasks
    experiment = build_options(Experiment, values, GROUP)
    _check_common(experiment, common)
    return dataclasses.replace(
        experiment,
        name=experiment.name or name,
        final_overrides=[*experiment.final_overrides, *common],
    )


def _sorted_out(overrides: Sequence[str]) -> tuple[str, list[Override], list[str], list[str]]:
    """Name of the experiment, overrides of its own keys, the task of ``env=``, and overrides of all runs."""
    name, tasks = "", []
    own: list[Override] = []
    common: list[str] = []
    keys = {f.name for f in dataclasses.fields(Experiment)}
    for override in parse_overrides(overrides):
        key = override.key
        if key == GROUP:
            name = as_typed(override.text)
        elif key == "env":
            tasks = [as_typed(override.text)]
        elif key.split(".")[0] in keys:
            own.append(override)
        elif "." not in key and override.group is None:
            if advice := successor(key):
                raise ConfigError(f"unknown key {key}, a name of the original PWM; here: {advice}")
            raise ConfigError(
                f"unknown key {key}; keys of an experiment are {GROUP}, env, {', '.join(sorted(keys))}, and "
                "every key of `pwm train` goes to all runs"
            )
        else:
            common.append(override.typed)
    if tasks and any(override.key == "tasks" for override in own):
        raise ConfigError("give either env=..., which is a single task, or tasks=[...], not both")
    return name, own, tasks, common


def _load_file(name: str) -> dict[str, Any]:
    if name not in (names := experiment_names()):
        wrong = f"unknown experiment {name!r}" if name else "no experiment is named"
        raise ConfigError(f"{wrong}; write experiment=NAME with one of: {', '.join(names)}")
    return copy.deepcopy(_composed(name))


@functools.cache
def _composed(name: str) -> dict[str, Any]:
    """Values of an experiment file; not to be changed."""
    try:
        with initialize_config_module("pwm.configs", version_base="1.3"):
            values = OmegaConf.to_container(compose(f"{GROUP}/{name}")[GROUP])
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"experiment={name} cannot be read: {str(error).splitlines()[0]}") from error
    assert isinstance(values, dict)
    return values  # type: ignore[return-value]


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in parse_overrides(overrides):
        if instead := RESERVED.get(override.key):
            raise ConfigError(f"{override.typed}: the experiment decides that itself; write {instead}")


def _check_common(experiment: Experiment, common: Sequence[str]) -> None:
    if experiment.pretraining is not None:
        # The keys of arms are those of other runs.
        return
    keys = [{parse_override(override).key for override in own or []} for own in experiment.arms.values()]
    fixed = set.intersection(*keys)
    for override in common:
        if parse_override(override).key in fixed:
            raise ConfigError(
                f"{override}: every arm sets that itself, so it would change nothing; "
                f"change an arm, for example arms.{experiment.baseline}=[{override}]"
            )


def _check_list(key: str, values: Sequence[object]) -> None:
    if not values:
        raise ConfigError(f"{key}=[]; give at least one")
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise ConfigError(f"{key}={list(values)}: {twice[0]} is there twice")
