"""What a file is that is not the checkpoint it was taken for: one phrase from its name and first bytes."""

from __future__ import annotations

import os
import re
from pathlib import Path

HEAD = 512
# Where the bytes stand, the bytes, and what they begin.
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"BM", "a BMP image"),
    (8, b"WEBP", "a WebP image"),
    (8, b"WAVE", "a WAV sound"),
    (4, b"ftyp", "an MP4 video"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
    (0, b"BZh", "a bzip2 archive; unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (0, b"Rar!", "a RAR archive; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (0, b"\x89HDF\r\n", "an HDF5 file, as Keras writes"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"ARROW1", "an Arrow table"),
    (0, b"\x7fELF", "a program or library"),
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer instead of the file itself; fetch it with `git lfs pull`",
    ),
)
TEXTS: tuple[tuple[str, str], ...] = (
    (r"(<!doctype html|<html|<head|<body)", "an HTML page, as a failed download leaves it"),
    (r"<svg|<\?xml[^>]*>\s*<svg", "an SVG image"),
    (r"<\?xml", "an XML file"),
    (r"[\[{]", "a JSON file"),
)


def describe_file(path: Path) -> str:
    """Describe ``path`` by a phrase that completes "it is ...".

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        return "a folder"
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "an empty file"
    if head.startswith(b"PK"):
        return _archive(head)
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return name
    if not head.strip(b"\0"):
        return "a file of zeros, as an interrupted download or a full disk leaves it"
    # What torch.save and pickle.dump write: protocol 2 or later.
    if head[0] == 0x80 and 2 <= head[1:2][0] <= 5:
        return "a Python pickle"
    return _text(head)


def describe_damage(path: Path, error: Exception) -> str:
    """Describe a file that ``zipfile`` could not open, or read completely, because of ``error``."""
    try:
        with path.open("rb") as file:
            begin = file.read(2)
            file.seek(-min(path.stat().st_size, 1 << 16), os.SEEK_END)
            # The table of contents ends with this mark, so the archive is not cut off.
            whole = begin == b"PK" and b"PK\x05\x06" in file.read()
        return f"damaged: {error}" if whole else describe_file(path)
    except OSError as unreadable:
        return f"unreadable: {unreadable.strerror or unreadable}"


def _archive(head: bytes) -> str:
    """Which kind of zip archive begins with ``head``, if the archive itself could not be opened."""
    if b"data.pkl" in head or b".format_version" in head:
        return "a truncated torch file: its table of contents, which stands at the end, is missing"
    return "a zip archive without a torch checkpoint in it, or a truncated one"


def _text(head: bytes) -> str:
    # A character may be cut in two at the end.
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="ignore").strip()
    printable = sum(c.isprintable() or c.isspace() for c in text)
    if len(text.encode()) < 0.9 * len(head.strip()) or printable < 0.95 * len(text):
        return f"a file of no known kind, whose first bytes are {head[:4].hex(' ')}"
    for pattern, name in TEXTS:
        if re.match(pattern, text, re.IGNORECASE):
            return name
    first = text.splitlines()[0][:40] if text else ""
    return f"a text file that begins with {first!r}"
