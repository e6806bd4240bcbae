"""Run folders written by hand: real files, known numbers."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pwm.configuration.config import ExperimentConfig, compose_config

STEPS = 100
SECONDS = 60.0
MANIFEST = {
    "git_commit": "0123456789abcdef",
    "python": "3.11.0",
    "versions": {"torch": "2.8.0"},
    "device": "Test CPU",
    "machine": "x86_64",
    "threads": 1,
}


@functools.cache
def configuration(task: str) -> ExperimentConfig:
    """Configuration of ``analytic_lqr`` or ``analytic_counting``."""
    return compose_config(["env=analytic", f"env.task={task.removeprefix('analytic_')}", "alg=pwm_small_h16"])


def write_run(
    logdir: Path,
    task: str,
    algorithm: str,
    seed: int,
    returns: Sequence[float],
    *,
    state: str = "finished",
    first_step: int = 0,
    seconds: float = SECONDS,
    zero_action: float | None = 10.0,
    more: Mapping[str, Sequence[float | None]] | None = None,
) -> Path:
    """Write a run with one evaluation per epoch; returns its folder.

    Epoch i is at environment step ``first_step + 100 i`` and second ``seconds * i``; ``more`` holds further
    metrics by name, one value per epoch from the first one that trains, null where it was not finite.
    """
    folder = logdir / task / algorithm / f"seed{seed}"
    folder.mkdir(parents=True)
    config = configuration(task)
    general = dataclasses.replace(config.general, seed=seed, name=algorithm, epochs=len(returns) - 1)
    (folder / "config.yaml").write_text(dataclasses.replace(config, general=general).to_yaml())
    (folder / "status.json").write_text(json.dumps({"state": state, "epoch": len(returns) - 1}))
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | {"task": task}))
    if zero_action is not None:
        (folder / "reference.json").write_text(json.dumps({"zero_action": zero_action}))
    records = [
        {
            "epoch": epoch,
            "env_steps": first_step + STEPS * epoch,
            "wall_time": seconds * epoch,
            "eval/episode_return": value,
            **({name: values[epoch - 1] for name, values in more.items()} if more and epoch else {}),
        }
        for epoch, value in enumerate(returns)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder
