"""Atomic, versioned files: policies (weights and the configuration they belong to) and resumable state."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from pwm.errors import CheckpointError, DamagedCheckpointError

POLICY_FORMAT = "flow-pwm/policy"
STATE_FORMAT = "flow-pwm/state"
VERSION = 1
# What a whole file of a format holds.
PARTS = {POLICY_FORMAT: ("config", "spec", "modules", "progress"), STATE_FORMAT: ("loop", "trainer", "replay")}


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


def load(path: Path, kind: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a file written by ``save``; no code in the file is ever executed.

    Raises:
        DamagedCheckpointError: the file is missing or damaged (every part has a CRC-32).
        CheckpointError: it is of another format or of an unknown version, or may not be read.
    """
    if not path.is_file():
        raise DamagedCheckpointError(f"checkpoint {path} does not exist")
    try:
        # torch does not look at the checksums it writes; a flipped bit would pass unnoticed.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            program = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if damaged is not None:
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: wrong checksum of {damaged}")
        if program:
            raise CheckpointError(f"checkpoint {path} is a TorchScript program, which is never executed here")
        content = torch.load(path, map_location=device, weights_only=True)
    except PermissionError as error:
        # Not the file's fault: an older state would lose what this one holds.
        raise CheckpointError(f"checkpoint {path} cannot be opened: {error.strerror}") from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DamagedCheckpointError(f"checkpoint {path} cannot be read: {_reason(error)}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != kind:
        raise CheckpointError(f"checkpoint {path} has format {found!r}, expected {kind!r}")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"checkpoint {path} has version {content.get('version')}, this release reads {VERSION}"
        )
    if missing := [part for part in PARTS.get(kind, ()) if part not in content]:
        raise CheckpointError(f"checkpoint {path} is incomplete: it has no {', '.join(missing)}")
    return content


def _reason(error: Exception) -> str:
    """What is wrong with a file, without a library's advice to switch its protection off."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        return "it is damaged, or holds more than numbers and text, which is never executed here"
    return text.splitlines()[0] if text else type(error).__name__
