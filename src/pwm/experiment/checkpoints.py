"""Atomic, versioned files: policies (weights and the configuration they belong to) and resumable state."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from pwm.errors import CheckpointError

POLICY_FORMAT = "flow-pwm/policy"
STATE_FORMAT = "flow-pwm/state"
VERSION = 1


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a temporary file, sync it to disk and rename it to ``path``.

    A reader sees the old file or the complete new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def save(path: Path, kind: str, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors and plain values) atomically as a file of format ``kind``."""
    write_atomically(path, lambda file: torch.save({"format": kind, "version": VERSION, **content}, file))


def load(path: Path, kind: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a file written by ``save``; no code in the file is ever executed.

    Raises:
        CheckpointError: the file is missing, damaged (every part has a CRC-32), of another format, or of an
            unknown version.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        # torch does not look at the checksums it writes; a flipped bit would pass unnoticed.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"checkpoint {path} is damaged: wrong checksum of {damaged}")
        content = torch.load(path, map_location=device, weights_only=True)
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {path} cannot be read: {first}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != kind:
        raise CheckpointError(f"checkpoint {path} has format {found!r}, expected {kind!r}")
    if content["version"] != VERSION:
        raise CheckpointError(
            f"checkpoint {path} has version {content['version']}, this release reads {VERSION}"
        )
    return content
