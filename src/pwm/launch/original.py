"""The original's multi-task script, whose command line names configurations as files."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pwm.errors import ConfigError
from pwm.launch.cli import main

CONFIGS = {"config_mt30": "mt30", "config_mt80": "mt80"}
KEYS = {"general.data_dir": "data", "general.checkpoint": "checkpoint"}
OPTION = "--config-name"


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
    return main(arguments)
