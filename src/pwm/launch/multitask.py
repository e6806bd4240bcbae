"""``pwm pretrain``, a world model of many tasks or of one, and ``pwm extract``, policies learned inside it.

``scripts/train_multitask.py`` is the original's command for both, which names configurations as files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwm.errors import ConfigError
from pwm.launch.arguments import Commands, add_overrides, add_parser, add_planner, typed_path

if TYPE_CHECKING:
    from pwm.study.extraction import Source

PRETRAIN_HELP = """\
Train a world model on a data set, without an environment:

  pwm pretrain tasks=mt30 alg=pwm_48M_flow data=data/mt30
  pwm pretrain tasks=walker-walk,cheetah-run alg=pwm_multitask_residual data=data/mixed general.epochs=200

tasks= (default all that there are data of) and data= stand for alg.tasks= and alg.data=; all other
overrides are those of pwm train. An epoch is alg.wm_iterations updates. The same command continues what was
interrupted.
"""
# The size of what is trained where nothing is said.
PRESET = "pwm_multitask"
SHORT = {"tasks": "alg.tasks", "data": "alg.data"}

EXTRACT_HELP = """\
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

# Of the original's script.
CONFIGS = {"config_mt30": "mt30", "config_mt80": "mt80"}
KEYS = {"general.data_dir": "data", "general.checkpoint": "checkpoint"}
OPTION = "--config-name"


def add_commands(commands: Commands) -> None:
    """Add ``pretrain`` and ``extract`` to the parser's subcommands."""
    parser = add_parser(
        commands, "pretrain", run_pretrain, "train a world model on a data set", PRETRAIN_HELP
    )
    add_overrides(parser)
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    summary = "learn policies inside a pretrained world model"
    parser = add_parser(commands, "extract", run_extract, summary, EXTRACT_HELP)
    add_overrides(parser, "+")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of the final evaluation (default 10)")
    add_planner(parser)
    parser.add_argument("--jobs", type=int, default=1, help="tasks at the same time (default 1)")
    parser.add_argument("--output", type=typed_path, help="file of the table; default below general.logdir")


def run_pretrain(args: argparse.Namespace) -> int:
    """``pwm pretrain``; returns the exit code."""
    from pwm.configuration.config import compose_config
    from pwm.launch.training import run_configured

    config = compose_config(pretraining_overrides(args.overrides))
    return run_configured(config, args.print_config, "fit to held-out data")


def pretraining_overrides(typed: Sequence[str]) -> list[str]:
    """Return overrides of ``pwm train`` for those of ``pwm pretrain``."""
    words = [long_key(word) for word in typed]
    if not any(word.partition("=")[0].strip() == "alg" for word in words):
        words.insert(0, f"alg={PRESET}")
    return ["alg.trainer=pretraining", *words]


def long_key(word: str) -> str:
    """Return an override with the key that its short form stands for."""
    key, equals, value = word.partition("=")
    return f"{SHORT.get(key.strip(), key)}{equals}{value}"


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
    from pwm.study.extraction import ExtractionJob, environment, evaluate_runs, table, write_results

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
    if results := evaluate_runs(done, source, args.episodes, args.planner):
        write_results(output, results)
        print(table(results))
        print(f"table: {output}")
    return 1 if failed else 0


def multitask_arguments(typed: Sequence[str]) -> list[str]:
    """Return arguments of ``pwm extract`` where a checkpoint is given, else of ``pwm pretrain``.

    Args:
        typed: ``--config-name config_mt30``, then overrides.

    Raises:
        ConfigError: another configuration is named, or none.
    """
    words = [part for word in typed for part in (word.split("=", 1) if word.startswith(OPTION) else [word])]
    if OPTION not in words or words[-1] == OPTION:
        raise ConfigError(f"{OPTION} is missing; choose one of: {', '.join(CONFIGS)}")
    place = words.index(OPTION)
    name = words[place + 1]
    if name not in CONFIGS:
        raise ConfigError(
            f"{OPTION} {name}: there is no such configuration; choose from: {', '.join(CONFIGS)}"
        )
    overrides = []
    for word in words[:place] + words[place + 2 :]:
        key, equals, value = word.partition("=")
        overrides.append(f"{KEYS.get(key, key)}{equals}{value}")
    if any(word.startswith("checkpoint=") for word in overrides):
        task = [] if any(word.startswith("task=") for word in overrides) else ["task=all"]
        return ["extract", *task, *overrides]
    return ["pretrain", f"tasks={CONFIGS[name]}", *overrides]


def run_multitask(typed: Sequence[str]) -> int:
    """Entry point of ``scripts/train_multitask.py``; returns the exit code."""
    try:
        arguments = multitask_arguments(typed)
    except ConfigError as error:
        print(f"pwm: {error}", file=sys.stderr)
        return 2
    from pwm.launch.cli import main

    return main(arguments)
