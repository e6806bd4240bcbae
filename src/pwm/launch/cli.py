"""The ``pwm`` command; ``pwm --help`` lists what follows it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from pwm.errors import PwmError
from pwm.launch import compare, convert, diagnose, experiment, inspection, parity

TRAIN_HELP = """\
Train one agent. Overrides are key=value, for example:

  pwm train env=dflex_hopper alg=pwm_small_flow general.seed=1
  pwm train env=gym env.id=Pendulum-v1 alg=pwm_small general.epochs=100

The same command again continues an interrupted run. Groups: env, alg, dynamics, actor.
"""


def build_parser() -> argparse.ArgumentParser:
    """The argument parser with all subcommands."""
    parser = argparse.ArgumentParser(prog="pwm", description="Policy learning with world models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    train = commands.add_parser(
        "train",
        help="train one agent",
        description=TRAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("overrides", nargs="*", metavar="key=value")
    train.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser("evaluate", help="evaluate finished or running runs with real rewards")
    evaluate.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder or policy file")
    evaluate.add_argument("--checkpoint", choices=("best", "final"), default="best")
    evaluate.add_argument("--episodes", type=int, default=32)
    evaluate.add_argument("--seed", type=int, default=None, help="seed of the evaluation episodes")
    evaluate.add_argument("--device", default="cpu")
    evaluate.add_argument("--task", default=None, help="refuse checkpoints of any other task")
    evaluate.add_argument(
        "--output", type=Path, default=None, help="also write all results to this JSON file"
    )
    evaluate.add_argument(
        "--video",
        type=Path,
        default=None,
        metavar="FILE",
        help="film the first episode of one run into FILE.mp4 or FILE.gif",
    )
    evaluate.set_defaults(run=run_evaluate)

    experiment.add_command(commands)
    compare.add_command(commands)
    inspection.add_commands(commands)
    diagnose.add_command(commands)
    parity.add_command(commands)
    convert.add_command(commands)

    bench = commands.add_parser("bench", help="measure speed on this machine")
    bench.add_argument(
        "parts", nargs="*", help="env, replay, epoch, import, logging, esnr, save (default: all)"
    )
    bench.add_argument("--output", type=Path, default=None, help="also write the figures to this JSON file")
    bench.set_defaults(run=run_bench)
    return parser


def run_train(args: argparse.Namespace) -> int:
    """``pwm train``; returns the exit code."""
    from pwm.experiment.config import compose_config

    config = compose_config(args.overrides)
    if args.print_config:
        print(config.to_yaml(), end="")
        return 0
    from pwm.analysis.visualization import TrainingVisualizer
    from pwm.experiment import preemption
    from pwm.experiment.numbers import readable
    from pwm.experiment.run import train

    result = train(config)
    if result.outcome == "preempted":
        print(f"{result.folder} was preempted; the same command continues it")
        return preemption.EXIT_CODE
    if result.outcome == "already finished":
        print(f"{result.folder} is already finished; raise general.epochs to train it further")
    TrainingVisualizer(result.folder).generate_all_plots()
    print(
        f"best evaluated return {readable(result.best_return)} at epoch {result.best_epoch}: {result.folder}"
    )
    return 0


def run_evaluate(args: argparse.Namespace) -> None:
    """``pwm evaluate``."""
    from pwm.experiment.policy_evaluation import evaluate_runs

    # First: a machine that cannot draw says so before anything is evaluated.
    if args.video is not None:
        from pwm.analysis.video import film_run

        print(
            film_run(args.runs, args.checkpoint, args.video, args.episodes, args.seed, args.device, args.task)
        )
    print(
        evaluate_runs(
            args.runs, args.checkpoint, args.episodes, args.seed, args.device, args.task, args.output
        )
    )


def run_bench(args: argparse.Namespace) -> None:
    """``pwm bench``."""
    from pwm.launch.bench import run_benchmarks

    run_benchmarks(args.parts, args.output)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: the command's own, or 2 after an error a user can fix."""
    args = build_parser().parse_args(argv)
    # A warning is for the person who typed the command; file and line of its origin are not.
    warnings.formatwarning = lambda message, *_, **__: f"pwm: warning: {message}\n"
    try:
        return args.run(args) or 0
    except PwmError as error:
        print(f"pwm: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
