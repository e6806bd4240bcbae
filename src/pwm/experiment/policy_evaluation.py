"""Evaluate saved policies and show them beside what doing nothing and acting at random score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pwm.envs.base import EnvSpec
from pwm.errors import CheckpointError, ConfigError
from pwm.experiment import checkpoints
from pwm.experiment.numbers import readable
from pwm.experiment.policies import load_policy
from pwm.experiment.run import EVAL_ENVS, build_env, pick_device
from pwm.training.evaluation import EVALUATION_SEED, evaluate, reference_scores

# Saved policies meet other episodes than the evaluations that chose the best of them.
HELD_OUT_SEED = 2 * EVALUATION_SEED
CHECKPOINTS = ("best", "final")


def find_policy(run: Path, which: str) -> Path:
    """Policy file of ``run``, which is a run folder or the file itself.

    Raises:
        CheckpointError: there is none; the message lists what the folder holds.
    """
    if run.is_file():
        return run
    path = run / f"{which}_policy.pt"
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in run.glob("*.pt"))) if run.is_dir() else "no such folder"
        raise CheckpointError(f"{run} has no {path.name} ({found or 'no checkpoints'})")
    return path


def check_task(path: Path, spec: EnvSpec, task: str | None) -> None:
    """Raise CheckpointError if a task is named and the policy ``path`` belongs to another one."""
    if task is not None and spec.name != task:
        raise CheckpointError(f"{path} belongs to task {spec.name!r}, not to {task!r}")


def check_episodes(episodes: int) -> None:
    """Raise ConfigError unless there is something to evaluate."""
    if episodes < 1:
        raise ConfigError(f"episodes={episodes}; it must be at least 1")


def evaluate_policy(
    path: Path, episodes: int, seed: int, device_name: str, task: str | None
) -> dict[str, Any]:
    """Real-reward evaluation of one policy file, with the task's reference scores.

    Raises:
        CheckpointError: missing or damaged file, or one of another task than ``task``.
    """
    device = pick_device(device_name)
    agent, config, spec, progress = load_policy(path, device)
    check_task(path, spec, task)
    env = build_env(config, min(EVAL_ENVS, episodes), seed, device)
    try:
        result = evaluate(env, lambda obs: agent.act(obs, deterministic=True), episodes, seed)
        reference = reference_scores(env, episodes, seed)
    finally:
        env.close()
    return {
        "policy": str(path),
        "policy_sha256": policy_digest(path),
        "task": spec.name,
        "algorithm": config.preset,
        "training_seed": config.general.seed,
        "evaluation_seed": seed,
        "progress": progress,
        "reference": reference,
        **result.summary(),
    }


def policy_digest(path: Path) -> str:
    """SHA-256 of a policy file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def results_path(policy: Path) -> Path:
    """Where ``evaluate_runs`` puts the results of a policy file."""
    return policy.with_name(f"evaluation_{policy.stem}.json")


def held_out_returns(run: Path, which: str, episodes: int) -> list[float] | None:
    """Stored returns of ``episodes`` held-out episodes of the policy that is in the run folder now, or None.

    They were stored by ``evaluate_runs``; those of another policy, seed or number of episodes do not count.

    Raises:
        CheckpointError: there is no such policy.
    """
    policy = find_policy(run, which)
    try:
        stored = json.loads(results_path(policy).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    wanted = {
        "policy_sha256": policy_digest(policy),
        "evaluation_seed": HELD_OUT_SEED,
        "episodes": episodes,
    }
    if any(stored.get(key) != value for key, value in wanted.items()):
        return None
    return [float(value) for value in stored["returns"]]


def evaluate_runs(
    runs: Sequence[Path],
    which: str,
    episodes: int,
    seed: int | None,
    device: str,
    task: str | None,
    output: Path | None,
) -> str:
    """Evaluate every run, write ``evaluation_<which>.json`` beside each policy, return a table."""
    check_episodes(episodes)
    # Find all files first: a typo in the last name must not cost the work on the others.
    paths = [find_policy(run, which) for run in runs]
    seed = HELD_OUT_SEED if seed is None else seed
    results = []
    for path in paths:
        results.append(evaluate_policy(path, episodes, seed, device, task))
        checkpoints.write_json(results_path(path), results[-1])
    if output is not None:
        checkpoints.write_text(output, json.dumps(results, indent=2) + "\n")
    return table(results)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Plain-text table of evaluation results."""
    header = ("task", "algorithm", "seed", "return", "+-", "length", "episodes", "zero action", "random")
    rows = [
        (
            r["task"],
            r["algorithm"],
            str(r["training_seed"]),
            readable(r["mean"]),
            readable(r["std"]),
            f"{r['mean_length']:.0f}",
            str(r["episodes"]),
            readable(r["reference"]["zero_action"]),
            readable(r["reference"]["random_action"]),
        )
        for r in results
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(w) if i > 1 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    return "\n".join(lines)
