"""Runs of several environments, algorithms and seeds that are no experiment: `pwm submit single | multi`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pwm.configuration.building import task_spec
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.errors import ConfigError
from pwm.runs.run_folder import run_path
from pwm.study.plan import RunState, run_state

MULTI_SEED, MULTI_TASK, BASELINE_VS_FLOW = "multi_seed", "multi_task", "baseline_vs_flow"
STRATEGIES = (MULTI_SEED, MULTI_TASK, BASELINE_VS_FLOW)
SEEDS = (42, 123, 456)
FIRST_SEED = SEEDS[0]


@dataclass(frozen=True, eq=False)
class GridRun:
    """One run.

    Attributes:
        task: name of its task.
        overrides: of ``pwm train``.
        config: what they compose to.
    """

    task: str
    overrides: list[str]
    config: ExperimentConfig

    @property
    def key(self) -> tuple[str, str, int]:
        """Task, name of the algorithm and seed."""
        return self.task, self.config.run_name, self.config.general.seed

    @property
    def title(self) -> str:
        """Task, algorithm and seed in words."""
        return "{} {} seed {}".format(*self.key)

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return run_path(self.config, self.task)

    def state(self) -> RunState:
        """Return the state of its folder."""
        return run_state(self.folder, self.config)


def grid_runs(
    envs: Sequence[str], algs: Sequence[str], seeds: Sequence[int], common: Sequence[str]
) -> list[GridRun]:
    """A run for every environment, algorithm and seed, seeds outermost.

    Args:
        envs: names of ``env`` presets.
        algs: names of ``alg`` presets.
        seeds: of the runs.
        common: overrides of all runs.

    Raises:
        ConfigError: a configuration is not valid.
        EnvError: an environment cannot be made.
    """
    cells = []
    for env in envs:
        for alg in algs:
            overrides = [f"env={env}", f"alg={alg}", *common]
            config = compose_config(overrides)
            cells.append((task_spec(config).name, overrides, config))
    return [
        GridRun(task, [*overrides, f"general.seed={seed}"], _with_seed(config, seed))
        for seed in seeds
        for task, overrides, config in cells
    ]


def check_strategy(strategy: str, envs: Sequence[str], algs: Sequence[str]) -> None:
    """Refuse environments and algorithms that a strategy is not for.

    Raises:
        ConfigError: says what it is for, and which one does what was asked.
    """
    given = f"{len(envs)} environments and {len(algs)} algorithms"
    if strategy == MULTI_SEED and (len(envs), len(algs)) != (1, 1):
        raise ConfigError(
            f"multi_seed trains one algorithm on one environment with several seeds, not {given}; "
            "multi_task takes several environments, baseline_vs_flow two algorithms"
        )
    if strategy == MULTI_TASK and (len(envs) < 2 or len(algs) != 1):
        raise ConfigError(f"multi_task trains one algorithm on several environments, not {given}")
    if strategy == BASELINE_VS_FLOW and len(algs) != 2:
        raise ConfigError(f"baseline_vs_flow compares two algorithms, the baseline first, not {len(algs)}")
    for values in (envs, algs):
        if twice := [value for value in values if list(values).count(value) > 1]:
            raise ConfigError(f"{','.join(values)}: {twice[0]} is there twice")


def comparison_overrides(envs: Sequence[str], algs: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Overrides of the experiment that compares two algorithms, the baseline first.

    Args:
        envs: names of ``env`` presets.
        algs: names of two ``alg`` presets.
        seeds: of the runs.
    """
    shipped = [f"arms.{arm}=null" for arm in ("mlp", "residual", "flow")]
    return [
        "experiment=flow_vs_mlp",
        f"title={algs[1]} against {algs[0]}",
        *shipped,
        *(f"arms.{alg}=[alg={alg}]" for alg in algs),
        f"baseline={algs[0]}",
        f"tasks=[{','.join(envs)}]",
        f"seeds=[{','.join(map(str, seeds))}]",
        f"name={'_vs_'.join(algs)}",
    ]


def _with_seed(config: ExperimentConfig, seed: int) -> ExperimentConfig:
    return dataclasses.replace(config, general=dataclasses.replace(config.general, seed=seed))
