"""``pwm experiment``: plan, parity, all runs, held-out evaluation and report with one command."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwm import files, packages
from pwm.errors import ConfigError, DataError
from pwm.launch.arguments import GROUPS, Commands, add_overrides, add_parser

if TYPE_CHECKING:
    from pwm.analysis.tables.runs import Key
    from pwm.cluster.profiles import LocalProfile, SlurmProfile
    from pwm.study.plan import ExperimentPlan, PlannedRun
    from pwm.study.run_job import RunJob

EPISODES = 64
EXPERIMENT_HELP = """\
Compare the arms of an experiment on one or several tasks with several seeds, from the runs to the report:

  pwm experiment experiment=flow_vs_mlp env=dflex_hopper seeds=[42,123,456]
  pwm experiment experiment=flow_vs_mlp 'tasks=[dflex_hopper, gym env.id=Pendulum-v1 general.epochs=150]'
  pwm experiment experiment=flow_vs_mlp alg=pwm_5M env=dflex_ant name=flow_vs_mlp_5M --dry-run

A task is the name of an env preset and its overrides. Keys of the experiment (see the files in
pwm/configs/experiment: %s)
are tasks, seeds, name, arms, baseline, declared, thresholds, compute_matched, parity, pretraining, data,
overrides and title; every other override goes to all runs. Runs and report are in
<general.logdir>/experiments/<name>/.

launch=slurm submits the runs to a cluster and returns (docs/guides/cluster-guide.md); launch.KEY=VALUE
changes the jobs, and with launch=local, which is the default, the share of this machine:

  pwm experiment experiment=flow_vs_mlp env=dflex_ant launch=slurm launch.time=08:00:00 --dry-run
  pwm experiment experiment=flow_vs_mlp env=dflex_ant launch.cores=4

With a section `pretraining` every arm pretrains a world model per seed, from which its policies are extracted
(docs/comparison.md):

  pwm experiment experiment=multitask_flow_vs_mlp data=data/mixed

The same command continues what was interrupted and repeats nothing that is done. A part of the
runs is made with

  pwm experiment experiment=cpu_suite --only 'dflex_*/flow/[12]' --only gym_Pendulum-v1

and the report is of all runs that are there.

Exit code 0: all done; 1: a run failed (the report says which); 2: an error, nothing trained; 75: preempted.
"""


def add_commands(commands: Commands) -> None:
    """Add ``experiment`` to the parser's subcommands."""
    folder = Path(__file__).parents[1] / "configs" / "experiment"
    names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    experiment = add_parser(
        commands,
        "experiment",
        run_experiment,
        "compare several algorithms over tasks and seeds, from the runs to the report",
        EXPERIMENT_HELP % names,
    )
    add_overrides(experiment, groups=("experiment", "launch", *GROUPS))
    experiment.add_argument(
        "--dry-run", action="store_true", help="print the plan with its cost, and stop; nothing is written"
    )
    experiment.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TASK/ARM/SEED",
        help="make these runs of the experiment, and leave the others for later; TASK/ARM or TASK are all of "
        "them, * stands for any (can be given several times)",
    )
    experiment.add_argument(
        "--jobs",
        type=int,
        default=None,
        metavar="N",
        help="runs at the same time (default: usable cores / threads per run; 1 on a GPU)",
    )
    experiment.add_argument(
        "--report-only",
        action="store_true",
        help="train nothing; write the report of the runs that are there",
    )
    experiment.add_argument(
        "--episodes", type=int, default=EPISODES, help="held-out episodes of every policy (default: 64)"
    )


def run_experiment(args: argparse.Namespace) -> int:
    """``pwm experiment``; returns the exit code."""
    from pwm.checkpoints.policy_evaluation import check_episodes
    from pwm.cluster.profiles import SlurmProfile, load_profile, split_launch

    check_episodes(args.episodes)
    launch, overrides = split_launch(args.overrides)
    profile = load_profile(launch)
    if args.report_only:
        return _report_only(args, overrides)
    if isinstance(profile, SlurmProfile):
        return _submit(args, profile, overrides)
    return _run_here(args, profile, overrides)


def _run_here(args: argparse.Namespace, profile: LocalProfile, overrides: Sequence[str]) -> int:
    """Train, evaluate and report on this machine; returns the exit code."""
    from pwm.cluster.local_budget import runs_at_a_time
    from pwm.runs.sinks import require_services
    from pwm.study.experiment_file import load_experiment
    from pwm.study.plan import make_plan, require_own_folders, require_parity
    from pwm.study.plan_origin import origin_warnings
    from pwm.study.plan_table import estimate_by_measuring, estimate_from_runs, plan_in_words, total
    from pwm.study.run_job import RunJob

    plan = make_plan(load_experiment(overrides))
    require_own_folders(plan)
    part = dataclasses.replace(plan, runs=plan.part(args.only))
    at_a_time, gpus = runs_at_a_time(profile, args.jobs, plan.threads, plan.general.device)
    show = plan.general.progress
    jobs = {run: RunJob(run, plan.folder / "output", args.episodes, show) for run in part.runs}
    estimates = estimate_from_runs(plan)
    if args.dry_run:
        for cell in dict.fromkeys(run.cell for run in part.runs):
            if (cell.task, cell.arm) not in estimates:
                estimates[cell.task, cell.arm] = estimate_by_measuring(cell, plan.threads)
        finished = {run for run, job in jobs.items() if job.done()}
        shown = [plan_in_words(part, estimates, at_a_time, finished.__contains__), *origin_warnings(plan)]
        print("\n".join(shown), flush=True)
        require_parity(plan)
        return 0
    require_parity(plan)
    packages.require(packages.REPORT, "comparing runs", "report")
    for cell in plan.cells:
        require_services(cell.config)
    shown = [plan.experiment.title, total(part, estimates, at_a_time), *origin_warnings(plan)]
    print("\n".join(shown), flush=True)
    with files.locked(plan.folder, "name"):
        return _execute(plan, jobs, at_a_time, gpus, args)


def _submit(args: argparse.Namespace, profile: SlurmProfile, overrides: Sequence[str]) -> int:
    """Submit to SLURM what is not done and not queued; returns the exit code."""
    from pwm.cluster.slurm_jobs import RunsToSubmit, on_device, submit_runs
    from pwm.runs.sinks import require_services
    from pwm.study.experiment_file import load_experiment
    from pwm.study.plan import make_plan, require_own_folders, require_parity, require_starts
    from pwm.study.plan_origin import origin_warnings

    if args.jobs is not None:
        raise ConfigError(
            f"--jobs {args.jobs} is for this machine; on a cluster write launch.max_running={args.jobs}"
        )
    overrides = on_device(profile, overrides)
    plan = make_plan(load_experiment(overrides), here=False)
    require_own_folders(plan)
    require_parity(plan)
    packages.require(packages.REPORT, "comparing runs", "report")
    for cell in plan.cells:
        require_services(cell.config)
    print("\n".join([plan.experiment.title, *origin_warnings(plan, here=False)]), flush=True)
    report = ["experiment", *overrides, *_episodes(args), "--report-only"]
    runs, name = plan.part(args.only), f"pwm-{plan.experiment.name}"
    require_starts(runs)
    if not set(runs) & set(plan.runs):
        # Of models alone there is nothing to report.
        report = []
    whole = RunsToSubmit(name, plan.folder, runs, plan.threads, args.episodes, report)
    submit_runs(whole, profile, args.dry_run)
    return 0


def _report_only(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    from pwm.cluster.submission import failures
    from pwm.study.experiment_file import load_experiment
    from pwm.study.plan import make_plan

    plan = make_plan(load_experiment(overrides), here=False)
    return 0 if _write_report(plan, failures(plan.folder), args) else 1


def _execute(
    plan: ExperimentPlan,
    jobs: Mapping[PlannedRun, RunJob],
    at_a_time: int,
    gpus: Sequence[str],
    args: argparse.Namespace,
) -> int:
    from pwm.runs import preemption
    from pwm.study import run_pool
    from pwm.study.run_job import EndedRuns, jobs_left

    after = {job: jobs[run.start] for run, job in jobs.items() if run.start is not None}
    left = jobs_left(list(jobs.values()), after)
    told = EndedRuns(len(jobs), len(jobs) - len(left))
    outcomes = run_pool.run_jobs(left, at_a_time, plan.threads, told, gpus, after=after)
    failed = {job: outcome for job, outcome in zip(left, outcomes) if outcome.state == run_pool.FAILED}
    for job, outcome in failed.items():
        print(f"FAILED {job.title}: {outcome.reason} (all output: {job.log})")
    if any(outcome.state in (run_pool.PREEMPTED, run_pool.NOT_STARTED) for outcome in outcomes):
        print(f"{plan.folder} was interrupted; the same command continues it")
        return preemption.EXIT_CODE
    failures = {job.run.key: outcome.reason for job, outcome in failed.items()}
    written = _write_report(plan, failures, args)
    if written and failed:
        print(f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again")
    return 1 if failed or not written else 0


def _write_report(plan: ExperimentPlan, failures: Mapping[Key, str], args: argparse.Namespace) -> bool:
    """Write the report of the runs that are there; False if there should be one and cannot."""
    from pwm.study.findings import write_reports

    try:
        reports = write_reports(plan, failures, args.episodes, _commands(plan, args))
    except DataError as error:
        if args.only and not failures:
            print(f"no report before other runs are made: {error}")
            return True
        print(f"pwm: no report: {error}", file=sys.stderr)
        return False
    for path in reports:
        print(f"report: {path}")
    return True


def _commands(plan: ExperimentPlan, args: argparse.Namespace) -> list[str]:
    """Return the commands that do it again: the experiment as a whole, and step by step."""
    from pwm.checkpoints.policy_files import CHECKPOINTS

    trained = [shlex.join(["pwm", "train", *run.overrides]) for run in plan.every_run]
    # Models that runs begin from lie beside them, and have no policy.
    tasks = dict.fromkeys(run.folder.parents[1] for run in plan.runs)
    folders = [shlex.quote(str(folder)) for folder in tasks]
    if len(trained) == len(plan.runs):
        folders = [f"{shlex.quote(str(plan.folder))}/*"]
    every = " ".join(f"{folder}/*/seed*" for folder in folders)
    evaluated = [
        f"pwm evaluate {every} --checkpoint {which} --episodes {args.episodes}" for which in CHECKPOINTS
    ]
    return [shlex.join(["pwm", "experiment", *args.overrides, *_episodes(args)]), *trained, *evaluated]


def _episodes(args: argparse.Namespace) -> list[str]:
    return [] if args.episodes == EPISODES else ["--episodes", str(args.episodes)]
