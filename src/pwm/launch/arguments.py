"""Subcommands and types of command-line arguments."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def typed_path(text: str) -> Path:
    """A path as typed; ``~`` at its start is the home folder also where no shell has seen to it.

    Raises:
        ArgumentTypeError: it is empty, which as a path would be the working folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty; name a file or a folder")
    return Path(os.path.expanduser(text))


def add_parser(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    summary: str,
    description: str | None = None,
) -> argparse.ArgumentParser:
    """Add a subcommand and return its parser.

    Args:
        commands: of the parser above.
        name: of the subcommand.
        run: does it, and returns its exit code if that is not 0.
        summary: one line for the list of commands.
        description: for its own help, shown as it is.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_planner(parser: argparse.ArgumentParser) -> None:
    """Add the choice how evaluated agents act; the names are those of ``policy_evaluation``."""
    parser.add_argument(
        "--planner",
        choices=("none", "mppi"),
        default="none",
        help="evaluated agents act as their policy says (none), or plan in the world model (mppi)",
    )
