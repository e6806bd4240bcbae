"""Atomic, versioned files: policies (weights and the configuration they belong to) and resumable state."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from pwm.errors import CheckpointError, DamagedCheckpointError, StorageError
from pwm.experiment.file_kinds import describe_damage

POLICY_FORMAT = "flow-pwm/policy"
STATE_FORMAT = "flow-pwm/state"
VERSION = 1
# What a whole file of a format holds.
PARTS = {
    POLICY_FORMAT: ("config", "spec", "modules", "progress"),
    STATE_FORMAT: ("loop", "trainer", "replay"),
}


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a temporary file, sync it to disk and rename it to ``path``.

    A reader sees the old file or the complete new one, never a part.

    Raises:
        OSError: names ``path``; what it held before is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        # What fails while writing knows only that it failed, not where.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk, where platform and file system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # The file is whole and renamed; some network file systems refuse this last step for folders.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """See that files can be made in ``folder``, which need not exist yet, before any work is done.

    Raises:
        StorageError: they cannot.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise StorageError(f"{folder} cannot be written to: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically.

    Raises:
        ValueError: a number is not finite, which JSON cannot express.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


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
