"""The ``pwm`` command; ``pwm --help`` lists what follows it."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from pwm import __version__
from pwm.errors import ConfigError, PwmError
from pwm.launch.arguments import add_overrides, add_parser, typed_path

# Modules of this room that add commands of their own, in the order of the help.
COMMANDS = (
    "multitask",
    "evaluate",
    "experiment",
    "submit",
    "compare",
    "inspection",
    "data",
    "diagnose",
    "convert",
    "doctor",
)
# Exit codes as shells give them to what SIGPIPE ended (nobody reads the output any more) and SIGINT did.
UNREAD = 141
INTERRUPTED = 130

# What a shell sets that asks how its line goes on; `eval "$(register-python-argcomplete pwm)"` teaches it to.
COMPLETION = "_ARGCOMPLETE"

TRAIN_HELP = """\
Train one agent. Overrides are key=value, for example:

  pwm train env=dflex_hopper alg=pwm_small_flow general.seed=1
  pwm train env=gym env.id=Pendulum-v1 alg=pwm_small general.epochs=100

The same command again continues an interrupted run. Groups: env, alg, dynamics, actor. The original's names
work, too: general=dflex_ant (env=), seed=42 (general.seed=), alg.flow_substeps=2, alg.use_flow_dynamics=true.

Text is taken as it is typed, whatever it looks like (general.name=2024_05_01, 'general.logdir=~/runs [a=b]'),
without quotes around it. Lists and mappings: alg.encoder_units=[256,256], 'env.kwargs={a: 1, b: "x"}'.
"""

BENCH_HELP = """\
Measure the speed of environments, replay, training epochs and more on this machine, each beside its target.

  pwm bench
  pwm bench env epoch --output speed.json
"""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the argument parser with all subcommands, or with ``train`` alone where that is the command.

    Training thus reads no module that it does not use.
    """
    parser = argparse.ArgumentParser(prog="pwm", description="Policy learning with world models.")
    parser.add_argument("--version", action="version", version=f"flow-pwm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    train = add_parser(commands, "train", run_train, "train one agent", TRAIN_HELP)
    add_overrides(train)
    train.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )

    if command == "train":
        return parser
    for name in COMMANDS:
        importlib.import_module(f"pwm.launch.{name}").add_commands(commands)

    bench = add_parser(commands, "bench", run_bench, "measure speed on this machine", BENCH_HELP)
    bench.add_argument(
        "parts", nargs="*", help="env, replay, epoch, import, logging, esnr, save (default: all)"
    )
    bench.add_argument("--output", type=typed_path, help="also write the figures to this JSON file")
    return parser


def run_train(args: argparse.Namespace) -> int:
    """``pwm train``; returns the exit code."""
    from pwm.configuration.config import compose_config
    from pwm.launch.training import run_configured

    return run_configured(compose_config(args.overrides), args.print_config, "evaluated return")


def run_bench(args: argparse.Namespace) -> None:
    """``pwm bench``."""
    from pwm.launch.bench import run_benchmarks

    run_benchmarks(args.parts, args.output)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return what was typed; overrides may stand before, between and after options.

    Raises:
        ConfigError: an override is written as an option.
    """
    parser = build_parser(argv[0] if argv else None)
    # A shell that completes a command line calls the command with this and takes what it answers.
    if COMPLETION in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    args, rest = parser.parse_known_args(argv)
    if not rest:
        return args
    if not hasattr(args, "overrides"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for option in rest:
        if option.startswith("-"):
            from pwm.configuration.overrides import option_advice

            raise ConfigError(option_advice(option, argv[argv.index(option) + 1 :]))
    args.overrides += rest
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point.

    Returns:
        The command's exit code, 2 after an error a user can fix, ``UNREAD`` or ``INTERRUPTED``.
    """
    # A warning is for the person who typed the command; file and line of its origin are not.
    warnings.formatwarning = lambda message, *_, **__: f"pwm: warning: {message}\n"
    try:
        args = parse_arguments(list(sys.argv[1:] if argv is None else argv))
        code = args.run(args) or 0
        # A command that was started with its output closed has none.
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output (`head`, a pager) has seen enough.
        _drop_output()
        return UNREAD
    except KeyboardInterrupt:
        print("pwm: interrupted", file=sys.stderr)
        return INTERRUPTED
    except PwmError as error:
        print(f"pwm: {error}", file=sys.stderr)
    except OSError as error:
        # Without a name it is no matter of a file that the user could mend, unless output fills the disk.
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        if error.filename is None:
            _drop_output()
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"pwm: {where}{error.strerror}", file=sys.stderr)
    return 2


def _drop_output() -> None:
    """Send what is left to flush nowhere: Python would try it once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
