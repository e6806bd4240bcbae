"""Files of ``torch.save``, both the zip archives of today and the plain files before release 1.6."""

from __future__ import annotations

import mmap
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pwm.errors import CheckpointError
from pwm.interop.pickles import read_pickle

MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def is_old_format(head: bytes) -> bool:
    """True if a file whose first bytes are ``head`` is one of the plain kind."""
    return MAGIC in head[:32]


def read_archive(path: Path, mapped: bool = False) -> Any:
    """Content of a zip archive of ``torch.save``.

    Args:
        path: the archive.
        mapped: leave the data of tensors in the file, from where they are read when they are looked at; their
            checksums are not compared then. Writing to such a tensor does not change the file.

    Raises:
        CheckpointError: it is damaged, or a zip archive of another kind.
        BadZipFile: it cannot be opened as an archive at all.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            shown = ", ".join(sorted(names)[:4]) or "nothing"
            raise CheckpointError(f"it is a zip archive that holds {shown}, not a torch checkpoint")
        root = pickles[0].removesuffix("data.pkl")
        if any(name.startswith((f"{root}code/", f"{root}constants.pkl")) for name in names):
            raise CheckpointError("it is a TorchScript program, whose weights are not a state dict")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != sys.byteorder.encode():
            raise CheckpointError("it was written on a machine of the other byte order")
        known: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: str, location: str, count: int, *_: Any) -> Tensor:
            if key not in known:
                info = archive.getinfo(f"{root}data/{key}")
                stay = mapped and info.compress_type == zipfile.ZIP_STORED
                data = _pages(path, info) if stay else bytearray(archive.read(info))
                known[key] = _values(data, dtype, count)
            return known[key]

        try:
            with archive.open(pickles[0]) as file:
                return read_pickle(file, storage)
        except (zipfile.BadZipFile, zlib.error, OSError) as error:
            raise CheckpointError(f"it is damaged: {error}") from error


def read_old_format(path: Path) -> Any:
    """Content of a plain file of ``torch.save``: pickles, then the data of all tensors one after the other.

    Raises:
        CheckpointError: it is damaged or truncated.
    """
    size = path.stat().st_size
    known: dict[str, Tensor] = {}

    def storage(
        dtype: torch.dtype, key: str, location: str, count: int, view: tuple[str, int, int] | None = None
    ) -> Tensor:
        if key not in known:
            if not 0 <= count * dtype.itemsize <= size:
                raise ValueError(f"it announces {count} values, more than it holds")
            known[key] = torch.zeros(count, dtype=dtype)
        return known[key] if view is None else known[key].narrow(0, view[1], view[2])

    with path.open("rb") as file:
        _magic, _protocol, system, content, keys = (read_pickle(file, storage) for _ in range(5))
        if not isinstance(system, dict) or not isinstance(keys, list) or set(keys) != set(known):
            raise CheckpointError("it is damaged: its parts do not belong together")
        if system.get("little_endian") is not (sys.byteorder == "little"):
            raise CheckpointError("it was written on a machine of the other byte order")
        for key in keys:
            _fill(known[key], file)
    return content


def _pages(path: Path, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of a member of an archive that is not compressed, as pages of the file."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
        if len(header) < 30:
            raise ValueError(f"the data of {info.filename} are not where they should be")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        pages = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return pages[start : start + info.file_size]


def _values(data: bytearray | memoryview, dtype: torch.dtype, count: int) -> Tensor:
    """The ``count`` values [count] of ``dtype`` in ``data``."""
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for {count} values of {dtype}")
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _fill(values: Tensor, file: IO[bytes]) -> None:
    """Read ``values`` [N], of which tensors already share the memory, from the position of ``file``."""
    header = file.read(8)
    data = file.read(len(values) * values.dtype.itemsize)
    if len(header) < 8 or struct.unpack("<q", header) != (len(values),):
        raise CheckpointError(
            "it is truncated or damaged: the data of its tensors are not where they should be"
        )
    if len(data) < len(values) * values.dtype.itemsize:
        raise CheckpointError("it is truncated: data of its tensors are missing at the end")
    if data:
        values.copy_(torch.frombuffer(bytearray(data), dtype=values.dtype))
