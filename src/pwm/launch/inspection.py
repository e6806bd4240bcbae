"""Commands that look at what exists: ``pwm imagine | diff | plot | board``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from pwm.errors import ConfigError
from pwm.launch.arguments import Commands, add_json, add_parser, print_json, typed_path

IMAGINE_HELP = """\
Draw real and imagined observations, rewards and the latent error along the actions of held-out episodes.

  pwm imagine logs/dflex_hopper/pwm_small_flow/seed1
  pwm imagine logs/dflex_hopper/pwm_small_flow/seed1/final_policy.pt --steps 32 --output hopper.png
"""

PLOT_HELP = """\
Draw the pictures of runs from their metrics alone; unfinished runs have them, too.

  pwm plot logs/dflex_hopper/pwm_small/seed1
  pwm plot 'logs/**/seed*'
"""

DIFF_HELP = """\
Show in what two runs differ: configuration, commit, library versions, device, threads, parameter counts.

  pwm diff logs/dflex_hopper/pwm_small/seed1 logs/dflex_hopper/pwm_small_flow/seed1
  pwm diff mine/config.yaml theirs/config.yaml --json

Exit code 0: the same identity (every value that decides the results); 1: another identity; 2: an error.
"""

BOARD_HELP = """\
Show all runs below a folder in a browser: state, curves, films, pictures, diagnosis, reports.

  pwm board logs
  pwm board logs --write board      static files instead: board/index.html

The page is made from the files whenever it is asked for, loads nothing from elsewhere, and can be reached
from this machine alone (from another one: ssh -L 8000:127.0.0.1:8000 MACHINE).
"""


def add_commands(commands: Commands) -> None:
    """Add the commands of this module to the parser's subcommands."""
    imagine = add_parser(
        commands,
        "imagine",
        run_imagine,
        "draw the world model's imagination beside the episodes that really happened",
        IMAGINE_HELP,
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

    add_json(diff)

    plot = add_parser(
        commands, "plot", run_plot, "draw the pictures of finished or running runs again", PLOT_HELP
    )
    plot.add_argument("runs", nargs="*", metavar="RUN", help="run folder or quoted pattern")
    plot.add_argument(
        "--log-dir", nargs="+", default=[], metavar="RUN", help="the same, as the original script names it"
    )

    board = add_parser(commands, "board", run_board, "show all runs on a page of this machine", BOARD_HELP)
    board.add_argument("logs", nargs="?", type=typed_path, default=Path("logs"), metavar="LOGS")
    board.add_argument(
        "--port", type=int, default=8000, help="of the page (default 8000; 0: any that is free)"
    )
    board.add_argument("--write", type=typed_path, metavar="FOLDER", help="write static files and stop")


def run_board(args: argparse.Namespace) -> None:
    """``pwm board``."""
    from pwm.board.pages import Board
    from pwm.board.server import HOST, make_server

    board = Board(args.logs, live=args.write is None)
    if args.write is not None:
        print(board.write(args.write))
        return
    # A folder without runs is told of here, and not in the browser.
    board.runs()
    with make_server(board, args.port) as server:
        print(f"http://{HOST}:{server.server_port} shows {args.logs}; Ctrl-C ends it", flush=True)
        server.serve_forever()


def run_imagine(args: argparse.Namespace) -> None:
    """``pwm imagine``."""
    from pwm.analysis.model_quality.imagination import imagine_run

    print(imagine_run(args.run_or_policy, args.checkpoint, args.steps, args.episodes, args.output))


def run_diff(args: argparse.Namespace) -> int:
    """``pwm diff``; returns the exit code."""
    from pwm.runs.run_diff import compare_descriptions, difference_in_words, read_description

    a, b = read_description(args.a), read_description(args.b)
    difference = compare_descriptions(a, b)
    if args.json:
        print_json(dataclasses.asdict(difference))
    else:
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
