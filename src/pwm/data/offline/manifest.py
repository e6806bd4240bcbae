"""The manifest of a data set: what it holds, where it came from, and the hash of every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pwm.data.dataset_verifier import DatasetVerifier, Entry
from pwm.data.offline.layout import FORMAT, MANIFEST, VERSION, Layout
from pwm.errors import DataError

LOCK = ".lock"


class StoreFiles(DatasetVerifier):
    """The files of a data set, checked against its own manifest; see ``DatasetVerifier``.

    Attributes:
        content: the manifest.
        layout: tasks and widths.
    """

    content: dict[str, Any]
    layout: Layout

    def __init__(self, folder: str | Path, jobs: int | None = None) -> None:
        """Read the manifest of ``folder``.

        Raises:
            DataError: there is no data set, or it is unfinished, damaged, or of another version.
        """
        super().__init__(folder, Path(folder) / MANIFEST, jobs)
        if not is_store(self.folder):
            files = sorted(self.folder.glob("*.pt"))
            advice = (
                f"it holds files like {files[0].name}; `pwm data convert {folder} --to NEW` makes one of them"
                if files
                else "`pwm data collect`, `convert` and `from-run` make one"
            )
            raise DataError(f"{folder} is no data set: {advice}")
        self.entries()

    def _sizes(self) -> dict[str, int]:
        return {name: size for name, size in super()._sizes().items() if name != LOCK}

    def _parse(self, raw: bytes) -> dict[str, Entry]:
        self.content = parse_manifest(raw)
        self.layout = Layout.from_json(self.content)
        if not self.content["complete"]:
            raise DataError(
                f"{self.folder} is an unfinished data set; the command that was writing it continues it"
            )
        try:
            return {
                f"{shard['name']}/{name}": Entry(int(entry["size"]), str(entry["sha256"]))
                for shard in self.content["shards"]
                for name, entry in shard["files"].items()
            }
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"its list of files cannot be understood: {error}") from error


def is_store(folder: Path) -> bool:
    """Whether ``folder`` holds a data set, finished or not."""
    return (folder / MANIFEST).is_file()


def parse_manifest(raw: bytes) -> dict[str, Any]:
    """Return the content of a manifest file.

    Raises:
        ValueError: it is no manifest of a data set, or of another version, or lacks a part.
    """
    content = json.loads(raw)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"it is not a manifest of the format {FORMAT!r}")
    if content.get("version") != VERSION:
        raise ValueError(f"it has version {content.get('version')}, this release reads {VERSION}")
    parts = ("complete", "tasks", "plan", "shards", "counts", "provenance")
    if missing := [part for part in parts if part not in content]:
        raise ValueError(f"it has no {', '.join(missing)}")
    for shard in content["shards"]:
        if not isinstance(shard, dict) or not {"name", "part", "files", "counts"} <= shard.keys():
            raise ValueError("an entry of its shards is incomplete")
    return content


def total_counts(shards: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return segments, whole episodes and transitions per task, added up over ``shards``."""
    total: dict[str, dict[str, int]] = {}
    for shard in shards:
        for task, counts in shard["counts"].items():
            here = total.setdefault(task, dict.fromkeys(counts, 0))
            for key, value in counts.items():
                here[key] += value
    return total
