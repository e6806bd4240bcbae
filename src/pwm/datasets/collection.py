"""Collecting data sets in the environments of the task table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pwm import components
from pwm.data.offline.audit import check_block
from pwm.data.offline.layout import Block, Layout, pack, set_layout, set_of
from pwm.data.offline.writer import writing
from pwm.datasets.behaviour import NOISE, Actor, Policy, PolicyFiles, Term, divide, make_policy
from pwm.datasets.published import write_published
from pwm.envs.base import VectorEnv
from pwm.envs.task_table import TaskRow, task_row, task_set
from pwm.errors import ConfigError, EnvError
from pwm.files import locked, read_object, write_json

# Steps in memory at once: one part of the plan, and one shard or file.
PART_STEPS = 1 << 21
PLAN = "collection.json"
LAYOUTS = ("store", "published")


@dataclass(frozen=True)
class Collection:
    """What is to be collected.

    Attributes:
        tasks: rows of the table.
        mixture: who acts.
        episodes: of every task.
        which: of the runs in the mixture: ``best``, ``final`` or ``all`` policies.
        noise: see ``make_policy``.
        copies: environments that run together.
        seed: of all randomness.

    Raises:
        ConfigError: a value is not allowed.
    """

    tasks: tuple[TaskRow, ...]
    mixture: tuple[Term, ...]
    episodes: int = 100
    which: str = "best"
    noise: float | None = None
    copies: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for key, value, least in (("episodes", self.episodes, 1), ("envs", self.copies, 1)):
            if value < least:
                raise ConfigError(f"{key}={value}; it must be at least {least}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed}; it must be at least 0 and below 2**63")
        if self.noise is not None and not 0 <= self.noise < float("inf"):
            raise ConfigError(f"noise={self.noise}; it must be at least 0")


def named_tasks(text: str) -> tuple[TaskRow, ...]:
    """Return the tasks of a set, or those of a list with commas.

    Raises:
        ConfigError: there is no such set or task.
    """
    if text in ("mt30", "mt80"):
        return task_set(text).rows
    return tuple(dict.fromkeys(task_row(name.strip()) for name in text.split(",")))


def collect(
    wanted: Collection, folder: Path, layout: str = "store", say: Callable[[str], None] = print
) -> None:
    """Run the episodes and write them; an interrupted collection continues with the part it was at.

    Args:
        wanted: what is to be collected.
        folder: new, empty, or what the same collection left.
        layout: ``store``, or ``published`` for files as TD-MPC2's are published, see ``write_published``.
        say: is told of every part.

    Raises:
        ConfigError: a policy of another task, a folder that holds something else, or a package that runs some
            of the tasks is not installed; it is asked for before anything is written.
        CheckpointError: a policy is missing or damaged.
        EnvError: a package does not run, or a policy makes the simulation diverge again and again.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout={layout!r}; choose one of: {', '.join(LAYOUTS)}")
    target = set_layout(set_of(wanted.tasks).name)
    plan, actors = _plan(wanted)
    for row in {row.suite: row for row in wanted.tasks}.values():
        _build(row, 1, 0).close()

    def run(number: int) -> Block:
        part = plan[number]
        who = f"{part['episodes']} episodes of {part['task']}, {part['policy']}"
        say(f"part {number + 1} of {len(plan)}: {who}")
        return _part(part, actors[number], target)

    if layout == "store":
        provenance = {"made_by": "pwm data collect", "seed": wanted.seed}
        with writing(folder, target, plan, provenance) as writer:
            for number in list(writer.missing):
                writer.write(number, [run(number)], plan[number]["task"])
        return
    with _published(folder, plan) as missing:
        for number, path in missing:
            block = run(number)
            check_block(target, block, plan[number]["task"])
            write_published(path, block, target)


@contextlib.contextmanager
def _published(folder: Path, plan: list[dict[str, Any]]) -> Iterator[list[tuple[int, Path]]]:
    """Lock ``folder`` and yield the numbers and paths of the files of ``plan`` that are missing in it."""
    path = folder / PLAN
    if folder.exists() and not path.exists() and any(p.name != ".lock" for p in folder.iterdir()):
        raise ConfigError(f"{folder} holds other files; name a new folder")
    with locked(folder, "folder"):
        if not path.exists():
            write_json(path, {"plan": plan})
        if read_object(path) != {"plan": plan}:
            raise ConfigError(f"{folder} holds files made from something else; name a new folder")
        files = [(number, folder / f"chunk_{number}.pt") for number in range(len(plan))]
        yield [(number, file) for number, file in files if not file.exists()]


def _plan(wanted: Collection) -> tuple[list[dict[str, Any]], list[Actor]]:
    """What every part is made from, as JSON values, and who acts in it."""
    policies = PolicyFiles(wanted.which)
    plan: list[dict[str, Any]] = []
    actors: list[Actor] = []
    for row in wanted.tasks:
        shares = divide(wanted.episodes, [term.weight for term in wanted.mixture])
        for term, share in zip(wanted.mixture, shares, strict=True):
            noise = term.source in NOISE
            members = [Actor(term.source)] if noise else policies.of(term.source, row.env_name)
            for actor, count in zip(members, divide(share, [1.0] * len(members)), strict=True):
                for size in _pieces(count, PART_STEPS // (row.episode_length + 1)):
                    sequence = np.random.SeedSequence(wanted.seed, spawn_key=(len(plan),))
                    plan.append(
                        {
                            "task": row.name,
                            "policy": actor.name,
                            "policy_sha256": actor.sha256,
                            "noise": None if noise else wanted.noise,
                            "episodes": size,
                            "copies": min(wanted.copies, size),
                            "seed": int(sequence.generate_state(1, np.uint64)[0]) >> 2,
                        }
                    )
                    actors.append(actor)
    return plan, actors


def _pieces(count: int, size: int) -> Sequence[int]:
    """``count`` as a sum of numbers that are at most ``size``."""
    return [min(size, count - first) for first in range(0, count, size)]


def _build(row: TaskRow, copies: int, seed: int) -> VectorEnv:
    module = components.load("env", row.component)
    env: VectorEnv = module.build(module.Options(task=row.name), copies, torch.device("cpu"), seed)
    return env


def _part(part: dict[str, Any], actor: Actor, layout: Layout) -> Block:
    """The episodes of one part."""
    generator = torch.Generator().manual_seed(part["seed"])
    env = _build(task_row(part["task"]), part["copies"], part["seed"])
    with contextlib.closing(env):
        policy = make_policy(actor, env.spec.act_dim, part["noise"], generator)
        obs, action, reward = whole_episodes(env, policy, part["episodes"], part["seed"])
    (number,) = layout.numbers([part["task"]])
    return pack(layout, np.full(len(obs), number), obs, action, reward, whole=True)


@torch.no_grad()
def whole_episodes(
    env: VectorEnv, policy: Policy, episodes: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return observations [E, T+1, O], actions [E, T, A] and rewards [E, T] of episodes of full length.

    Copies whose simulation diverged are left out, and more episodes are run instead.

    Args:
        env: of a task that ends by its time limit alone; it is reset.
        policy: maps observations [N, O] to actions [N, A].
        episodes: E.
        seed: of the first round of episodes; those after it count up from there.

    Raises:
        EnvError: four times as many episodes as are needed do not give enough.
    """
    length, count = env.spec.episode_length, env.num_envs
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    have, rounds = 0, -(-episodes // count)
    for number in range(4 * rounds):
        obs = torch.empty(count, length + 1, env.spec.obs_dim)
        action = torch.empty(count, length, env.spec.act_dim)
        reward = torch.empty(count, length)
        whole = torch.ones(count, dtype=torch.bool)
        obs[:, 0] = env.reset(seed + number)
        for t in range(length):
            action[:, t] = policy(obs[:, t]).clamp(-1, 1)
            result = env.step(action[:, t])
            obs[:, t + 1], reward[:, t] = result.final_obs, result.reward
            if t < length - 1:
                whole &= ~(result.truncated | result.terminated)
        kept.append((obs[whole].numpy(), action[whole].numpy(), reward[whole].numpy()))
        have += len(kept[-1][0])
        if have >= episodes:
            obs_, action_, reward_ = (np.concatenate(column)[:episodes] for column in zip(*kept, strict=True))
            return obs_, action_, reward_
    raise EnvError(
        f"{env.spec.name}: {have} of {4 * rounds * count} episodes reached their end, {episodes} are needed"
    )
