"""What doing nothing and acting at random score on a task: the floor every result is compared with.

Scores of the shipped tasks are stored in ``pwm/envs/reference_scores.json`` (made by
``benchmarks/reference_scores.py``); for any other environment or option they are measured on the spot.
"""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any

from pwm.configuration.config import ExperimentConfig
from pwm.envs.base import VectorEnv
from pwm.files import write_json
from pwm.training.evaluation import reference_scores
from pwm.training.hooks import SafePoint, go_on

# Options that change how fast an environment runs, not what it returns.
SPEED_OPTIONS = ("num_threads",)
EPISODES = 16


def env_options(config: ExperimentConfig) -> dict[str, Any]:
    """The environment's options that decide its returns, with what disturbs it."""
    options = {**dataclasses.asdict(config.env), **config.disturbance.values}
    return {"name": config.env_name} | {k: v for k, v in options.items() if k not in SPEED_OPTIONS}


def stored_scores(config: ExperimentConfig) -> dict[str, float] | None:
    """``zero_action`` and ``random_action`` returns stored for exactly these options, or None."""
    table = json.loads(resources.files("pwm.envs").joinpath("reference_scores.json").read_text())
    for entry in table["scores"]:
        if entry["options"] == env_options(config):
            return {key: entry[key] for key in ("zero_action", "random_action")}
    return None


def scores(config: ExperimentConfig, env: VectorEnv, safe_point: SafePoint = go_on) -> dict[str, float]:
    """Stored scores of the configured environment, or ones measured with ``env`` (which is reset)."""
    return stored_scores(config) or reference_scores(env, EPISODES, safe_point=safe_point)


def provide(folder: Path, config: ExperimentConfig, env: VectorEnv, safe_point: SafePoint) -> None:
    """Write ``reference.json`` into a run folder, unless an earlier sitting of the same run did."""
    path = folder / "reference.json"
    # Written whole or not at all; only a forced change can have altered the environment since.
    if not path.exists() or config.general.resume == "force":
        write_json(path, scores(config, env, safe_point))
