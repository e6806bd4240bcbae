"""Paths in a report: relative to where one works, so that they mean something on another machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

# Absolute paths with at least two parts, but no part of an address or of a relative path.
ABSOLUTE = re.compile(r"(?<![\w.~:/…-])/(?:[\w.@+-]+/)+[\w.@+-]*")


class ReportPaths:
    """Shortens absolute paths.

    Args:
        runs: folders of runs; where they do not lie below the working folder, they are shown from the folder
            above what they have in common.
    """

    def __init__(self, runs: Iterable[Path]) -> None:
        common = Path(os.path.commonpath([run.absolute() for run in runs]))
        roots = (Path.cwd(), common.parent)
        # From the root of the file system everything would be left as it is.
        self.roots = [root for root in roots if root != Path(root.anchor)]

    def show(self, path: str | Path) -> str:
        """``path`` below one of the roots, or its last part."""
        whole = Path(path).absolute()
        for root in self.roots:
            if whole.is_relative_to(root):
                return str(whole.relative_to(root))
        return f"…/{whole.name}"

    def clean(self, text: str) -> str:
        """``text`` with every absolute path in it shortened."""
        for root in self.roots:
            text = re.sub(rf"(?<![\w./-]){re.escape(str(root))}/", "", text)
        return ABSOLUTE.sub(lambda found: self.show(found.group()), text)

    def from_here(self, command: str) -> str:
        """``command`` as one types it in the working folder."""
        return re.sub(rf"(?<![\w./-]){re.escape(str(Path.cwd()))}/", "", command)
