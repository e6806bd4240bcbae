"""Any file that may be a checkpoint: its content as plain values, or one sentence that says what it is."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from pwm.checkpoints.file_kinds import describe_damage, describe_file
from pwm.errors import CheckpointError
from pwm.interop.contents import describe
from pwm.interop.pickles import read_pickle
from pwm.interop.torch_files import is_old_format, read_archive, read_old_format


def read_file(path: Path, mapped: bool = False) -> Any:
    """Content of ``path``: containers, tensors [any shape, on the CPU], plain values and records.

    Args:
        path: the file.
        mapped: leave tensors in the file where it allows it; see ``read_archive``.

    Raises:
        CheckpointError: it is missing, unreadable, damaged, or no file of ``torch.save`` or safetensors.
    """
    try:
        return _content(path, mapped)
    except CheckpointError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _content(path: Path, mapped: bool) -> Any:
    if path.is_dir():
        raise CheckpointError("it is a folder; name the file in it")
    with path.open("rb") as file:
        head = file.read(64)
    if _is_safetensors(head, path.stat().st_size):
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"it is a damaged safetensors file: {error}") from error
    if head.startswith(b"PK"):
        try:
            return read_archive(path, mapped)
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"it is {describe_damage(path, error)}") from error
    if is_old_format(head):
        return read_old_format(path)
    if head[:1] == b"\x80":
        with path.open("rb") as file:
            content = read_pickle(file, _no_data)
        raise CheckpointError(f"it is no file of torch.save, but a Python pickle: {describe(content)}")
    raise CheckpointError(f"it is no checkpoint, but {describe_file(path)}")


def _no_data(*place: Any) -> Tensor:
    """Data of tensors, of which plain pickles have none beside them."""
    raise ValueError(f"data of a tensor are referred to, {place}, and are not there")


def _is_safetensors(head: bytes, size: int) -> bool:
    """True if a file begins with the length of a JSON header and the header itself."""
    return head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < max(size, 100_000_000)
