"""``pwm compare``, several runs per label, and ``pwm parity``, the sizes of two world models."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

from pwm import packages
from pwm.errors import ConfigError, DataError
from pwm.launch.arguments import Commands, add_json, add_parser, print_json, typed_path

if TYPE_CHECKING:
    from pwm.study.comparison.arms import Arm

COMPARE_HELP = """\
Compare runs: learning curves, bars, gradient norms, losses, statistics and CSV files.

  pwm compare --run-dirs logs/dflex_hopper/pwm_small logs/dflex_hopper/pwm_small_flow --labels mlp flow
  pwm compare --task dflex_ant --algorithm pwm_48M pwm_48M_flow --seeds 42 43 44

Every further label is compared with the first one. Labels are called NOT COMPARABLE if anything that decides
results differs beyond what is declared, and it is named. Unfinished runs are named, and used only with
--up-to-common-step; failed, damaged and missing runs are named and never used.
"""
PARITY_HELP = """\
Count the parameters of two world models and compare them, part by part.

  pwm parity --baseline pwm_48M --candidate pwm_48M_flow --env dflex_ant
  pwm parity --baseline pwm_5M --candidate pwm_5M_flow alg.dynamics.units=[600,600] --obs-dim 55 --act-dim 8

A pair passes at a difference of at most 2 % if nothing but the width of the candidate's dynamics differs.
When it fails, the width that restores parity is printed as an override.

Exit code 0: PASS; 1: FAIL; 2: an error.
"""
MEASURES = ("final", "last10", "best", "auc")


def add_commands(commands: Commands) -> None:
    """Add ``compare`` and ``parity`` to the parser's subcommands."""
    _add_parity(commands)
    compare = add_parser(
        commands, "compare", run_compare, "compare runs of two or more algorithms", COMPARE_HELP
    )
    compare.add_argument(
        "--run-dirs",
        nargs="+",
        metavar="PATH",
        help="run folders, folders above several seeds or tasks, or quoted patterns",
    )
    compare.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="one per path (a label given twice joins its paths) or per algorithm; default: algorithm names",
    )
    compare.add_argument("--task", help="with --algorithm and --seeds: LOGDIR/TASK/ALGORITHM/seedSEED")
    compare.add_argument("--algorithm", nargs="+", metavar="NAME")
    compare.add_argument("--seeds", nargs="+", type=int, metavar="SEED")
    compare.add_argument("--logdir", type=typed_path, default=Path("logs"))
    compare.add_argument("--output-dir", type=typed_path, default=Path("analysis"))
    compare.add_argument(
        "--smoothing",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="weight of the past in a moving average of the curves, from 0 (none) to below 1",
    )
    compare.add_argument(
        "--up-to-common-step",
        action="store_true",
        help="also use unfinished runs, and all runs of a task only up to the step that all have reached",
    )
    compare.add_argument(
        "--declared",
        nargs="*",
        metavar="KEY",
        help="keys, groups of keys or patterns in which the labels may differ (default: alg.dynamics.*)",
    )
    compare.add_argument("--measure", choices=MEASURES, default="final", help="what is compared of each run")
    compare.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="TASK=VALUE",
        help="return that counts as solved: says when it was reached; once per task",
    )


def _add_parity(commands: Commands) -> None:
    parity = add_parser(commands, "parity", run_parity, "compare the sizes of two world models", PARITY_HELP)
    for side in ("baseline", "candidate"):
        parity.add_argument(
            f"--{side}", nargs="+", required=True, metavar=("ALG", "key=value"), help="preset and overrides"
        )
    parity.add_argument("--obs-dim", type=int, default=None, help="width of observations, with --act-dim")
    parity.add_argument("--act-dim", type=int, default=None, help="width of actions, with --obs-dim")
    parity.add_argument(
        "--tasks", default=None, metavar="SET", help="models of all tasks of mt30 or mt80, with its widths"
    )
    add_json(parity)
    parity.add_argument("--latent-dim", type=int, default=None, help="width of both models' latents")
    parity.add_argument(
        "--env",
        nargs="+",
        default=None,
        metavar=("ENV", "key=value"),
        help="take the widths from this task, e.g. dflex_ant, or gym env.id=HalfCheetah-v5",
    )


def run_compare(args: argparse.Namespace) -> None:
    """``pwm compare``."""
    packages.require(packages.REPORT, "comparing runs", "report")

    from pwm.study.comparison.fairness import DECLARED
    from pwm.study.comparison.files import write_comparison

    thresholds = _thresholds(args.threshold)
    declared = DECLARED if args.declared is None else args.declared
    text, files = write_comparison(
        _arms(args), args.output_dir, args.measure, args.smoothing, thresholds, declared
    )
    print(text)
    if not any(path.name == "performance_profiles.png" for path in files):
        print("no performance profiles: they need two tasks or more on which an arm is shown to be above the")
        print("floor, and the same number of seeds of every arm on each of them")
    for path in files:
        print(path)


def _thresholds(given: list[str]) -> dict[str, float]:
    """Returns by task of every ``TASK=VALUE``.

    Raises:
        ConfigError: one of them is something else, its value is no finite number, or a task is named twice.
    """
    found: dict[str, float] = {}
    for text in given:
        task, _, value = text.rpartition("=")
        with contextlib.suppress(ValueError):
            if task and math.isfinite(number := float(value)):
                if task in found:
                    raise ConfigError(f"--threshold names {task} twice")
                found[task] = number
                continue
        raise ConfigError(
            f"--threshold {text}; it must be TASK=VALUE with a finite number, such as hopper=900"
        )
    return found


def _arms(args: argparse.Namespace) -> list[Arm]:
    """The arms of either calling form.

    Raises:
        ConfigError: neither form or both, or labels that do not fit.
        DataError: runs that cannot be used.
    """
    from pwm.study.comparison.arms import load_algorithms, load_arms

    by_name = (args.task, args.algorithm, args.seeds)
    if (args.run_dirs is None) == (by_name == (None, None, None)):
        raise ConfigError("give either --run-dirs, or --task, --algorithm and --seeds")
    if args.run_dirs is None:
        if None in by_name:
            raise ConfigError("--task, --algorithm and --seeds belong together; one of them is missing")
        return _arms_of_task(args)
    if args.labels is None:
        arms = load_algorithms(args.run_dirs, args.up_to_common_step)
        if len(arms) == 1 < len(args.run_dirs):
            raise ConfigError(f"all runs are of {arms[0].label}; tell the paths apart with --labels")
        return arms
    if len(args.labels) != len(args.run_dirs):
        raise ConfigError(
            f"--labels has {len(args.labels)} values for {len(args.run_dirs)} paths of --run-dirs; give one "
            f"per path, and quote patterns so that the shell leaves them alone"
        )
    paths: dict[str, list[str]] = {}
    for label, path in zip(args.labels, args.run_dirs):
        paths.setdefault(label, []).append(path)
    arms = load_arms(paths, args.up_to_common_step)
    _refuse_shared_runs(arms)
    return arms


def _arms_of_task(args: argparse.Namespace) -> list[Arm]:
    from pwm.study.comparison.arms import load_arms

    labels = args.labels or args.algorithm
    if len(labels) != len(args.algorithm):
        raise ConfigError(f"--labels has {len(labels)} values for {len(args.algorithm)} of --algorithm")
    for option, values in (("--labels", labels), ("--algorithm", args.algorithm), ("--seeds", args.seeds)):
        if len(set(values)) < len(values):
            raise ConfigError(f"{option} names one twice: {' '.join(map(str, values))}")
    paths, expected = {}, {}
    for label, algorithm in zip(labels, args.algorithm):
        folders = [args.logdir / args.task / algorithm / f"seed{seed}" for seed in args.seeds]
        paths[label] = [folder for folder in folders if folder.is_dir()]
        expected[label] = [(args.task, algorithm, seed) for seed in args.seeds]
        if not paths[label]:
            place = task if (task := args.logdir / args.task).is_dir() else args.logdir
            there = ", ".join(sorted(path.name for path in place.glob("*") if path.is_dir()))
            raise DataError(
                f"none of these exists: {', '.join(map(str, folders))}; in {place}: {there or 'nothing'}"
            )
    return load_arms(paths, args.up_to_common_step, expected)


def _refuse_shared_runs(arms: list[Arm]) -> None:
    """Raise ConfigError if one run folder belongs to two labels."""
    owners: dict[Path, str] = {}
    for arm in arms:
        for run in arm.table.runs:
            if (other := owners.setdefault(run.path.resolve(), arm.label)) != arm.label:
                raise ConfigError(f"{run.path} belongs to both {other} and {arm.label}")


def run_parity(args: argparse.Namespace) -> int:
    """``pwm parity``; returns the exit code."""
    from pwm.analysis.cost.named_size import explain_size
    from pwm.analysis.cost.parameter_parity import check_parity, task_sizes
    from pwm.configuration.config import compose_config
    from pwm.models.world_model import build_latent_space

    given = (args.obs_dim, args.act_dim)
    if (None in given) != (given == (None, None)):
        raise ConfigError("give --obs-dim and --act-dim together, or take both from --env")
    if sum([None not in given, args.env is not None, args.tasks is not None]) > 1:
        raise ConfigError("give either --obs-dim and --act-dim, or --env, or --tasks, not both")
    common = [] if args.env is None else [f"env={args.env[0]}", *args.env[1:]]
    if args.latent_dim is not None:
        common.append(f"alg.latent_dim={args.latent_dim}")
    baseline, candidate = (
        compose_config([f"alg={preset}", *common, *overrides])
        for preset, *overrides in (args.baseline, args.candidate)
    )
    n_tasks = 0
    if args.tasks is not None:
        from pwm.envs.task_table import task_set

        tasks = task_set(args.tasks)
        obs_dim, act_dim, n_tasks = tasks.obs_dim, tasks.action_dim, len(tasks.rows)
    else:
        obs_dim, act_dim = task_sizes(baseline) if None in given else given
    parity = check_parity(baseline, candidate, obs_dim, act_dim, n_tasks)
    if args.json:
        sizes = {"obs_dim": obs_dim, "act_dim": act_dim}
        print_json(
            {**dataclasses.asdict(parity), "passed": parity.passed, "difference": parity.difference, **sizes}
        )
        return 0 if parity.passed else 1
    print(f"baseline {' '.join(args.baseline)}, candidate {' '.join(args.candidate)}")
    latents = build_latent_space(candidate.alg.world_model, obs_dim).dim
    print(f"observations {obs_dim}, actions {act_dim}, latents {latents}")
    print(parity.report())
    if (size := explain_size(baseline, obs_dim, act_dim)) is not None:
        print(size)
    return 0 if parity.passed else 1
