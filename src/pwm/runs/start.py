"""What a run began from (``general.checkpoint``), as its manifest states it, and if it is still there."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pwm.checkpoints import storage, world_model_file
from pwm.checkpoints.policy_evaluation import policy_digest
from pwm.checkpoints.pretrained import file_of
from pwm.configuration.config import ExperimentConfig
from pwm.errors import CheckpointError, DataError
from pwm.runs.provenance import read_manifest
from pwm.runs.run_changes import describe_changes

# Of the manifest.
KEY = "start"


def describe_start(path: Path) -> dict[str, Any]:
    """Return what is known of the file that ``path`` names, a file or the folder of a run.

    Returns:
        ``sha256``; and where it is one of our runs ``configuration`` (what decides its numbers, flat),
        ``manifest`` (content of its own) and ``changed`` (what was changed within it, in words).

    Raises:
        CheckpointError: the file cannot be read.
    """
    file = file_of(path)
    content = storage.load(file, (storage.POLICY_FORMAT, world_model_file.FORMAT))
    found: dict[str, Any] = {"sha256": digest(path)}
    if content["format"] == storage.POLICY_FORMAT:
        config, made_with = ExperimentConfig.from_dict(content["config"]), read_manifest(file.parent)
        found |= {
            "configuration": config.identity(),
            "manifest": made_with,
            "changed": describe_changes(made_with, config.alg.optimisation),
        }
    return found


def digest(path: Path) -> str | None:
    """Return the SHA-256 of the file that ``path`` names; None where there is none."""
    try:
        file = file_of(path)
        status = file.stat()
    except (CheckpointError, OSError):
        return None
    return _digest(file, status.st_mtime_ns, status.st_size)


@functools.cache
def _digest(file: Path, modified: int, size: int) -> str:
    """Digest of a file, which is read again when it was written again."""
    return policy_digest(file)


def start_changed(folder: Path, checkpoint: str | None) -> bool:
    """True if ``checkpoint`` now holds something else than what the run in ``folder`` began from.

    A run that continues has long left it, so that a file which is gone has not changed; nor does a run tell
    whose manifest is damaged, or older than this entry.
    """
    if checkpoint is None:
        return False
    try:
        before = read_manifest(folder).get(KEY, {}).get("sha256")
    except DataError:
        return False
    now = None if before is None else digest(Path(checkpoint))
    return now is not None and now != before
