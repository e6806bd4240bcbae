"""``pwm pretrain``: a world model of many tasks, or of one, from a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pwm.launch.arguments import Commands, add_parser

HELP = """\
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


def add_commands(commands: Commands) -> None:
    """Add ``pretrain`` to the parser's subcommands."""
    parser = add_parser(commands, "pretrain", run_pretrain, "train a world model on a data set", HELP)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )


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
