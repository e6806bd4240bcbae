"""Evaluate saved policies and show them beside what doing nothing and acting at random score."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pwm import files
from pwm.algorithm.agent import Agent
from pwm.algorithm.planning import Planner
from pwm.checkpoints.policies import load_policy
from pwm.checkpoints.policy_files import checkpoint_name, find_policy
from pwm.configuration.building import build_env, pick_device
from pwm.configuration.config import ExperimentConfig
from pwm.data.batch import Recorded
from pwm.envs.base import EnvSpec
from pwm.errors import CheckpointError, ConfigError, DataError
from pwm.numbers import aligned, readable
from pwm.training.evaluation import (
    EVAL_ENVS,
    EVALUATION_SEED,
    Evaluation,
    Policy,
    Recording,
    evaluate,
    reference_scores,
)

# Saved policies meet other episodes than the evaluations that chose the best of them.
HELD_OUT_SEED = 2 * EVALUATION_SEED
# An agent acts as its policy says; with the name of a planner it plans (``pwm.algorithm.planning``).
NO_PLANNER = "none"


def check_task(path: Path, spec: EnvSpec, task: str | None) -> None:
    """Raise CheckpointError if a task is named and the policy ``path`` belongs to another one."""
    if task is not None and spec.name != task:
        raise CheckpointError(f"{path} belongs to task {spec.name!r}, not to {task!r}")


def check_episodes(episodes: int) -> None:
    """Raise ConfigError unless there is something to evaluate."""
    if episodes < 1:
        raise ConfigError(f"episodes={episodes}; it must be at least 1")


def check_seed(seed: int) -> None:
    """Raise ConfigError for a seed that no random stream takes."""
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed={seed}; it must be at least 0 and below 2**64")


def evaluate_policy(
    path: Path, episodes: int, seed: int, device_name: str, task: str | None, planner: str = NO_PLANNER
) -> dict[str, Any]:
    """Real-reward evaluation of one policy file, with the task's reference scores.

    With a ``planner`` the agent does not act as its policy says, but plans in its world model at every step.
    Tasks that judge success add ``success``, the share of episodes that ended in it, and ``successes``.

    Raises:
        CheckpointError: missing or damaged file, or one of another task than ``task``.
    """
    device = pick_device(device_name)
    agent, config, spec, progress = load_policy(path, device)
    check_task(path, spec, task)
    env = build_env(config, min(EVAL_ENVS, episodes), seed, device)
    try:
        result = evaluate(env, _acting(agent, planner, seed), episodes, seed)
        reference = reference_scores(env, episodes, seed)
    finally:
        env.close()
    return {
        "policy": str(path),
        "policy_sha256": policy_digest(path),
        "checkpoint": checkpoint_name(path),
        "task": spec.name,
        "algorithm": config.preset,
        "name": config.run_name,
        "training_seed": config.general.seed,
        "evaluation_seed": seed,
        "planner": planner,
        "progress": progress,
        "reference": reference,
        **result.summary(),
    }


def _acting(agent: Agent, planner: str, seed: int) -> Policy:
    if planner == NO_PLANNER:
        return lambda obs: agent.act(obs, deterministic=True)
    return Planner(agent, seed % 2**63).act


def record_episodes(
    agent: Agent, config: ExperimentConfig, episodes: int, seed: int
) -> tuple[Recorded, Evaluation]:
    """Whole real episodes of the deterministic policy, on the agent's device, and their returns."""
    env = build_env(config, episodes, seed, agent.generator.device)
    recording = Recording()
    try:
        result = evaluate(env, lambda obs: agent.act(obs, deterministic=True), episodes, seed, recording)
    finally:
        env.close()
    return recording.stacked(), result


def policy_digest(path: Path) -> str:
    """SHA-256 of a policy file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def results_path(policy: Path, planner: str = NO_PLANNER) -> Path:
    """Return the file into which ``evaluate_policies`` puts the results of a policy file."""
    suffix = "" if planner == NO_PLANNER else f"_{planner}"
    return policy.with_name(f"evaluation_{policy.stem}{suffix}.json")


def held_out_evaluation(run: Path, which: str, episodes: int) -> dict[str, Any] | None:
    """Return the stored evaluation of a run's present policy in ``episodes`` held-out episodes, or None.

    It was stored by ``evaluate_policies``; those of another policy, seed or number of episodes do not count.

    Raises:
        CheckpointError: there is no such policy.
    """
    policy = find_policy(run, which)
    try:
        stored = files.read_object(results_path(policy))
    except DataError:
        return None
    wanted = {
        "policy_sha256": policy_digest(policy),
        "evaluation_seed": HELD_OUT_SEED,
        "episodes": episodes,
    }
    return None if any(stored.get(key) != value for key, value in wanted.items()) else stored


def held_out_returns(run: Path, which: str, episodes: int) -> list[float] | None:
    """Return the returns of ``held_out_evaluation``, or None.

    Raises:
        CheckpointError: there is no such policy.
    """
    stored = held_out_evaluation(run, which, episodes)
    return None if stored is None else [float(value) for value in stored["returns"]]


def evaluate_policies(
    policies: Sequence[Path],
    episodes: int,
    seed: int | None,
    device: str,
    task: str | None,
    planner: str = NO_PLANNER,
) -> list[dict[str, Any]]:
    """Evaluate every policy file, write ``evaluation_<name>.json`` beside each; see ``evaluate_policy``.

    Raises:
        ConfigError: no episode, or a seed that no random stream takes.
        CheckpointError: a file that is missing or damaged, or of another task than ``task``.
        StorageError: a file cannot be written.
    """
    check_episodes(episodes)
    seed = HELD_OUT_SEED if seed is None else seed
    check_seed(seed)
    # All files first: damage in the last one must not cost the work on the others.
    for path in policies:
        _, _, spec, _ = load_policy(path, torch.device("cpu"))
        check_task(path, spec, task)
        files.check_writable(path.parent)
    results = []
    for path in policies:
        results.append(evaluate_policy(path, episodes, seed, device, task, planner))
        files.write_json(results_path(path, planner), results[-1])
    return results


def table(results: Sequence[dict[str, Any]]) -> str:
    """Plain-text table of evaluation results; policies of the same name get their paths as a last column."""
    header = ["task", "algorithm", "seed", "checkpoint", "return", "+-", "length", "episodes"]
    header += ["zero action", "random"]
    rows = [
        [
            r["task"],
            r["name"],
            str(r["training_seed"]),
            r["checkpoint"],
            readable(r["mean"]),
            readable(r["std"]),
            f"{r['mean_length']:.0f}",
            str(r["episodes"]),
            readable(r["reference"]["zero_action"]),
            readable(r["reference"]["random_action"]),
        ]
        for r in results
    ]
    if any("success" in r for r in results):
        header.append("success")
        rows = [[*row, f"{r['success']:.2f}" if "success" in r else "-"] for row, r in zip(rows, results)]
    if len({tuple(row[:4]) for row in rows}) < len(rows):
        header.append("policy")
        rows = [[*row, r["policy"]] for row, r in zip(rows, results, strict=True)]
    return aligned(header, rows, words=("task", "algorithm", "checkpoint", "policy"))
