"""Which policy files a run has, and which of them a command means."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pwm.checkpoints.run_search import expand, run_folders
from pwm.errors import CheckpointError, ConfigError

CHECKPOINTS = ("best", "final")
ALL = "all"
KEPT = "policies"
EPOCH = re.compile(r"epoch0*(\d+)")


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


def checkpoint_name(policy: Path) -> str:
    """Return a policy file's part in its run: ``best``, ``final``, ``epoch 100``, or its name."""
    if policy.stem.removesuffix("_policy") in CHECKPOINTS:
        return policy.stem.removesuffix("_policy")
    kept = EPOCH.fullmatch(policy.stem)
    return f"epoch {kept[1]}" if kept else policy.name


def select_policies(given: Sequence[str | Path], which: str) -> list[Path]:
    """The policy files that a command means, each once.

    Args:
        given: run folders, folders above them, policy files, or patterns of these.
        which: ``best`` or ``final``; ``all`` for both and every kept one, of each run those it has; or the
            name of a policy file in the run folders, or a pattern of such names, or the path of such a file.
            Without folders in ``given`` it is a path, or a pattern of paths.

    Warns:
        RuntimeWarning: a run below a folder has no policy at all where ``all`` are asked for.

    Raises:
        CheckpointError: something does not exist.
        ConfigError: nothing was named.
    """
    named = which in (*CHECKPOINTS, ALL)
    if not given and named:
        raise ConfigError("name a run folder or a policy file, or give one by --checkpoint FILE")
    paths = [path for text in given for path in _existing(text)]
    if not named and all(path.is_file() for path in paths):
        paths = [*_existing(which), *paths]
        if folders := [path for path in paths if path.is_dir()]:
            raise CheckpointError(f"--checkpoint {which}: {folders[0]} is a folder; name a policy file")
    found = [policy for path in paths for policy in ([path] if path.is_file() else _below(path, which))]
    return list({path.resolve(): path for path in found}.values())


def _existing(given: str | Path) -> list[Path]:
    if not (found := expand(given)):
        raise CheckpointError(f"{str(given)!r}: no such folder or file, and nothing that it matches")
    # A pattern of folders also meets the results that an evaluation left beside them.
    folders = any(path.is_dir() for path in found)
    return [path for path in found if path.is_dir() or path.suffix == ".pt"] if folders else found


def _below(top: Path, which: str) -> Iterator[Path]:
    """Policies of a run folder, or of all runs below a folder."""
    runs = [top] if list(top.glob("*_policy.pt")) else sorted(run_folders(top)) or [top]
    for run in runs:
        if which in CHECKPOINTS:
            yield find_policy(run, which)
        elif found := policies_of(run, which):
            yield from found
        elif which == ALL and run != top:
            warnings.warn(f"{run} has no policy yet", RuntimeWarning, stacklevel=2)
        else:
            there = ", ".join(str(path.relative_to(run)) for path in policies_of(run, ALL))
            if which == ALL:
                raise CheckpointError(f"{run} has no policy, nor has a run below it")
            raise CheckpointError(
                f"{run} has no policy {which!r}; choose best, final, all, or a file: {there or 'none yet'}"
            )


def policies_of(run: Path, which: str) -> list[Path]:
    """Policies of a run folder: ``all``, best and final first, or those that ``which`` names or matches."""
    if which == ALL:
        ends = [path for name in CHECKPOINTS if (path := run / f"{name}_policy.pt").is_file()]
        return [*ends, *sorted((run / KEPT).glob("epoch*.pt"))]
    exact = [path for place in (run, run / KEPT, Path()) if (path := place / which).is_file()]
    exact = [path for path in exact if run.resolve() in path.resolve().parents]
    return exact or [
        path
        for path in policies_of(run, ALL)
        if fnmatchcase(path.name, which) or fnmatchcase(str(path.relative_to(run)), which)
    ]
