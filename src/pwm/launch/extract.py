"""``pwm extract``: policies for single tasks, learned inside a world model of many."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pwm.errors import ConfigError
from pwm.launch.arguments import Commands, add_parser, typed_path

if TYPE_CHECKING:
    from pwm.study.extraction import Source

HELP = """\
Learn actor and critics for a task inside a pretrained world model, from recorded observations, and evaluate
them in the real task:

  pwm extract task=walker-walk checkpoint=logs/mt30/pwm_multitask/seed42 data=data/mixed
  pwm extract task=all checkpoint=logs/mt30/pwm_48M_flow/seed42 data=data/mt30 --jobs 4
  pwm extract env=dflex_hopper checkpoint=hopper_model.pt data=data/hopper

checkpoint= is the folder of a run of pwm pretrain, one of its files, or a file of pwm convert. Sizes follow
from it; other overrides are those of pwm train. task= takes names with commas, or all that there are data of;
the same command continues what was interrupted and writes a table of returns and scores. The world model is
frozen; alg.wm_iterations=1 also trains it.
"""
EPISODES = 10


def add_commands(commands: Commands) -> None:
    """Add ``extract`` to the parser's subcommands."""
    summary = "learn policies inside a pretrained world model"
    parser = add_parser(commands, "extract", run_extract, summary, HELP)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of the final evaluation (default 10)")
    parser.add_argument(
        "--planner",
        choices=("none", "mppi"),
        default="none",
        help="in the final evaluation: act as the policy says (none), or plan at every step (mppi)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="tasks at the same time (default 1)")
    parser.add_argument("--output", type=typed_path, help="file of the table; default below general.logdir")


def run_extract(args: argparse.Namespace) -> int:
    """``pwm extract``; returns the exit code."""
    from pwm.checkpoints.policy_evaluation import check_episodes
    from pwm.configuration.config import compose_config
    from pwm.launch.training import run_configured
    from pwm.study.extraction import Source

    check_episodes(args.episodes)
    if args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}; it must be at least 1")
    given = dict(word.partition("=")[::2] for word in args.overrides)
    for key in ("checkpoint", "data"):
        if not given.get(key):
            raise ConfigError(f"{key}= is missing; for example task=walker-walk checkpoint=RUN data=FOLDER")
    typed = [word for word in args.overrides if word.partition("=")[0] not in ("task", "checkpoint", "data")]
    source = Source.read(typed_path(given["checkpoint"]), typed_path(given["data"]))
    if "task" in given:
        return _extract_tasks(source, given["task"], typed, args)
    if not any(word.partition("=")[0] in ("env", "env.name") for word in typed):
        raise ConfigError("task= is missing: names with commas, or all; or env= for a task of no set")
    config = compose_config(source.overrides([], typed))
    return run_configured(config, False, "evaluated return")


def _extract_tasks(source: Source, asked: str, typed: list[str], args: argparse.Namespace) -> int:
    """Extract every task that is asked for, then evaluate all of them."""
    from pwm.configuration.config import compose_config
    from pwm.launch.training import run_configured
    from pwm.runs import preemption
    from pwm.study import run_pool
    from pwm.study.extraction import ExtractionJob, environment, evaluate_run, table, write_results

    rows = source.tasks(asked)
    words = {row: source.overrides(environment(row), typed) for row in rows}
    general = compose_config(words[rows[0]]).general
    output = args.output or Path(general.logdir) / "extraction" / f"{general.name}_seed{general.seed}.json"
    jobs = [ExtractionJob(row, words[row], output.with_suffix("")) for row in rows]
    if len(jobs) == 1:
        if code := run_configured(jobs[0].config, False, "evaluated return"):
            return code
        failed = []
    else:
        outcomes = run_pool.run_jobs(jobs, args.jobs, general.threads or 1, lambda job, outcome: None)
        failed = [
            job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.state == run_pool.FAILED
        ]
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job in failed:
                print(f"FAILED {job.title}: {outcome.reason} (all output: {job.log})")
        if any(outcome.state in (run_pool.PREEMPTED, run_pool.NOT_STARTED) for outcome in outcomes):
            print("interrupted; the same command continues")
            return preemption.EXIT_CODE
    done = [job for job in jobs if job not in failed]
    results = [evaluate_run(job, source, args.episodes, args.planner) for job in done]
    if results:
        write_results(output, results)
        print(table(results))
        print(f"table: {output}")
    return 1 if failed else 0
