"""The replay memory of finished or interrupted runs as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pwm.checkpoints.run_search import expand
from pwm.configuration.building import task_spec
from pwm.configuration.config import ExperimentConfig
from pwm.data.offline.layout import SEGMENT, Block, Layout, StoredTask, set_layout, set_of
from pwm.data.offline.writer import writing
from pwm.data.replay import ReplayBuffer
from pwm.envs.base import EnvSpec
from pwm.envs.task_table import task_names, task_row
from pwm.errors import ConfigError
from pwm.runs.state_store import StateStore


def export_replay(runs: Sequence[str | Path], folder: Path, say: Callable[[str], None] = print) -> None:
    """Write what the replay memory of ``runs`` holds into a data set.

    Tasks of the table get its numbers and padded widths, so that runs of several of them can go together; any
    other task is stored alone, in its own widths.

    Args:
        runs: run folders or patterns of them.
        folder: new, empty, or what the same export left.
        say: is told of every run.

    Raises:
        ConfigError: no run, runs of tasks that do not go together, or a folder that holds something else.
        CheckpointError: a run has no saved state, or one without replay data, or it is damaged.
    """
    paths = [path for run in runs for path in expand(run) or [Path(run)]]
    if not paths:
        raise ConfigError("name a run folder, for example logs/dflex_hopper/pwm_small/seed42")
    configs = [ExperimentConfig.load(path / "config.yaml") for path in paths]
    specs = [task_spec(config) for config in configs]
    layout = _layout(specs)
    stores = [StateStore(path) for path in paths]
    plan = []
    for config, spec, store in zip(configs, specs, stores, strict=True):
        with store.newest.open("rb") as file:
            state = hashlib.file_digest(file, "sha256").hexdigest()
        plan.append(
            {"task": spec.name, "run": config.run_name, "seed": config.general.seed, "state_sha256": state}
        )
    with writing(folder, layout, plan, {"made_by": "pwm data from-run"}) as writer:
        for number in list(writer.missing):
            block = replay_block(stores[number].load_replay(), specs[number], layout)
            writer.write(number, [block], str(paths[number]))
            transitions = int(block.segments["transitions"].sum(dtype=np.int64))
            say(f"{paths[number]}: {transitions} transitions in {len(block.segments)} segments")


def replay_block(replay: ReplayBuffer, spec: EnvSpec, layout: Layout) -> Block:
    """Return everything in ``replay`` as segments; those that are no whole episodes are marked so."""
    state = replay.state_dict()
    rows, ends = state["rows"].numpy(), np.flatnonzero(~state["is_transition"].numpy())
    starts = np.concatenate(([0], ends[:-1] + 1))
    # What is left of an episode whose first rows were overwritten, of each environment.
    held = (state["cursor"] - (state["episode_step"] == 0).long() + 1 - state["first"]).numpy()
    cut = (np.cumsum(held) - held)[state["first"].numpy() > 0]
    transitions = ends - starts
    o, a = replay.obs_dim, replay.act_dim
    whole = (rows[ends - 1, o + a + 1] > 0.5) | (transitions == spec.episode_length)
    whole &= ~np.isin(starts, cut)
    kept = transitions > 0
    steps = np.zeros(len(rows), layout.step)
    steps["obs"][:, :o], steps["action"][:, :a] = rows[:, :o], rows[:, o : o + a]
    steps["reward"], steps["terminated"] = rows[:, o + a], rows[:, o + a + 1]
    steps = steps[np.repeat(kept, transitions + 1)]
    segments = np.zeros(int(kept.sum()), SEGMENT)
    segments["transitions"] = transitions[kept]
    segments["start"] = np.cumsum(transitions[kept] + 1) - transitions[kept] - 1
    segments["task"] = layout.names.index(_task_name(spec))
    segments["reward_sum"] = np.add.reduceat(steps["reward"].astype(np.float64), segments["start"])
    segments["whole"] = whole[kept]
    return Block(steps, segments)


def _task_name(spec: EnvSpec) -> str:
    """The name of the table for a task that is in it, else that of the environment."""
    for prefix, suite in (("dmc_", "dm_control"), ("metaworld_", "metaworld")):
        short = spec.name.removeprefix(prefix)
        if short != spec.name and short in task_names(suite):
            return short
    return spec.name


def _layout(specs: Sequence[EnvSpec]) -> Layout:
    """The smallest layout that holds the tasks of all ``specs``."""
    names = [_task_name(spec) for spec in specs]
    if all(name != spec.name for name, spec in zip(names, specs, strict=True)):
        return set_layout(set_of([task_row(name) for name in names]).name)
    if other := next((name for name in names if name != names[0]), None):
        raise ConfigError(
            f"{names[0]} and {other} cannot go into one data set: only tasks of MT30 and MT80 are padded to "
            "the same widths; make one for each"
        )
    spec = specs[0]
    return Layout((StoredTask(spec.name, spec.obs_dim, spec.act_dim, spec.episode_length),))
