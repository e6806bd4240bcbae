"""Minari data sets of continuous tasks become a data set of ours.

Minari keeps whole episodes of Gymnasium environments, in HDF5 or Arrow files beside a ``metadata.json``.
Nothing in them is run: spaces are read from the metadata, and the environment named there is not made.
Source: the format of Farama's Minari 0.5, read by the package itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pwm.data.offline.audit import ROUNDING
from pwm.data.offline.layout import SHARD_STEPS, Block, Layout, StoredTask, pack, set_layout, set_of
from pwm.data.offline.writer import writing
from pwm.envs.gym.options import Options as GymOptions
from pwm.envs.task_table import all_tasks, task_row
from pwm.errors import ConfigError, DataError, EnvError
from pwm.files import read_object
from pwm.packages import optional

METADATA = "metadata.json"
# What the package raises at files that are not what they should be.
DAMAGE = (OSError, KeyError, ValueError, TypeError, AssertionError, RuntimeError)


@dataclass(frozen=True)
class MinariSource:
    """A Minari data set whose episodes stay in its files until they are looked at.

    Attributes:
        folder: of its files.
        name: its id.
        task: what it holds.
        episodes, steps: how many.
        scaling: from actions in [-1, 1] to those of its action space.
        content: the package's own view of it.
    """

    folder: Path
    name: str
    task: StoredTask
    episodes: int
    steps: int
    scaling: Any
    content: Any


def minari_root() -> Path:
    """Return the folder where Minari keeps the data sets of this machine."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


def minari_folder(source: str | Path) -> Path | None:
    """Return the folder of the Minari data set that ``source`` names by path or id; None if it is none."""
    path = Path(source).expanduser()
    for folder in (path, path / "data", minari_root() / source / "data"):
        if (folder / METADATA).is_file():
            return folder
    return None


def convert_minari(
    folders: Sequence[Path], target: Path, task: str | None = None, say: Callable[[str], None] = print
) -> None:
    """Write the episodes of Minari data sets of one task into a data set.

    An episode that terminated or was truncated is whole; only the former ends in a termination. One that
    ends in neither was cut by whoever recorded it, and is kept as a piece of an episode. Actions are mapped
    from the bounds of their space to [-1, 1], as ``env=gym`` maps them back.

    Args:
        folders: as ``minari_folder`` returned them.
        target: new, empty, or what the same conversion left.
        task: name of the task; None takes that of the environment that the data set names.
        say: is told of every shard.

    Raises:
        ConfigError: minari is not installed, a data set names no environment and no ``task`` is given, or the
            data sets are not of one task.
        DataError: a data set is damaged, or its spaces, lengths or numbers are none that can be stored.
    """
    sources = [_open(folder, task) for folder in folders]
    first = sources[0]
    for other in sources:
        if other.task != first.task:
            raise ConfigError(
                f"{first.name} and {other.name} are not of one task: {first.task} and {other.task}"
            )
    layout, number = _layout(first.task)
    origins: list[MinariSource] = []
    plan: list[dict[str, Any]] = []
    for source in sources:
        size = max(1, SHARD_STEPS * source.episodes // max(1, source.steps))
        digest = _digest(source.folder)
        for begin in range(0, source.episodes, size):
            origins.append(source)
            rows = [begin, min(begin + size, source.episodes)]
            plan.append({"minari": source.name, "sha256": digest, "episodes": rows})
    provenance = {"made_by": "pwm data convert", "sources": [source.name for source in sources]}
    with writing(target, layout, plan, provenance) as writer:
        for part in list(writer.missing):
            begin, end = plan[part]["episodes"]
            writer.write(part, _blocks(origins[part], begin, end, layout, number), str(origins[part].folder))
            say(f"shard {part + 1} of {len(plan)}: {origins[part].name}, episodes {begin}-{end}")


def _open(folder: Path, task: str | None) -> MinariSource:
    """Look at what a data set says of itself."""
    minari = optional("minari", "converting a Minari data set", "minari")
    metadata = read_object(folder / METADATA)
    name = str(metadata.get("dataset_id", folder))
    # Where they are missing, the package would make the environment, whose code the file names.
    if missing := [key for key in ("observation_space", "action_space") if key not in metadata]:
        raise DataError(f"{folder / METADATA} has no {', '.join(missing)}")
    try:
        content = minari.MinariDataset(folder)
        spec = content.env_spec
    except ImportError as error:
        raise ConfigError(f"{name} needs a package that is missing: {_line(error)}") from error
    except DAMAGE as error:
        raise DataError(f"{folder} cannot be read as a Minari data set: {_line(error)}") from error
    if task is None and spec is None:
        raise ConfigError(f"{name} names no environment; say with --task what its task is called")
    called = GymOptions(spec.id).task_name if task is None else task
    limit = None if spec is None else spec.max_episode_steps
    scaling, width = _spaces(name, content.observation_space, content.action_space)
    stored = StoredTask(called, width, scaling.dim, limit)
    return MinariSource(
        folder, name, stored, int(content.total_episodes), int(content.total_steps), scaling, content
    )


def _spaces(name: str, observation: Any, action: Any) -> tuple[Any, int]:
    """Scaling of the actions and width of the observations."""
    from gymnasium.spaces import Box

    from pwm.envs.gym.spaces import ActionScaling

    if not isinstance(observation, Box) or not np.prod(observation.shape):
        found = " ".join(str(observation).split())
        raise DataError(f"{name} has observation space {found}; only a Box with entries can be stored")
    try:
        return ActionScaling(name, action), int(np.prod(observation.shape))
    except EnvError as error:
        raise DataError(str(error)) from error


def _layout(task: StoredTask) -> tuple[Layout, int]:
    """The layout for ``task``, that of its set if it is in the table, and its number there.

    Raises:
        DataError: it has the name of a task of the table, but other widths.
    """
    if task.name not in {row.name for row in all_tasks()}:
        return Layout((task,)), 0
    row = task_row(task.name)
    if (task.obs_dim, task.action_dim) != (row.obs_dim, row.action_dim):
        raise DataError(
            f"{task.name} has observations and actions of width {row.obs_dim} and {row.action_dim}, the data "
            f"set {task.obs_dim} and {task.action_dim}"
        )
    return set_layout(set_of([row]).name), row.id


def _digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a data set."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
    return total.hexdigest()


def _blocks(source: MinariSource, begin: int, end: int, layout: Layout, number: int) -> Iterator[Block]:
    """Some episodes, each a block; those without a step are left out."""
    try:
        episodes = iter(source.content.iterate_episodes(range(begin, end)))
        for index in range(begin, end):
            episode = next(episodes)
            if len(episode.rewards):
                yield _block(source, episode, index, layout, number)
    except DataError:
        raise
    except (*DAMAGE, StopIteration) as error:
        raise DataError(f"{source.folder} is damaged: {_line(error)}") from error


def _block(source: MinariSource, episode: Any, index: int, layout: Layout, number: int) -> Block:
    """One episode as a segment, after seeing that its arrays belong together."""
    where = f"{source.name}, episode {index}"
    reward = np.asarray(episode.rewards).reshape(-1)
    steps = len(reward)
    obs, action = np.asarray(episode.observations), np.asarray(episode.actions)
    ends = [np.asarray(flags).reshape(-1) for flags in (episode.terminations, episode.truncations)]
    lengths = [len(obs) - 1, len(action), *map(len, ends)]
    if any(length != steps for length in lengths):
        raise DataError(
            f"{where}: {steps} rewards, but {len(obs)} observations, {len(action)} actions, "
            f"{len(ends[0])} terminations and {len(ends[1])} truncations"
        )
    if early := [step for flags in ends for step in np.flatnonzero(flags[:-1]).tolist()]:
        raise DataError(f"{where} ends at step {min(early)} and goes on until step {steps - 1}")
    unit = source.scaling.inverse(action)
    if (outside := (np.abs(unit) > 1 + ROUNDING).any(1)).any():
        step = int(outside.argmax())
        raise DataError(f"{where}, step {step}: action {action[step]} is outside the bounds of its space")
    terminated, truncated = (bool(flags[-1]) for flags in ends)
    flags = np.zeros((1, steps))
    flags[0, -1] = terminated
    return pack(
        layout,
        np.array([number]),
        obs.reshape(1, steps + 1, source.task.obs_dim),
        unit.clip(-1, 1)[None],
        reward[None],
        flags,
        whole=terminated or truncated,
    )


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
