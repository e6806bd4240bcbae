"""Find run folders and files: what is there, and what patterns that the shell did not expand stand for."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

# Files that make a folder a run folder, even a damaged one.
MARKS = ("config.yaml", "status.json", "metrics.jsonl")


def expand(given: str | Path) -> list[Path]:
    """The paths that ``given`` stands for, sorted; none where there is nothing.

    Args:
        given: a path, or a pattern (``**`` for any depth); ``~`` at its start is the home folder. What exists
            is taken by its name, whatever characters that holds; so are the folders at the beginning of a
            pattern.
    """
    text = os.path.expanduser(given)
    if os.path.lexists(text):
        return [Path(text)]
    folder = next((str(path) for path in Path(text).parents if path.is_dir()), "")
    pattern = glob.escape(folder) + text[len(folder) :] if text.startswith(folder) else text
    return [Path(found) for found in sorted(glob.glob(pattern, recursive=True))]


def run_folders(top: str | Path) -> Iterator[Path]:
    """``top`` if it is a run folder, else all below it, each once."""
    seen = set()
    for folder, below, files in os.walk(top, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            below.clear()
            continue
        seen.add(real)
        if not set(MARKS).isdisjoint(files):
            yield Path(folder)
            # Services keep files of the same names inside a run folder.
            below.clear()
