"""``pwm data``: make data sets, check them, and say what is in them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pwm.errors import ConfigError
from pwm.launch.arguments import Commands, add_json, add_parser, print_json, typed_path

MANIFEST_HELP = """\
Write manifest.sha256 into FOLDER: size and SHA-256 of every file below it. `sha256sum -c` reads it, too.

  pwm data create-manifest downloads/mt30
"""
VERIFY_HELP = """\
Compare FOLDER with its manifest: names, sizes and SHA-256 of all files. Of a data set of this project every
number is looked at, too: counts per task, ranges, NaN, zero padding, ends of segments. Exit code 2 and the
first thing that is wrong if anything is.

  pwm data verify data/mt30
  pwm data verify downloads/mt30 --quick
"""
INFO_HELP = """\
Say what a data set holds: tasks with their episodes and returns, its size, its origin.

  pwm data info data/mt30
"""
CONVERT_HELP = """\
Turn files of TD-MPC2's published multi-task data, or Minari data sets, into a data set. Nothing in the files
is run.

  pwm data convert downloads/mt30 --to data/mt30
  pwm data convert downloads/mt30/chunk_0.pt --to data/walker --tasks walker-walk,walker-run
  pwm data convert mujoco/hopper/medium-v0 mujoco/hopper/expert-v0 --to data/hopper

A Minari data set is named by its folder, or by its id among those of this machine. The same command
continues what was interrupted.
"""
COLLECT_HELP = """\
Collect whole episodes of the tasks of MT30 and MT80 as a data set:

  pwm data collect tasks=mt30 policy=random episodes=100 to=data/random
  pwm data collect tasks=mw-reach,mw-push policy=ou episodes=100 to=data/hands
  pwm data collect tasks=walker-walk,cheetah-run mix=0.5*random+0.5*logs episodes=200 to=data/mixed
  pwm data collect tasks=walker-walk policy=checkpoint checkpoint=logs/dmc_walker-walk noise=0.3 to=data/w

Keys: tasks (mt30, mt80, or names with commas), to (new folder), episodes of each task (100), policy (random,
ou or checkpoint), mix instead of policy (WEIGHT*SOURCE+..., a source is random, ou, a run, a folder of runs
or a policy file), checkpoint (with policy=checkpoint: sources with commas, in equal shares), which of a
run's policies (best, final or all), noise (standard deviation on a policy's best action; without it, it
explores as in training), envs that run together (64), seed (0).

The same command continues what was interrupted.
"""
FROM_RUN_HELP = """\
Write the replay memory of runs, as it was saved last, into a data set:

  pwm data from-run logs/dflex_hopper/pwm_small/seed1 --to data/hopper
"""


def add_commands(commands: Commands) -> None:
    """Add ``data`` and its actions to the parser's subcommands."""
    data = commands.add_parser("data", help="make, check and describe data sets")
    actions = data.add_subparsers(dest="action", required=True, metavar="action")
    convert = add_parser(
        actions, "convert", run_convert, "convert TD-MPC2's published files or Minari data sets", CONVERT_HELP
    )
    convert.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder or quoted pattern")
    _add_target(convert)
    convert.add_argument("--tasks", metavar="NAME,...", help="keep these tasks of TD-MPC2's files alone")
    convert.add_argument(
        "--task", metavar="NAME", help="task of a Minari data set (default: its environment)"
    )
    convert.add_argument(
        "--mask-padding",
        action="store_true",
        help="write zeros beyond the widths of each task, instead of refusing anything else there",
    )
    collect = add_parser(actions, "collect", run_collect, "collect episodes of MT30 and MT80", COLLECT_HELP)
    collect.add_argument("settings", nargs="+", metavar="KEY=VALUE")
    collect.add_argument(
        "--layout",
        choices=("store", "published"),
        default="store",
        help="a data set, or chunk_*.pt as TD-MPC2's are published",
    )
    from_run = add_parser(actions, "from-run", run_from_run, "save the replay memory of runs", FROM_RUN_HELP)
    from_run.add_argument("runs", nargs="+", metavar="RUN", help="run folder or quoted pattern")
    _add_target(from_run)

    info = add_parser(actions, "info", run_info, "say what a data set holds", INFO_HELP)
    add_json(info)
    create = add_parser(
        actions, "create-manifest", run_create_manifest, "write the manifest of a folder", MANIFEST_HELP
    )
    verify = add_parser(actions, "verify", run_verify, "compare a folder with its manifest", VERIFY_HELP)
    for action in (info, create, verify):
        action.add_argument("folder", type=typed_path, metavar="FOLDER")
    for action in (create, verify):
        action.add_argument("--jobs", type=int, default=None, metavar="N", help="files read at a time")
    verify.add_argument("--quick", action="store_true", help="compare names and sizes only")


def _add_target(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--to", type=typed_path, required=True, metavar="FOLDER", help="new, or begun by the same command"
    )


def run_convert(args: argparse.Namespace) -> None:
    """``pwm data convert``."""
    from pwm.datasets.conversion import convert
    from pwm.datasets.minari_conversion import convert_minari, minari_folder

    folders = [minari_folder(source) for source in args.sources]
    if found := [folder for folder in folders if folder is not None]:
        if len(found) < len(folders):
            other = args.sources[folders.index(None)]
            raise ConfigError(f"{found[0]} is a Minari data set and {other} is none; convert them apart")
        if args.tasks is not None or args.mask_padding:
            raise ConfigError(
                "--tasks and --mask-padding are for TD-MPC2's files; --task names the task here"
            )
        convert_minari(found, args.to, args.task)
        _say_what_is_there(args.to)
        return
    if args.task is not None:
        raise ConfigError("--task is for Minari data sets; --tasks keeps some tasks of TD-MPC2's files")
    tasks = None if args.tasks is None else [name.strip() for name in args.tasks.split(",")]
    convert(args.sources, args.to, tasks, args.mask_padding)
    _say_what_is_there(args.to)


def run_collect(args: argparse.Namespace) -> None:
    """``pwm data collect``."""
    from pwm.datasets.behaviour import Term, parse_mixture
    from pwm.datasets.collection import Collection, collect, named_tasks

    given = read_settings(args.settings)
    policy, mix, checkpoint = (given.pop(key, None) for key in ("policy", "mix", "checkpoint"))
    if mix is not None and (policy, checkpoint) != (None, None):
        raise ConfigError("mix= says who acts; leave out policy= and checkpoint=")
    if (policy == "checkpoint") != (checkpoint is not None):
        raise ConfigError("policy=checkpoint and checkpoint=RUN belong together; name the run, or several")
    if mix is not None:
        mixture = parse_mixture(mix)
    elif checkpoint is not None:
        mixture = [Term(1.0, run.strip()) for run in checkpoint.split(",")]
    elif policy in (None, "random", "ou"):
        mixture = [Term(1.0, policy or "random")]
    else:
        raise ConfigError(f"policy={policy}; choose one of: random, ou, checkpoint")
    for key in ("tasks", "to"):
        if key not in given:
            raise ConfigError(f"{key}= is missing; for example tasks=mt30 policy=random to=data/random")
    folder = typed_path(given.pop("to"))
    wanted = Collection(named_tasks(given.pop("tasks")), tuple(mixture), **given)
    collect(wanted, folder, args.layout)
    if args.layout == "store":
        _say_what_is_there(folder)


SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "tasks": ("tasks", str),
    "to": ("to", str),
    "policy": ("policy", str),
    "mix": ("mix", str),
    "checkpoint": ("checkpoint", str),
    "which": ("which", str),
    "noise": ("noise", float),
    "episodes": ("episodes", int),
    "envs": ("copies", int),
    "seed": ("seed", int),
}


def read_settings(given: Sequence[str]) -> dict[str, Any]:
    """Return the values of ``pwm data collect`` by the names of ``Collection`` and of what goes into it.

    Raises:
        ConfigError: a key is unknown or given twice, or a value is not of its type.
    """
    values: dict[str, Any] = {}
    for setting in given:
        key, equals, text = setting.partition("=")
        if key not in SETTINGS or not equals or not text:
            raise ConfigError(f"{setting!r} is not KEY=VALUE with one of the keys {', '.join(SETTINGS)}")
        name, kind = SETTINGS[key]
        if name in values:
            raise ConfigError(f"{key}= is given twice")
        try:
            values[name] = kind(text)
        except ValueError as error:
            raise ConfigError(f"{setting}: {kind.__name__} expected") from error
    return values


def run_from_run(args: argparse.Namespace) -> None:
    """``pwm data from-run``."""
    from pwm.datasets.replay_export import export_replay

    export_replay(args.runs, args.to)
    _say_what_is_there(args.to)


def _say_what_is_there(folder: Path) -> None:
    from pwm.data.offline.verification import describe_store

    print(describe_store(folder))


def run_info(args: argparse.Namespace) -> None:
    """``pwm data info``."""
    from pwm.data.offline.verification import summarise_store

    if args.json:
        print_json(summarise_store(args.folder))
    else:
        _say_what_is_there(args.folder)


def run_create_manifest(args: argparse.Namespace) -> None:
    """``pwm data create-manifest``."""
    from pwm.data.dataset_verifier import DatasetVerifier
    from pwm.data.offline.manifest import is_store

    if is_store(args.folder):
        raise ConfigError(f"{args.folder} is a data set, which has a manifest of its own")
    verifier = DatasetVerifier(args.folder, jobs=args.jobs)
    path = verifier.create()
    print(f"{path}: {len(verifier.entries())} files, digest {verifier.digest}")


def run_verify(args: argparse.Namespace) -> None:
    """``pwm data verify``."""
    from pwm.data.dataset_verifier import DatasetVerifier
    from pwm.data.offline.manifest import is_store

    if is_store(args.folder):
        from pwm.data.offline.verification import verify_store

        verifier: DatasetVerifier = verify_store(args.folder, args.quick, args.jobs)
        compared = "names and sizes" if args.quick else "names, sizes, contents and every number"
    else:
        verifier = DatasetVerifier(args.folder, jobs=args.jobs)
        verifier.verify(quick=args.quick)
        compared = "names and sizes" if args.quick else "names, sizes and contents"
    print(f"{args.folder}: {compared} of {len(verifier.entries())} files are right, digest {verifier.digest}")
