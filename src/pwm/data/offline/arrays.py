"""The two arrays of a shard: plain .npy files of one row type each, which ``numpy.load`` reads, too."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from pwm.data.offline.layout import SEGMENT
from pwm.errors import DataError


def write_header(file: IO[bytes], dtype: np.dtype, rows: int) -> int:
    """Write the header of an array of ``rows`` rows at the start of ``file``; return its length.

    NumPy leaves room for a longer number, so that the header can be written again once it is known.
    """
    file.seek(0)
    description = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows,)}
    npy.write_array_header_1_0(file, description)
    return file.tell()


def map_steps(path: Path, dtype: np.dtype) -> tuple[mmap.mmap, np.ndarray]:
    """Pages of a file of steps, and its rows [R * width] float32 in them.

    Raises:
        DataError: the file holds something else.
    """
    with path.open("rb") as file:
        rows = read_header(file, path, dtype)
        offset = file.tell()
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(pages) != offset + rows * dtype.itemsize:
        raise DataError(f"{path} has {len(pages)} bytes, which are not {rows} rows of {dtype.itemsize}")
    return pages, np.frombuffer(pages, np.dtype("<f4"), offset=offset)


def read_segments(path: Path) -> np.ndarray:
    """Return the segments [S] of a shard.

    Raises:
        DataError: the file holds something else.
    """
    with path.open("rb") as file:
        rows = read_header(file, path, SEGMENT)
        found = np.fromfile(file, SEGMENT)
    if len(found) != rows:
        raise DataError(f"{path} holds {len(found)} segments instead of {rows}")
    return found


def read_header(file: IO[bytes], path: Path, dtype: np.dtype) -> int:
    """Return the rows that the header of an .npy file announces; ``file`` is then at the first of them."""
    try:
        if npy.read_magic(file) != (1, 0):
            raise ValueError("it has another version")
        shape, _, found = npy.read_array_header_1_0(file)
    except ValueError as error:
        raise DataError(f"{path} is no array as this project writes them: {error}") from error
    if found != dtype or len(shape) != 1:
        raise DataError(f"{path} holds {found} {shape}, expected rows of {dtype}")
    return int(shape[0])
