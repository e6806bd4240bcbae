"""Commands that look at what exists: ``pwm imagine | diff | plot``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pwm.errors import ConfigError
from pwm.launch.arguments import Commands, add_parser, typed_path

DIFF_HELP = """\
Show in what two runs differ: configuration, commit, library versions, device, threads, parameter counts.

Exit code 0: the same identity (every value that decides the results); 1: another identity; 2: an error.
"""


def add_commands(commands: Commands) -> None:
    """Add the commands of this module to the parser's subcommands."""
    imagine = add_parser(
        commands,
        "imagine",
        run_imagine,
        "draw the world model's imagination beside the episodes that really happened",
    )
    imagine.add_argument("run_or_policy", type=typed_path, metavar="RUN", help="run folder or policy file")
    imagine.add_argument("--checkpoint", choices=("best", "final"), default="best")
    imagine.add_argument("--steps", type=int, default=64, help="steps to imagine")
    imagine.add_argument("--episodes", type=int, default=16, help="held-out episodes to record")
    imagine.add_argument(
        "--output",
        type=typed_path,
        default=None,
        metavar="PNG",
        help="default: imagination.png in the run folder",
    )

    diff = add_parser(commands, "diff", run_diff, "show in what two runs differ", DIFF_HELP)
    diff.add_argument("a", type=typed_path, metavar="RUN_A", help="run folder or config.yaml")
    diff.add_argument("b", type=typed_path, metavar="RUN_B", help="run folder or config.yaml")

    plot = add_parser(commands, "plot", run_plot, "draw the pictures of finished or running runs again")
    plot.add_argument("runs", nargs="*", metavar="RUN", help="run folder or quoted pattern")
    plot.add_argument(
        "--log-dir", nargs="+", default=[], metavar="RUN", help="the same, as the original script names it"
    )


def run_imagine(args: argparse.Namespace) -> None:
    """``pwm imagine``."""
    from pwm.analysis.model_quality.imagination import imagine_run

    print(imagine_run(args.run_or_policy, args.checkpoint, args.steps, args.episodes, args.output))


def run_diff(args: argparse.Namespace) -> int:
    """``pwm diff``; returns the exit code."""
    from pwm.runs.run_diff import compare_descriptions, difference_in_words, read_description

    a, b = read_description(args.a), read_description(args.b)
    difference = compare_descriptions(a, b)
    print(difference_in_words(a, b, difference))
    return 1 if difference.identity else 0


def run_plot(args: argparse.Namespace) -> None:
    """``pwm plot``."""
    from pwm.analysis.plots.visualization import TrainingVisualizer
    from pwm.checkpoints.run_search import expand

    given = [*args.runs, *args.log_dir]
    runs = [run for text in given for run in expand(text) or [Path(text)]]
    if not runs:
        raise ConfigError("name a run folder, for example logs/dflex_hopper/pwm_small/seed42")
    # Read all runs first: a typo in the last name must not be found after the work on the others.
    for visualizer in [TrainingVisualizer(run) for run in runs]:
        for path in visualizer.generate_all_plots():
            print(path)
