"""Measure the zero-action and random-action returns of the shipped tasks and store them with the package.

python benchmarks/reference_scores.py

The tasks of dm_control need the extra ``dmc``.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pwm.configuration.building import build_env
from pwm.configuration.config import compose_config
from pwm.envs.task_table import task_names
from pwm.runs.reference import env_options
from pwm.training.evaluation import EVALUATION_SEED, evaluate, random_policy, zero_policy

EPISODES = 64
TABLE = Path(__file__).parents[1] / "src" / "pwm" / "envs" / "reference_scores.json"
OVERRIDES = (
    *(f"env=dflex_{task}" for task in ("cartpole", "double_pendulum", "hopper", "ant", "anymal", "humanoid")),
    "env=gym env.id=Pendulum-v1",
    *(f"env=dmc env.task={task}" for task in task_names("dm_control")),
)


def main() -> None:
    """Write the table."""
    scores = []
    for overrides in OVERRIDES:
        config = compose_config(overrides.split())
        env = build_env(config, EPISODES, EVALUATION_SEED, torch.device("cpu"))
        act_dim = env.spec.act_dim
        zero = evaluate(env, zero_policy(act_dim), EPISODES)
        random = evaluate(env, random_policy(act_dim), EPISODES)
        env.close()
        scores.append(
            {
                "task": env.spec.name,
                "options": env_options(config),
                "zero_action": round(zero.mean, 1),
                "zero_action_length": zero.mean_length,
                "random_action": round(random.mean, 1),
                "random_action_length": random.mean_length,
            }
        )
        print(scores[-1])
    content = {"episodes": EPISODES, "seed": EVALUATION_SEED, "scores": scores}
    TABLE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
