"""Speed of the dm_control tasks, and how far the batched ones deviate from the suite.

    python benchmarks/dmc_speed.py
    python benchmarks/dmc_speed.py --tasks walker-walk cup-spin --seconds 5

For every task: agent steps per second of processor time, of 64 copies together on ``mujoco.rollout`` and of
one copy in the suite itself, both with random actions on one thread (the median of turns that alternate, so
that other programs slow both); and the largest difference between the two in float64, over control steps
from the same start states, actions and solver warm starts (none). Written to ``results/dmc/speed.csv`` with
the commit and the command; the ratio is what carries over to other machines.
"""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pwm.envs import dmc
from pwm.envs.base import VectorEnv
from pwm.envs.dmc.oracle import flat
from pwm.envs.dmc.physics import REPEAT, Physics
from pwm.envs.dmc.suite_tasks import load
from pwm.envs.dmc.tasks import load_task
from pwm.envs.task_table import task_names
from pwm.files import write_text
from pwm.runs.provenance import git_commit

RESULT = Path(__file__).parents[1] / "results" / "dmc" / "speed.csv"
COPIES = 64
SECONDS = 0.5
TURNS = 3
STEPS = 200
COMPARED_COPIES = 2


def place(suite_env: Any, task: str, qpos: np.ndarray, qvel: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Begin an episode of the suite in a given state; returns its first observation [obs_dim] float64."""
    suite_env.reset()
    physics = suite_env.physics
    load_task(task).place_target(physics.model.ptr, target)
    with physics.reset_context():
        physics.data.qpos[:], physics.data.qvel[:] = qpos, qvel
    return flat(suite_env.task.get_observation(physics))


def largest_deviation(task: str, steps: int = STEPS, seed: int = 0) -> dict[str, float]:
    """Largest difference of batched observations and rewards from the suite's, in float64.

    Both begin in the same states and take the same random actions; from then on neither is told the
    other's state. The suite's solver warm start is cleared before each of the ``steps`` agent steps, as the
    batched one is; observations and rewards after every control step are compared.
    """
    record = load_task(task)
    physics = Physics(record.recipe, COMPARED_COPIES, 1)
    generator = torch.Generator().manual_seed(seed)
    qpos, qvel, target = start = record.start(physics, generator, COMPARED_COPIES)
    first = record.observe(physics.look(*start)).numpy()
    copies = [load(task, seed=0) for _ in range(COMPARED_COPIES)]
    found = {"first_observation": 0.0, "observation": 0.0, "reward": 0.0}

    def note(key: str, mine: np.ndarray, theirs: np.ndarray) -> None:
        found[key] = max(found[key], float(np.abs(mine - theirs).max()))

    for i, copy in enumerate(copies):
        state = (value[i].numpy() for value in start)
        note("first_observation", first[i], place(copy, task, *state))
    for _ in range(steps):
        ctrl = 2.0 * torch.rand(COMPARED_COPIES, physics.nu, generator=generator, dtype=torch.float64) - 1.0
        moments = physics.step(qpos, qvel, ctrl, target)
        observed, reward = record.observe(moments).numpy(), record.reward(moments).numpy()
        for i, copy in enumerate(copies):
            copy.physics.data.qacc_warmstart[:] = 0.0
            for k in range(REPEAT):
                result = copy.step(ctrl[i].numpy())
                note("observation", observed[REPEAT * i + k], flat(result.observation))
                note("reward", reward[REPEAT * i + k], np.asarray(result.reward))
        end = moments.every_second()
        qpos, qvel = end.qpos, end.qvel
    physics.close()
    return found


def steps_per_second(env: VectorEnv, seconds: float) -> float:
    """Agent steps of all copies per second of processor time, with random actions."""
    generator = torch.Generator().manual_seed(0)
    actions = 2.0 * torch.rand(16, env.num_envs, env.spec.act_dim, generator=generator) - 1.0
    for action in actions:
        env.step(action)
    count, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        env.step(actions[count % len(actions)])
        count += 1
    return count * env.num_envs / spent


def measure(task: str, seconds: float) -> dict[str, str | int]:
    """One row of the table."""
    batched = dmc.build(dmc.Options(task, "rollout", num_threads=1), COPIES, "cpu", 0)
    suite = dmc.build(dmc.Options(task, "dm_control"), 1, "cpu", 0)
    turns = [[steps_per_second(env, seconds) for env in (batched, suite)] for _ in range(TURNS)]
    ours, its = (statistics.median(rates) for rates in zip(*turns))
    batched.close()
    suite.close()
    deviation = largest_deviation(task)
    return {
        "task": task,
        "copies": COPIES,
        "batched_steps_per_cpu_second": round(ours),
        "suite_steps_per_cpu_second": round(its),
        "ratio": f"{ours / its:.1f}",
        "compared_steps": STEPS,
        **{f"deviation_{key}": f"{value:.1e}" for key, value in deviation.items()},
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=task_names("dm_control"))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of every turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    command = shlex.join(["python", "benchmarks/dmc_speed.py", *sys.argv[1:]])
    origin = {"commit": git_commit(), "command": command}
    rows = []
    for task in args.tasks:
        rows.append(measure(task, args.seconds) | origin)
        print(*rows[-1].values(), flush=True)
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    RESULT.parent.mkdir(exist_ok=True)
    write_text(RESULT, text.getvalue())


if __name__ == "__main__":
    main()
