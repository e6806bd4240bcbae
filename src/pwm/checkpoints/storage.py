"""Atomic, versioned files: policies (weights and the configuration they belong to) and resumable state."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from pwm.checkpoints.file_kinds import describe_damage
from pwm.errors import CheckpointError, DamagedCheckpointError
from pwm.files import write_atomically

POLICY_FORMAT = "flow-pwm/policy"
STATE_FORMAT = "flow-pwm/state"
VERSION = 1
# What a whole file of a format holds.
PARTS = {
    POLICY_FORMAT: ("config", "spec", "modules", "progress"),
    STATE_FORMAT: ("loop", "trainer", "replay"),
}


def save(path: Path, kind: str, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors and plain values) atomically as a file of format ``kind``."""
    write_atomically(path, lambda file: torch.save({"format": kind, "version": VERSION, **content}, file))


def load(path: Path, kind: str | tuple[str, ...], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a file of format ``kind``, or of one of several, written by ``save``; no code in it is ever run.

    Raises:
        DamagedCheckpointError: the file is missing or damaged (every part has a CRC-32).
        CheckpointError: it is of another format or of an unknown version, or may not be read.
    """
    kinds = (kind,) if isinstance(kind, str) else kind
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder; name the file in it")
    if not path.is_file():
        raise DamagedCheckpointError(f"checkpoint {path} does not exist")
    _check_archive(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        # What torch says here is advice to switch off what keeps code in the file from being run.
        raise DamagedCheckpointError(
            f"checkpoint {path} cannot be read: it was not written by this project, whose files hold tensors "
            "and plain values only; `pwm convert` reads world models of others"
        ) from error
    except OSError as error:
        raise DamagedCheckpointError(
            f"checkpoint {path} cannot be read: {error.strerror or error}"
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found not in kinds:
        expected = " or ".join(map(repr, kinds))
        advice = "" if found else "; `pwm convert` reads world models of other projects"
        raise CheckpointError(f"checkpoint {path} has format {found!r}, expected {expected}{advice}")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"checkpoint {path} has version {content.get('version')}, this release reads {VERSION}"
        )
    if missing := [part for part in PARTS.get(str(found), ()) if part not in content]:
        raise CheckpointError(f"checkpoint {path} is incomplete: it has no {', '.join(missing)}")
    return content


def _check_archive(path: Path) -> None:
    """Compare every part of a file with its checksum: torch does not, a flipped bit would pass unnoticed."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
    except PermissionError as error:
        # Not the file's fault: an older state would lose what this one holds.
        raise CheckpointError(f"checkpoint {path} cannot be opened: {error.strerror}") from error
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError) as error:
        found = describe_damage(path, error)
        raise DamagedCheckpointError(f"checkpoint {path} cannot be read: it is {found}") from error
    if damaged is not None:
        raise DamagedCheckpointError(f"checkpoint {path} is damaged: wrong checksum of {damaged}")
    if any(name.endswith("/constants.pkl") for name in names):
        raise DamagedCheckpointError(f"checkpoint {path} cannot be read: it is a TorchScript program")
