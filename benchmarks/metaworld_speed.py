"""Speed of the Meta-World tasks, and what random actions and the package's scripted policies reach in them.

    python benchmarks/metaworld_speed.py
    python benchmarks/metaworld_speed.py --tasks mw-reach mw-push --episodes 20

For every task, of one copy on one thread: agent steps per second of processor time with random actions,
resets included; mean return and share of successes of random actions and of the policy that Meta-World wrote
for the task, over whole episodes from the same seeds. The scripted policies are no upper bound: they were
written for one action per simulator step, and get as many steps as an agent. Written to
``results/metaworld/speed.csv`` with the commit, task by task; what was interrupted is continued.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from metaworld.policies import ENV_POLICY_MAP

from pwm.envs import metaworld
from pwm.envs.base import VectorEnv, successes_of
from pwm.envs.task_table import task_names, task_row
from pwm.files import write_text
from pwm.runs.provenance import git_commit

RESULT = Path(__file__).parents[1] / "results" / "metaworld" / "speed.csv"
EPISODES = 3


def play(
    env: VectorEnv, act: Callable[[torch.Tensor], torch.Tensor], episodes: int
) -> tuple[float, float, float]:
    """Play whole episodes with one copy; returns mean return, share of successes, steps per CPU second."""
    begun, steps, total = time.process_time(), 0, 0.0
    for episode in range(episodes):
        obs, running = env.reset(episode), True
        while running:
            result = env.step(act(obs))
            total += float(result.reward)
            steps += 1
            running, obs = not bool(result.truncated), result.obs
    spent = time.process_time() - begun
    successes = successes_of(env, episodes)
    assert len(successes) == episodes, f"{env.spec.name} did not judge every episode"
    return total / episodes, sum(successes) / episodes, steps / spent


def scripted(task: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The package's own policy of a task."""
    policy = ENV_POLICY_MAP[f"{task_row(task).task}-v3"]()

    def act(obs: torch.Tensor) -> torch.Tensor:
        action = policy.get_action(obs[0].numpy().astype(np.float64))
        return torch.from_numpy(np.clip(action, -1.0, 1.0).astype(np.float32)).unsqueeze(0)

    return act


def measure(task: str, episodes: int) -> dict[str, str]:
    """One row of the table."""
    generator = torch.Generator().manual_seed(0)
    row = task_row(task)

    def uniform(obs: torch.Tensor) -> torch.Tensor:
        return 2.0 * torch.rand(1, row.action_dim, generator=generator) - 1.0

    env = metaworld.build(metaworld.Options(task), 1, "cpu", 0)
    random_return, random_success, speed = play(env, uniform, episodes)
    scripted_return, scripted_success, _ = play(env, scripted(task), episodes)
    env.close()
    return {
        "task": task,
        "obs_dim": str(row.obs_dim),
        "action_dim": str(row.action_dim),
        "steps_per_cpu_second": str(round(speed)),
        "episodes": str(episodes),
        "random_return": f"{random_return:.1f}",
        "random_success": f"{random_success:.2f}",
        "scripted_return": f"{scripted_return:.1f}",
        "scripted_success": f"{scripted_success:.2f}",
    }


def stored() -> dict[str, dict[str, str]]:
    """Rows of the table by their tasks."""
    if not RESULT.exists():
        return {}
    with RESULT.open(newline="") as file:
        return {row["task"]: row for row in csv.DictReader(file)}


def store(row: dict[str, str]) -> None:
    """Put a row into the table, in place of an older one of the same task."""
    found = stored() | {row["task"]: row}
    text = io.StringIO()
    table = csv.DictWriter(text, row, lineterminator="\n")
    table.writeheader()
    table.writerows(found[task] for task in task_names("metaworld") if task in found)
    RESULT.parent.mkdir(exist_ok=True)
    write_text(RESULT, text.getvalue())


def main() -> None:
    """Measure what is missing in the table, or the tasks that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", help="measure these, again if need be")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of every task and policy")
    args = parser.parse_args()
    torch.set_num_threads(1)
    commit, done = git_commit(), stored()
    for task in args.tasks or [name for name in task_names("metaworld") if name not in done]:
        row = measure(task, args.episodes) | {"commit": commit}
        print(*row.values(), flush=True)
        store(row)


if __name__ == "__main__":
    main()
