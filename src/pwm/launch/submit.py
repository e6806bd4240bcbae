"""``pwm submit``, ``pwm array-task``, ``pwm status``: runs on a cluster, submitted, made and looked after."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwm.errors import ConfigError
from pwm.launch.arguments import GROUPS, Commands, add_json, add_overrides, add_parser, print_json, typed_path
from pwm.launch.experiment import EPISODES

if TYPE_CHECKING:
    from pwm.cluster.grid import GridRun
    from pwm.cluster.profiles import LocalProfile

SUBMIT_HELP = """\
Submit runs to a SLURM cluster and return. See docs/guides/cluster-guide.md.

  pwm submit single dflex_ant pwm_48M 42
  pwm submit multi dflex_ant pwm_48M_flow multi_seed
  pwm submit multi dflex_ant,dflex_hopper pwm_48M_flow multi_task launch=phoenix
  pwm submit multi dflex_ant pwm_48M,pwm_48M_flow baseline_vs_flow --dry-run

Every further key=value goes to all runs (general.epochs=100) or, as launch.KEY=VALUE, to their jobs
(launch.time=08:00:00); launch=NAME chooses a profile, launch=local trains here.
The same command again submits what failed or is missing, and nothing that is done or in the queue.
"""
SINGLE_HELP = """\
Submit one run:

  pwm submit single dflex_ant pwm_48M 42 general.epochs=5000
"""
MULTI_HELP = """\
Submit one array of runs:

  pwm submit multi dflex_ant pwm_48M_flow multi_seed --seeds 1,2,3
  pwm submit multi dflex_ant,dflex_hopper pwm_48M_flow multi_task
  pwm submit multi dflex_ant pwm_48M,pwm_48M_flow baseline_vs_flow
"""
TASK_HELP = """\
Train the runs of one task of a submitted array, as its job does:

  pwm array-task logs/slurm/0001/plan.json 0
"""
STATUS_HELP = """\
Show what runs are doing: state, epoch, time left, last return, job and reason of every run in a folder.

  pwm status logs
  pwm status logs/experiments/flow_vs_mlp --json      a list of objects, times in seconds

States: waiting (in the queue), running, finished, preempted (saved, and no job continues it), failed,
dead (it says it is running, and nothing runs it), missing (submitted, never begun, no longer in the queue).
What is preempted, failed, dead or missing is continued by submitting again.
"""


def add_commands(commands: Commands) -> None:
    """Add ``submit``, ``array-task`` and ``status`` to the parser's subcommands."""
    submit = add_parser(commands, "submit", run_single, "submit runs to a SLURM cluster", SUBMIT_HELP)
    kinds = submit.add_subparsers(dest="kind", required=True, metavar="single|multi")
    single = add_parser(kinds, "single", run_single, "one run", SINGLE_HELP)
    single.add_argument("env", metavar="ENV", help="name of an env preset")
    single.add_argument("alg", metavar="ALG", help="name of an alg preset")
    single.add_argument("seed", metavar="SEED", type=int)
    multi = add_parser(kinds, "multi", run_multi, "one array of runs", MULTI_HELP)
    multi.add_argument("envs", metavar="ENVS", help="names of env presets, separated by commas")
    multi.add_argument("algs", metavar="ALGS", help="names of alg presets, separated by commas")
    multi.add_argument("strategy", metavar="STRATEGY", help="multi_seed, multi_task or baseline_vs_flow")
    multi.add_argument(
        "--seeds",
        metavar="LIST",
        help="separated by commas (default: 42,123,456; 42 for multi_task)",
    )
    for parser in (single, multi):
        add_overrides(parser, groups=("launch", *GROUPS))
        parser.add_argument(
            "--dry-run", action="store_true", help="print the scripts and what would run; submit nothing"
        )
        parser.add_argument(
            "--episodes", type=int, default=EPISODES, help="held-out episodes of every policy (default: 64)"
        )

    task = add_parser(
        commands,
        "array-task",
        run_array_task,
        "what a submitted job calls: train the runs of one array task",
        TASK_HELP,
    )
    task.add_argument("plan", type=typed_path, metavar="PLAN", help="plan.json of a submission")
    task.add_argument("index", type=int, metavar="INDEX", help="index of the task")

    status = add_parser(commands, "status", run_status, "show what runs are doing", STATUS_HELP)
    status.add_argument("logs", type=typed_path, metavar="LOGS", help="folder of a run, or above several")
    add_json(status)


def run_single(args: argparse.Namespace) -> int:
    """``pwm submit single``; returns the exit code."""
    return _launch(args, [args.env], [args.alg], [args.seed], f"pwm-{args.env}-{args.alg}-{args.seed}")


def run_multi(args: argparse.Namespace) -> int:
    """``pwm submit multi``; returns the exit code."""
    from pwm.cluster.grid import (
        BASELINE_VS_FLOW,
        FIRST_SEED,
        MULTI_TASK,
        SEEDS,
        STRATEGIES,
        check_strategy,
        comparison_overrides,
    )
    from pwm.launch.experiment import run_experiment

    if args.strategy not in STRATEGIES:
        raise ConfigError(f"unknown strategy {args.strategy!r}; choose one of: {', '.join(STRATEGIES)}")
    envs, algs = _names("ENVS", args.envs), _names("ALGS", args.algs)
    check_strategy(args.strategy, envs, algs)
    seeds = [FIRST_SEED] if args.strategy == MULTI_TASK else list(SEEDS)
    if args.seeds is not None:
        seeds = _seeds(args.seeds)
    if args.strategy != BASELINE_VS_FLOW:
        return _launch(args, envs, algs, seeds, f"pwm-{args.strategy}")
    own = comparison_overrides(envs, algs, seeds)
    print("the same as: " + shlex.join(["pwm", "experiment", *own, *args.overrides, *_default_launch(args)]))
    experiment = argparse.Namespace(
        overrides=[*own, *args.overrides, *_default_launch(args)],
        dry_run=args.dry_run,
        only=[],
        jobs=None,
        report_only=False,
        episodes=args.episodes,
    )
    return run_experiment(experiment)


def run_array_task(args: argparse.Namespace) -> int:
    """``pwm array-task``; returns the exit code."""
    from pwm.cluster.array_task import run_task

    return run_task(args.plan, args.index)


def run_status(args: argparse.Namespace) -> None:
    """``pwm status``."""
    from pwm.cluster.overview import in_words, overview

    runs = overview(args.logs)
    if args.json:
        print_json([dataclasses.asdict(run) for run in runs])
    else:
        print(in_words(runs))


def _launch(
    args: argparse.Namespace, envs: Sequence[str], algs: Sequence[str], seeds: Sequence[int], name: str
) -> int:
    """Submit a run for every environment, algorithm and seed, or train them here; returns the exit code."""
    from pwm.checkpoints.policy_evaluation import check_episodes
    from pwm.cluster.grid import grid_runs
    from pwm.cluster.profiles import SlurmProfile, load_profile, split_launch
    from pwm.cluster.slurm_jobs import RunsToSubmit, on_device, submit_runs
    from pwm.runs.sinks import require_services

    check_episodes(args.episodes)
    launch, common = split_launch([*args.overrides, *_default_launch(args)])
    profile = load_profile(launch)
    if isinstance(profile, SlurmProfile):
        common = on_device(profile, common)
    runs = grid_runs(envs, algs, seeds, common)
    require_services(runs[0].config)
    if not isinstance(profile, SlurmProfile):
        return _run_here(args, profile, runs)
    root, threads = Path(runs[0].config.general.logdir), runs[0].config.general.threads or 1
    submit_runs(RunsToSubmit(name, root, runs, threads, args.episodes), profile, args.dry_run)
    return 0


def _run_here(args: argparse.Namespace, profile: LocalProfile, runs: Sequence[GridRun]) -> int:
    from pwm.cluster.local_budget import runs_at_a_time
    from pwm.runs import preemption
    from pwm.runs.status import FINISHED
    from pwm.study.run_job import EndedRuns, RunJob
    from pwm.study.run_pool import FAILED, run_jobs

    general = runs[0].config.general
    threads = general.threads or 1
    at_a_time, gpus = runs_at_a_time(profile, None, threads, general.device)
    jobs = [RunJob(run, Path(general.logdir) / "output", args.episodes, general.progress) for run in runs]
    left = [job for job in jobs if not job.done()]
    if args.dry_run:
        print(f"{len(runs)} runs, {len(runs) - len(left)} done already; {at_a_time} at a time:")
        print("\n".join(f"  {job.title}" for job in left))
        return 0
    told = EndedRuns(len(jobs), len(jobs) - len(left))
    states = {outcome.state for outcome in run_jobs(left, at_a_time, threads, told, gpus)}
    if states - {FINISHED, FAILED}:
        return preemption.EXIT_CODE
    return 1 if FAILED in states else 0


def _default_launch(args: argparse.Namespace) -> list[str]:
    """``launch=slurm`` unless a profile is chosen."""
    chosen = any(word.partition("=")[0].strip() == "launch" for word in args.overrides)
    return [] if chosen else ["launch=slurm"]


def _names(what: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise ConfigError(f"{what}={text!r}; write names separated by commas")
    return names


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r}; write whole numbers separated by commas") from error
