"""SHA-256 manifest of a data folder: made once, checked before the data are used.

``sha256sum -c`` reads the same file: sizes stand in comment lines, which it skips.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pwm.errors import ConfigError, DataError
from pwm.files import write_atomically

MANIFEST = "manifest.sha256"
HEADER = "# flow-pwm manifest 1: size in bytes, then SHA-256 and name, of every file\n"
ENTRY = re.compile(r"# ([0-9]+)\n\\?([0-9a-f]{64})  ([^\n]+)\n")
# sha256sum writes these characters of a name so, and puts a backslash before the line.
PLAIN = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
ESCAPES = str.maketrans({character: escape for escape, character in PLAIN.items()})
CHUNK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """Entry of a manifest for one file.

    Attributes:
        size: in bytes.
        sha256: of the content, hexadecimal.
    """

    size: int
    sha256: str


class DatasetVerifier:
    """Makes and checks the manifest of all files of a folder, at any depth.

    A link counts as what it leads to. Empty sub-folders do not count, nor does the manifest itself. Contents
    are read in parallel and in pieces, so memory does not grow with the size of the files.

    Args:
        folder: holds the data.
        manifest: where the manifest is; ``manifest.sha256`` in the folder by default.
        jobs: files read at the same time; None takes one per CPU.

    Raises:
        DataError: there is no such folder.
        ConfigError: ``jobs`` is less than 1.
    """

    def __init__(
        self, folder: str | Path, manifest: str | Path | None = None, jobs: int | None = None
    ) -> None:
        self.folder = Path(folder)
        self.manifest = self.folder / MANIFEST if manifest is None else Path(manifest)
        self.jobs = jobs if jobs is not None else os.cpu_count() or 1
        if not self.folder.is_dir():
            raise DataError(f"data folder {self.folder} does not exist, or is not a folder")
        if self.jobs < 1:
            raise ConfigError(f"jobs={self.jobs}; it must be at least 1")

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest file: one value that stands for all data.

        Raises:
            DataError: the manifest is missing or damaged.
        """
        return hashlib.sha256(self._read()[0]).hexdigest()

    def entries(self) -> dict[str, Entry]:
        """Return the entries of the manifest by name relative to the folder.

        Raises:
            DataError: the manifest is missing or damaged.
        """
        return self._read()[1]

    def create(self) -> Path:
        """Write the manifest of the folder as it is now; returns its path.

        Raises:
            DataError: there is a manifest already, the folder holds no file or something that is neither file
                nor folder, a file cannot be read or changes meanwhile, or the manifest cannot be written.
        """
        if self.manifest.exists():
            raise DataError(f"{self.manifest} exists; delete it first if the data were changed on purpose")
        if not os.access(self.manifest.parent, os.W_OK):
            raise DataError(f"{self.manifest} cannot be written: its folder is read-only or does not exist")
        sizes = self._sizes()
        if not sizes:
            raise DataError(f"data folder {self.folder} holds no files")
        with closing(self._hashes(sizes)) as hashes:
            content = render({name: Entry(sizes[name], sha256) for name, sha256 in hashes})
        try:
            write_atomically(self.manifest, lambda file: file.write(content))
        except OSError as error:
            raise DataError(f"{self.manifest} cannot be written: {error.strerror}") from error
        return self.manifest

    def verify(self, quick: bool = False) -> None:
        """Compare names and sizes with the manifest, then contents.

        Args:
            quick: leave out the contents; a change that keeps the size is then not found.

        Raises:
            DataError: names the first file that is missing, unexpected or different, or says why the manifest
                or a file cannot be read. The data must not be used.
        """
        expected, sizes = self.entries(), self._sizes()
        wrong = [
            f"{name!r} {problem}"
            for name in sorted(expected.keys() | sizes.keys())
            if (problem := _difference(expected.get(name), sizes.get(name)))
        ]
        if wrong:
            others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise self._refusal(wrong[0] + others)
        if quick:
            return
        with closing(self._hashes(sizes)) as hashes:
            for name, sha256 in hashes:
                if sha256 != expected[name].sha256:
                    raise self._refusal(
                        f"{name!r} has other content: SHA-256 {sha256}, expected {expected[name].sha256}"
                    )

    def _refusal(self, problem: str) -> DataError:
        return DataError(f"data folder {self.folder} is not what {self.manifest} says: {problem}")

    def _read(self) -> tuple[bytes, dict[str, Entry]]:
        """Content of the manifest file, and its entries."""
        try:
            content = self.manifest.read_bytes()
        except FileNotFoundError as error:
            raise DataError(
                f"{self.manifest} does not exist; write it with `pwm data create-manifest` while the data "
                "are known to be good"
            ) from error
        except OSError as error:
            raise DataError(f"{self.manifest} cannot be read: {error.strerror}") from error
        try:
            return content, self._parse(content)
        except ValueError as error:
            raise DataError(f"{self.manifest} is damaged: {error}") from error

    def _parse(self, content: bytes) -> dict[str, Entry]:
        """Entries of the manifest whose content is given; ValueError if it cannot be understood."""
        return parse(content)

    def _sizes(self) -> dict[str, int]:
        """Size of every file by name relative to the folder; the manifest is left out."""
        try:
            own = self.manifest.stat() if self.manifest.exists() else None
            top = self.folder.stat()
            return {
                name: info.st_size
                for name, info in _files(self.folder, "", frozenset({(top.st_dev, top.st_ino)}))
                if own is None or not os.path.samestat(own, info)
            }
        except OSError as error:
            raise DataError(f"{error.filename!r} cannot be read: {error.strerror}") from error

    def _hashes(self, sizes: Mapping[str, int]) -> Generator[tuple[str, str], None, None]:
        """Name and SHA-256 of every file, in the order of names; close it to stop all reading."""
        stop = threading.Event()
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                names = sorted(sizes)
                running = [pool.submit(_sha256, self.folder / name, sizes[name], stop) for name in names]
                for name, future in zip(names, running, strict=True):
                    yield name, future.result()
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)


def render(entries: Mapping[str, Entry]) -> bytes:
    """Manifest of ``entries``, sorted by name."""
    lines = [HEADER]
    for name in sorted(entries):
        escaped = name.translate(ESCAPES)
        mark = "\\" if escaped != name else ""
        lines.append(f"# {entries[name].size}\n{mark}{entries[name].sha256}  {escaped}\n")
    return os.fsencode("".join(lines))


def parse(content: bytes) -> dict[str, Entry]:
    """Entries of a manifest by name.

    Raises:
        ValueError: ``render`` cannot have written it.
    """
    text = os.fsdecode(content)
    if not text.startswith(HEADER):
        raise ValueError("its first line is not that of a manifest")
    entries: dict[str, Entry] = {}
    position = len(HEADER)
    while position < len(text):
        match = ENTRY.match(text, position)
        if match is None:
            raise ValueError(f"line {text.count(chr(10), 0, position) + 1} cannot be understood")
        size, sha256, name = match.groups()
        entries[re.sub(r"\\.", lambda escape: PLAIN.get(escape[0], ""), name)] = Entry(int(size), sha256)
        position = match.end()
    if not entries:
        raise ValueError("it lists no files")
    if render(entries) != content:
        raise ValueError("names are escaped wrongly, out of order, or occur twice")
    return entries


def _difference(expected: Entry | None, size: int | None) -> str:
    """Return the faults of a file whose size (None: not there) is known; empty if there is none."""
    if expected is None:
        return "is not listed"
    if size is None:
        return "is missing"
    return "" if size == expected.size else f"has {size} bytes, expected {expected.size}"


def _files(
    folder: str | Path, prefix: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, os.stat_result]]:
    """Name and state of every file below ``folder``; ``above`` holds the folders on the way to it."""
    with os.scandir(folder) as found:
        for item in found:
            info = item.stat()
            name, place = prefix + item.name, (info.st_dev, info.st_ino)
            if stat.S_ISREG(info.st_mode):
                yield name, info
            elif not stat.S_ISDIR(info.st_mode):
                raise DataError(f"{item.path!r} is neither a file nor a folder")
            elif place in above:
                raise DataError(f"{item.path!r} is a link to a folder that holds it")
            else:
                yield from _files(item.path, f"{name}/", above | {place})


def _sha256(path: Path, size: int, stop: threading.Event) -> str:
    """SHA-256 of a file of ``size`` bytes; of a part of it once ``stop`` is set."""
    digest, done = hashlib.sha256(), 0
    buffer = memoryview(bytearray(min(CHUNK, size + 1)))
    try:
        with path.open("rb", buffering=0) as file:
            while not stop.is_set() and (count := file.readinto(buffer)):
                digest.update(buffer[:count])
                done += count
            changed = done != size or os.fstat(file.fileno()).st_size != size
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if changed and not stop.is_set():
        raise DataError(f"{str(path)!r} changed while it was read")
    return digest.hexdigest()
