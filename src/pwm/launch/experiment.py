"""``pwm experiment``: plan, parity, all runs, held-out evaluation and report with one command."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwm import files, packages
from pwm.errors import ConfigError, DataError, PwmError
from pwm.launch.arguments import Commands, add_parser

if TYPE_CHECKING:
    from pwm.study.plan import ExperimentPlan, PlannedRun
    from pwm.study.run_pool import JobOutcome
    from pwm.study.run_progress import RunProgress

EPISODES = 64
EXPERIMENT_HELP = """\
Compare the arms of an experiment on one or several tasks with several seeds, from the runs to the report:

  pwm experiment experiment=flow_vs_mlp env=dflex_hopper seeds=[42,123,456]
  pwm experiment experiment=flow_vs_mlp 'tasks=[dflex_hopper, gym env.id=Pendulum-v1 general.epochs=150]'
  pwm experiment experiment=flow_vs_mlp alg=pwm_5M env=dflex_ant name=flow_vs_mlp_5M --dry-run

A task is the name of an env preset and its overrides. Keys of the experiment (see the files in
pwm/configs/experiment: %s)
are tasks, seeds, name, arms, baseline, declared, thresholds, compute_matched, parity, overrides and title;
every other override goes to all runs. Runs and report are in <general.logdir>/experiments/<name>/.

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
    experiment.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
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
        "--episodes", type=int, default=EPISODES, help="held-out episodes of every policy (default: 64)"
    )


def run_experiment(args: argparse.Namespace) -> int:
    """``pwm experiment``; returns the exit code."""
    from pwm.checkpoints.policy_evaluation import check_episodes
    from pwm.runs.sinks import require_services
    from pwm.study.experiment_file import load_experiment
    from pwm.study.plan import make_plan, require_own_folders, require_parity
    from pwm.study.plan_origin import origin_warnings
    from pwm.study.plan_table import estimate_by_measuring, estimate_from_runs, plan_in_words, total

    check_episodes(args.episodes)
    plan = make_plan(load_experiment(args.overrides))
    require_own_folders(plan)
    part = dataclasses.replace(plan, runs=plan.part(args.only))
    at_a_time = _at_a_time(args.jobs, plan)
    jobs = [RunJob(run, plan, args.episodes) for run in part.runs]
    estimates = estimate_from_runs(plan)
    if args.dry_run:
        for cell in dict.fromkeys(run.cell for run in part.runs):
            if (cell.task, cell.arm) not in estimates:
                estimates[cell.task, cell.arm] = estimate_by_measuring(cell, plan.threads)
        finished = {job.run for job in jobs if job.done()}
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
        return _execute(plan, jobs, at_a_time, args)


class RunJob:
    """One run of an experiment: it is trained, then its best and its final policy are evaluated.

    Args:
        run: the run.
        plan: the experiment it belongs to.
        episodes: held-out episodes of every policy.
    """

    def __init__(self, run: PlannedRun, plan: ExperimentPlan, episodes: int) -> None:
        self.run = run
        self.title = run.title
        self.log = plan.folder / "output" / f"{'_'.join(run.folder.parts[-3:])}.txt"
        self._episodes = episodes
        self._show = plan.general.progress

    def commands(self) -> Iterator[list[str]]:
        """Arguments of ``pwm`` for what is left to do.

        Raises:
            CheckpointError: a policy that training should have left is missing.
        """
        from pwm.checkpoints.policy_evaluation import held_out_returns
        from pwm.checkpoints.policy_files import CHECKPOINTS
        from pwm.study.plan import FINISHED

        run = self.run
        if run.state().state != FINISHED:
            yield ["train", *run.overrides]
        for which in CHECKPOINTS:
            if held_out_returns(run.folder, which, self._episodes) is None:
                options = {
                    "--checkpoint": which,
                    "--episodes": str(self._episodes),
                    "--device": run.config.general.device,
                }
                yield ["evaluate", str(run.folder), *(word for pair in options.items() for word in pair)]

    def done(self) -> bool:
        """True if nothing is left to do."""
        try:
            return next(self.commands(), None) is None
        except PwmError:
            # Whoever does the work will say what is wrong.
            return False

    def progress(self, command: Sequence[str]) -> RunProgress | None:
        """A bar while the run is trained."""
        from pwm.study.run_progress import RunProgress

        if command[0] != "train":
            return None
        metrics = self.run.folder / "metrics.jsonl"
        return RunProgress(metrics, self.run.config.epochs, self.run.title, self._show)

    def result(self) -> str:
        """Return the held-out scores of its policies in words."""
        from pwm.checkpoints.policy_evaluation import held_out_returns
        from pwm.checkpoints.policy_files import CHECKPOINTS
        from pwm.numbers import readable

        means = []
        for which in CHECKPOINTS:
            returns = held_out_returns(self.run.folder, which, self._episodes) or [float("nan")]
            means.append(f"{which} policy {readable(sum(returns) / len(returns))}")
        return ", ".join(means)


class EndedRuns:
    """Tells the user of every run that has ended.

    Args:
        total: number of runs.
        before: how many of them were done before.
    """

    def __init__(self, total: int, before: int) -> None:
        self.total, self.ended = total, before

    def __call__(self, job: RunJob, outcome: JobOutcome) -> None:
        """One more run has ended."""
        from tqdm import tqdm

        from pwm.study.run_pool import FAILED, FINISHED, NOT_STARTED

        if outcome.state == NOT_STARTED:
            return
        self.ended += 1
        said = {FINISHED: job.result, FAILED: lambda: f"FAILED: {outcome.reason}"}
        text = said[outcome.state]() if outcome.state in said else outcome.state
        took = tqdm.format_interval(round(outcome.seconds))
        # Through tqdm, so that the line does not land inside a bar.
        tqdm.write(f"[{self.ended}/{self.total}] {job.title}: {text} ({took})", file=sys.stdout)
        sys.stdout.flush()


def _execute(plan: ExperimentPlan, jobs: Sequence[RunJob], at_a_time: int, args: argparse.Namespace) -> int:
    from pwm.runs import preemption
    from pwm.study import run_pool
    from pwm.study.findings import write_reports

    left = [job for job in jobs if not job.done()]
    outcomes = run_pool.run_jobs(left, at_a_time, plan.threads, EndedRuns(len(jobs), len(jobs) - len(left)))
    failed = {job: outcome for job, outcome in zip(left, outcomes) if outcome.state == run_pool.FAILED}
    for job, outcome in failed.items():
        print(f"FAILED {job.title}: {outcome.reason} (all output: {job.log})")
    if any(outcome.state in (run_pool.PREEMPTED, run_pool.NOT_STARTED) for outcome in outcomes):
        print(f"{plan.folder} was interrupted; the same command continues it")
        return preemption.EXIT_CODE
    failures = {job.run.key: outcome.reason for job, outcome in failed.items()}
    try:
        reports = write_reports(plan, failures, args.episodes, _commands(plan, args))
    except DataError as error:
        if args.only and not failed:
            print(f"no report before other runs are made: {error}")
            return 0
        print(f"pwm: no report: {error}", file=sys.stderr)
        return 1
    for path in reports:
        print(f"report: {path}")
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again")
    return 1 if failed else 0


def _commands(plan: ExperimentPlan, args: argparse.Namespace) -> list[str]:
    """Return the commands that do it again: the experiment as a whole, and step by step."""
    from pwm.checkpoints.policy_files import CHECKPOINTS

    episodes = [] if args.episodes == EPISODES else ["--episodes", str(args.episodes)]
    trained = [shlex.join(["pwm", "train", *run.overrides]) for run in plan.runs]
    every = f"{shlex.quote(str(plan.folder))}/*/*/seed*"
    evaluated = [
        f"pwm evaluate {every} --checkpoint {which} --episodes {args.episodes}" for which in CHECKPOINTS
    ]
    return [shlex.join(["pwm", "experiment", *args.overrides, *episodes]), *trained, *evaluated]


def _at_a_time(jobs: int | None, plan: ExperimentPlan) -> int:
    """Processes at the same time."""
    from pwm.envs.engines.mujoco_cpu import usable_cores

    if jobs is not None:
        if jobs < 1:
            raise ConfigError(f"--jobs {jobs}; it must be at least 1")
        return jobs
    return max(1, usable_cores() // plan.threads) if plan.general.device == "cpu" else 1
