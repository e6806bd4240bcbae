"""Types of command-line arguments."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def typed_path(text: str) -> Path:
    """A path as typed; ``~`` at its start is the home folder also where no shell has seen to it.

    Raises:
        ArgumentTypeError: it is empty, which as a path would be the working folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty; name a file or a folder")
    return Path(os.path.expanduser(text))
