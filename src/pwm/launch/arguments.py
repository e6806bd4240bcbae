"""Subcommands and types of command-line arguments."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pwm.configuration.overrides import preset_names
from pwm.errors import ConfigError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
# Groups of the configuration that a training command chooses from.
GROUPS = ("env", "alg", "dynamics", "actor")


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


def add_overrides(parser: argparse.ArgumentParser, nargs: str = "*", groups: Sequence[str] = GROUPS) -> None:
    """Add the overrides ``KEY=VALUE``, which a shell can complete.

    Args:
        parser: of the subcommand.
        nargs: how many there must be, as ``argparse`` writes it.
        groups: configuration groups that can be chosen from.
    """

    def complete(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        return complete_override(prefix, getattr(parsed_args, "overrides", None) or [], groups)

    action = parser.add_argument("overrides", nargs=nargs, metavar="KEY=VALUE")
    action.completer = complete  # type: ignore[attr-defined]


def complete_override(prefix: str, typed: Iterable[str], groups: Sequence[str] = GROUPS) -> list[str]:
    """Return the overrides that begin with ``prefix``: choices of a group, or keys with their ``=``.

    Args:
        prefix: what is typed of the override.
        typed: overrides before it. The keys are those of the configuration that they choose.
        groups: configuration groups that can be chosen from.
    """
    choices = [f"{group}={name}" for group in groups for name in preset_names(group)]
    found = [choice for choice in choices if choice.startswith(prefix)]
    # Composing the configuration takes a second or two, which is too long where nothing needs it.
    if "." not in prefix:
        sections = ("general.", "alg.", "env.", "wandb.")
        return found + [section for section in sections if section.startswith(prefix)]
    from pwm.configuration.config import compose_config, flatten

    try:
        values = compose_config([word for word in typed if word.partition("=")[0] in GROUPS]).to_dict()
    except ConfigError:
        values = compose_config([]).to_dict()
    return found + [f"{key}=" for key in flatten(values) if key.startswith(prefix)]


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``: the command prints its findings as JSON instead of text."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON instead of text")


def print_json(findings: Any) -> None:
    """Print what a command has found as JSON, indented."""
    print(json.dumps(findings, indent=2))


def add_planner(parser: argparse.ArgumentParser) -> None:
    """Add the choice how evaluated agents act; the names are those of ``policy_evaluation``."""
    parser.add_argument(
        "--planner",
        choices=("none", "mppi"),
        default="none",
        help="evaluated agents act as their policy says (none), or plan in the world model (mppi)",
    )
