"""What differs between two runs: their configurations, and what they were made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pwm.configuration.config import ExperimentConfig, diff, flatten
from pwm.errors import DataError
from pwm.runs.provenance import names_code, read_manifest
from pwm.runs.run_changes import describe_changes

# The parts of manifest.json that describe how a run was made; the command repeats the configuration.
COMPARED = ("git_commit", "python", "versions", "device", "machine", "threads", "parameters")


@dataclass(frozen=True)
class RunDescription:
    """Description of a run by its folder, or by a configuration alone.

    Attributes:
        path: as given by the user.
        config: the resolved configuration.
        origin: compared part of ``manifest.json``, flattened; None without that file.
        changed: what was changed within the run that decides its numbers, in words; None without that file.
    """

    path: Path
    config: ExperimentConfig
    origin: dict[str, Any] | None
    changed: str | None


@dataclass(frozen=True)
class RunDifference:
    """Lines ``key: value in a -> value in b``.

    Attributes:
        identity: configuration keys that decide the numbers a run produces, and what was changed within it.
        operational: all other configuration keys.
        origin: what the runs were made with; None if one of them does not tell.
    """

    identity: list[str]
    operational: list[str]
    origin: list[str] | None


def read_description(path: Path) -> RunDescription:
    """Read a run folder or a configuration file.

    Raises:
        DataError: neither of the two, or ``manifest.json`` is damaged.
        ConfigError: the configuration cannot be read or is not valid.
    """
    if path.is_file():
        return RunDescription(path, ExperimentConfig.load(path), None, None)
    stored = path / "config.yaml"
    if not stored.is_file():
        raise DataError(f"{path} is neither a run folder (with a config.yaml) nor a configuration file")
    config = ExperimentConfig.load(stored)
    if not (manifest := read_manifest(path)):
        return RunDescription(path, config, None, None)
    origin = flatten({key: manifest[key] for key in COMPARED if key in manifest})
    try:
        return RunDescription(path, config, origin, describe_changes(manifest, config.alg.optimisation))
    except DataError as error:
        raise DataError(f"{path / 'manifest.json'} is damaged: {error}") from error


def compare_descriptions(a: RunDescription, b: RunDescription) -> RunDifference:
    """Differences of two runs, by what they mean."""
    identity = diff(a.config.identity(), b.config.identity())
    everything = diff(flatten(a.config.to_dict()), flatten(b.config.to_dict()))
    known = a.changed is not None and b.changed is not None
    changed = diff({"within the run": a.changed}, {"within the run": b.changed}) if known else []
    return RunDifference(
        identity=[*identity, *changed],
        operational=[line for line in everything if line not in identity],
        origin=None if a.origin is None or b.origin is None else _origin_diff(a.origin, b.origin),
    )


def difference_in_words(a: RunDescription, b: RunDescription, difference: RunDifference) -> str:
    """Plain text: the runs with their configuration hashes, then every difference."""
    lines = [f"{name}: {run.path}  config {run.config.hash()}" for name, run in (("a", a), ("b", b))]
    sections: dict[str, list[str] | None] = {
        "configuration, identity (decides the results)": difference.identity,
        "configuration, operational (does not)": difference.operational,
        "made with": difference.origin,
    }
    for title, found in sections.items():
        if found is None:
            silent = ", ".join(str(run.path) for run in (a, b) if run.origin is None)
            lines.append(f"{title}: not known for {silent} (no manifest.json)")
        else:
            lines.append(f"{title}: " + ("same" if not found else f"{len(found)} different"))
            lines += [f"  {line}" for line in found]
    return "\n".join(lines)


def _origin_diff(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    commits = a.get("git_commit"), b.get("git_commit")
    unknown = []
    # Equal names that do not tell what was run.
    if commits[0] == commits[1] and isinstance(commits[0], str) and not names_code(commits[0]):
        unknown = [f"git_commit: {commits[0]} -> {commits[1]} (uncommitted changes that are not known)"]
    return sorted([*diff(a, b), *unknown])
