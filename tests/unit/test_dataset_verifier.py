"""The manifest of a data folder: whatever is changed in the folder or in the manifest is found and named."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwm import DatasetVerifier
from pwm.data.dataset_verifier import CHUNK, HEADER, MANIFEST, Entry, parse, render
from pwm.errors import ConfigError, DataError
from pwm.launch.cli import main

FILES = {
    "a.pt": b"first",
    "b c.pt": b"second",
    "new\nline": b"third",
    "sub/deep/x.pt": b"",
    "sub/y.pt": bytes(range(256)) * 20,
}
# Characters that file names may hold and that a careless format gets wrong; the last is no valid UTF-8.
NAME = st.text(alphabet="aB7 #*.-_\\\n\r\té中\udcff", min_size=1, max_size=6).filter(
    lambda name: name not in (".", "..")
)
# Folders and files get different first characters, so that no name is both.
PATHS = st.builds(
    lambda folders, name: "/".join([*(f"d{folder}" for folder in folders), f"f{name}"]),
    st.lists(NAME, max_size=2),
    NAME,
)
FOLDERS = st.dictionaries(PATHS, st.binary(max_size=40), min_size=1, max_size=6)


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    """Write ``files`` below ``folder``, in the order given."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@contextmanager
def filled(files: dict[str, bytes]) -> Iterator[Path]:
    """A temporary folder with ``files`` and their manifest."""
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), files)
        DatasetVerifier(folder).create()
        yield Path(folder)


def refusal(folder: Path, quick: bool = False) -> str:
    """Message with which ``folder`` is refused."""
    with pytest.raises(DataError) as refused:
        DatasetVerifier(folder).verify(quick=quick)
    return str(refused.value)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with ``FILES`` and their manifest."""
    folder = fill(tmp_path / "data", FILES)
    DatasetVerifier(folder).create()
    return folder


# --- what is found --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(files=FOLDERS)
def test_an_untouched_folder_is_accepted(files: dict[str, bytes]) -> None:
    with filled(files) as folder:
        verifier = DatasetVerifier(folder)
        verifier.verify()
        verifier.verify(quick=True)
        expected = {name: Entry(len(c), hashlib.sha256(c).hexdigest()) for name, c in files.items()}
        assert verifier.entries() == expected


@settings(max_examples=60, deadline=None)
@given(files=FOLDERS, draw=st.data())
def test_any_changed_byte_is_found_and_its_file_named(files: dict[str, bytes], draw: st.DataObject) -> None:
    filled_files = {name: content or b"x" for name, content in files.items()}
    name = draw.draw(st.sampled_from(sorted(filled_files)))
    content = bytearray(filled_files[name])
    position = draw.draw(st.integers(0, len(content) - 1))
    content[position] ^= draw.draw(st.integers(1, 255))
    with filled(filled_files) as folder:
        (folder / name).write_bytes(content)
        before, after = (hashlib.sha256(c).hexdigest() for c in (filled_files[name], content))
        message = refusal(folder)
        assert f"{name!r} has other content: SHA-256 {after}, expected {before}" in message
        # The size is the same, which is all a quick check looks at.
        DatasetVerifier(folder).verify(quick=True)


@settings(max_examples=60, deadline=None)
@given(files=FOLDERS, quick=st.booleans(), draw=st.data())
def test_any_change_of_names_or_sizes_is_found_and_named(
    files: dict[str, bytes], quick: bool, draw: st.DataObject
) -> None:
    name = draw.draw(st.sampled_from(sorted(files)))
    size = len(files[name])
    changes = ["removed", "renamed", "longer", "added"] + (["shorter"] if size else [])
    change = draw.draw(st.sampled_from(changes))
    with filled(files) as folder:
        path = folder / name
        if change == "removed":
            path.unlink()
            expected = f"{name!r} is missing"
        elif change == "renamed":
            path.rename(path.with_name(f"{path.name}~"))
            expected = f"{name!r} is missing (and 1 more)"
        elif change == "longer":
            path.write_bytes(files[name] + b"\0")
            expected = f"{name!r} has {size + 1} bytes, expected {size}"
        elif change == "shorter":
            path.write_bytes(files[name][:-1])
            expected = f"{name!r} has {size - 1} bytes, expected {size}"
        else:
            path.with_name(f"{path.name}~").touch()
            expected = f"{name + '~'!r} is not listed"
        assert f"says: {expected}" in refusal(folder, quick)


@settings(max_examples=80, deadline=None)
@given(files=FOLDERS, draw=st.data())
def test_any_damage_of_the_manifest_is_found(files: dict[str, bytes], draw: st.DataObject) -> None:
    with filled(files) as folder:
        path = folder / MANIFEST
        content = bytearray(path.read_bytes())
        position = draw.draw(st.integers(0, len(content) - 1))
        damage = draw.draw(st.sampled_from(["changed", "removed", "inserted", "cut"]))
        if damage == "changed":
            content[position] ^= draw.draw(st.integers(1, 255))
        elif damage == "removed":
            del content[position]
        elif damage == "inserted":
            content.insert(position, draw.draw(st.integers(0, 255)))
        else:
            del content[position:]
        if bytes(content) == path.read_bytes():
            return
        path.write_bytes(content)
        refusal(folder)


def test_the_first_wrong_file_is_named(data: Path) -> None:
    (data / "sub/y.pt").unlink()
    (data / "b c.pt").write_bytes(b"longer than before")
    (data / "aa").touch()
    # Contents are not even read while names and sizes are wrong.
    (data / "a.pt").write_bytes(b"other")
    assert "'aa' is not listed (and 2 more)" in refusal(data)
    (data / "aa").unlink()
    assert "'b c.pt' has 18 bytes, expected 6 (and 1 more)" in refusal(data)
    (data / "b c.pt").write_bytes(b"SECOND")
    assert refusal(data).endswith("'sub/y.pt' is missing")
    (data / "sub/y.pt").write_bytes(bytes(256 * 20))
    for _ in range(5):
        assert "'a.pt' has other content" in refusal(data)
    (data / "a.pt").write_bytes(FILES["a.pt"])
    assert "'b c.pt' has other content" in refusal(data)


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_changes_at_the_seams_of_large_files_are_found(jobs: int, tmp_path: Path) -> None:
    content = os.urandom(2 * CHUNK + 1)
    for size in (CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1):
        (tmp_path / f"{size:09}").write_bytes(content[:size])
    verifier = DatasetVerifier(tmp_path, jobs=jobs)
    verifier.create()
    for name, entry in verifier.entries().items():
        assert entry == Entry(int(name), hashlib.sha256(content[: int(name)]).hexdigest())
        for position in {0, entry.size // 2, min(CHUNK, entry.size) - 1, entry.size - 1}:
            path = tmp_path / name
            with path.open("r+b") as file:
                file.seek(position)
                file.write(bytes([content[position] ^ 1]))
            assert f"{name!r} has other content" in refusal(tmp_path)
            path.write_bytes(content[: entry.size])
    verifier.verify()


# --- the manifest ---------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
@settings(max_examples=25, deadline=None)
@given(files=FOLDERS)
def test_sha256sum_reads_the_manifest(files: dict[str, bytes]) -> None:
    def check(folder: Path) -> int:
        command = ["sha256sum", "--check", "--strict", "--quiet", MANIFEST]
        return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode

    with filled(files) as folder:
        assert check(folder) == 0
        victim = folder / max(files)
        victim.write_bytes(victim.read_bytes() + b"\0")
        assert check(folder) != 0


def test_manifest_depends_on_the_data_alone(data: Path, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", dict(reversed(FILES.items())))
    (other / "empty folder").mkdir()
    path = DatasetVerifier(other, jobs=1).create()
    assert path == other / MANIFEST
    assert path.read_bytes() == (data / MANIFEST).read_bytes()
    digest = DatasetVerifier(other).digest
    assert digest == DatasetVerifier(data).digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {p.name for p in other.iterdir()} == {p.name for p in data.iterdir()} | {"empty folder"}

    (other / MANIFEST).unlink()
    (other / "a.pt").write_bytes(b"First")
    DatasetVerifier(other).create()
    assert DatasetVerifier(other).digest != digest


def test_manifest_can_lie_elsewhere(data: Path, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside.sha256", data / "sub" / "own.sha256"
    for manifest in (outside, inside):
        verifier = DatasetVerifier(data, manifest)
        assert verifier.create() == manifest
        # It does not list itself, but it lists the other manifest, which is a file like any other.
        assert verifier.entries().keys() == {*FILES, MANIFEST}
        verifier.verify()
        manifest.unlink()


def test_an_existing_manifest_is_kept(data: Path) -> None:
    before = (data / MANIFEST).read_bytes()
    (data / "a.pt").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"manifest\.sha256 exists; delete it first"):
        DatasetVerifier(data).create()
    assert (data / MANIFEST).read_bytes() == before


def test_render_and_parse_are_inverse() -> None:
    entries = {"b\\n\n\r": Entry(0, "0" * 64), "a": Entry(10**15, "f" * 64)}
    content = render(entries)
    assert parse(content) == entries
    assert content.decode() == f"{HEADER}# {10**15}\n{'f' * 64}  a\n# 0\n\\{'0' * 64}  b\\\\n\\n\\r\n"


LINE = f"# 1\n{'0' * 64}  "


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "its first line"),
        (f"{'0' * 64}  a\n", "its first line"),
        (HEADER, "lists no files"),
        (f"{HEADER}{LINE}b\n{LINE}a\n", "out of order"),
        (f"{HEADER}{LINE}a\n{LINE}a\n", "occur twice"),
        (f"{HEADER}{LINE}a\\b\n", "escaped wrongly"),
        (f"{HEADER}{LINE}a\n{'0' * 64}  b\n", "line 4 cannot be understood"),
        (f"{HEADER}{LINE}a", "line 2 cannot be understood"),
        (f"{HEADER}# 1\n{'A' * 64}  a\n", "line 2 cannot be understood"),
        (f"{HEADER}# 01\n{'0' * 64}  a\n", "escaped wrongly, out of order"),
        (f"{HEADER}# {'1' * 5000}\n{'0' * 64}  a\n", "damaged"),
    ],
)
def test_what_create_did_not_write_is_refused(content: str, expected: str, data: Path) -> None:
    (data / MANIFEST).write_text(content)
    message = refusal(data)
    assert f"{data / MANIFEST} is damaged: " in message
    assert expected in message
    with pytest.raises(DataError, match="is damaged"):
        DatasetVerifier(data).digest


# --- odd folders ----------------------------------------------------------------------------------


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    blobs = fill(tmp_path / "blobs", {"1": b"one", "more/2": b"two"})
    folder = fill(tmp_path / "data", {"real": b"x"})
    (folder / "file").symlink_to(blobs / "1")
    (folder / "folder").symlink_to(blobs / "more", target_is_directory=True)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    verifier = DatasetVerifier(tmp_path / "link")
    verifier.create()
    assert verifier.entries().keys() == {"real", "file", "folder/2"}
    # A copy without links is the same data.
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    DatasetVerifier(copy).verify()
    fill(blobs, {"more/2": b"TWO"})
    assert "'folder/2' has other content" in refusal(folder)
    (blobs / "1").unlink()
    assert f"{str(tmp_path / 'link' / 'file')!r} cannot be read: No such file" in refusal(tmp_path / "link")


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"sub/x": b""})
    (tmp_path / "sub" / "again").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(DataError, match="sub/again' is a link to a folder that holds it"):
        DatasetVerifier(tmp_path).create()
    (tmp_path / "sub" / "again").unlink()
    (tmp_path / "self").symlink_to(tmp_path / "self")
    with pytest.raises(DataError, match="self' cannot be read: Too many levels of symbolic links"):
        DatasetVerifier(tmp_path).create()


def test_what_is_no_file_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe' is neither a file nor a folder"):
        DatasetVerifier(tmp_path).create()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_unreadable_content_is_named(data: Path) -> None:
    # A file of size 0 like 'sub/deep/x.pt', whose first page nobody can read.
    (data / "sub/deep/x.pt").unlink()
    (data / "sub/deep/x.pt").symlink_to("/proc/self/mem")
    assert "sub/deep/x.pt' cannot be read: Input/output error" in refusal(data)
    (data / MANIFEST).unlink()
    with pytest.raises(DataError, match=r"x\.pt' cannot be read: Input/output error"):
        DatasetVerifier(data).create()
    assert not list(data.glob("*manifest*"))
    assert not list(data.glob(".*"))


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs Linux's /proc")
def test_a_file_that_grows_while_it_is_read_is_refused(data: Path) -> None:
    # Says that it holds 0 bytes, and yields more.
    (data / "sub/deep/x.pt").unlink()
    (data / "sub/deep/x.pt").symlink_to("/proc/version")
    assert "sub/deep/x.pt' changed while it was read" in refusal(data)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be an ordinary user, whom permissions stop."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


def test_permissions_are_named() -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        folder = fill(Path(place), {"secret": b"x", "closed/y": b"y", "open/z": b"z"})
        outside = folder / "open" / "own.sha256"
        os.chmod(folder / "open", 0o777)
        os.chmod(folder, 0o555)
        os.chmod(folder / "closed", 0o000)
        with without_privileges():
            with pytest.raises(DataError, match=r"manifest\.sha256 cannot be written: its folder is read-on"):
                DatasetVerifier(folder).create()
            with pytest.raises(DataError, match="closed' cannot be read: Permission denied"):
                DatasetVerifier(folder, outside).create()
        os.chmod(folder / "closed", 0o755)
        os.chmod(folder / "secret", 0o000)
        with without_privileges(), pytest.raises(DataError, match="secret' cannot be read: Permission deni"):
            DatasetVerifier(folder, outside).create()
        os.chmod(folder, 0o755)


def test_nothing_to_verify_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        DatasetVerifier(tmp_path).create()
    with pytest.raises(DataError, match=r"manifest\.sha256 does not exist; write it with"):
        DatasetVerifier(tmp_path).verify()
    with pytest.raises(DataError, match=r"manifest\.sha256 does not exist"):
        DatasetVerifier(tmp_path).digest
    with pytest.raises(DataError, match="nowhere does not exist, or is not a folder"):
        DatasetVerifier(tmp_path / "nowhere")
    fill(tmp_path, {"file": b""})
    with pytest.raises(DataError, match="file does not exist, or is not a folder"):
        DatasetVerifier(tmp_path / "file")
    with pytest.raises(ConfigError, match="jobs=0; it must be at least 1"):
        DatasetVerifier(tmp_path, jobs=0)
    with pytest.raises(DataError, match=r"x\.sha256 cannot be written: its folder is read-only or does not"):
        DatasetVerifier(tmp_path, tmp_path / "nowhere" / "x.sha256").create()
    with pytest.raises(DataError, match="sub cannot be read: Is a directory"):
        DatasetVerifier(tmp_path, tmp_path / "sub").verify()


# --- cost -----------------------------------------------------------------------------------------


def sparse(path: Path, size: int) -> None:
    """A file of ``size`` zero bytes that takes no space on the disk."""
    with path.open("wb") as file:
        file.truncate(size)


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    for name in "abc":
        sparse(tmp_path / name, 64 * CHUNK)
    verifier = DatasetVerifier(tmp_path, jobs=2)
    tracemalloc.start()
    verifier.create()
    verifier.verify()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * CHUNK


def test_the_first_wrong_file_ends_the_reading_of_others(tmp_path: Path) -> None:
    # Reading the second file to its end would take minutes.
    fill(tmp_path, {"a": b"a"})
    size = 1 << 38
    sparse(tmp_path / "b", size)
    (tmp_path / MANIFEST).write_bytes(render({"a": Entry(1, "0" * 64), "b": Entry(size, "0" * 64)}))
    start = time.monotonic()
    with pytest.raises(DataError, match="'a' has other content"):
        DatasetVerifier(tmp_path, jobs=2).verify()
    assert time.monotonic() - start < 20


# --- the command line -----------------------------------------------------------------------------


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fill(tmp_path / "my data", FILES)
    assert main(["data", "verify", str(folder)]) == 2
    assert "pwm: " in capsys.readouterr().err
    assert main(["data", "create-manifest", str(folder), "--jobs", "1"]) == 0
    digest = DatasetVerifier(folder).digest
    assert capsys.readouterr().out == f"{folder / MANIFEST}: 5 files, digest {digest}\n"
    assert main(["data", "create-manifest", str(folder)]) == 2
    assert "exists; delete it first" in capsys.readouterr().err
    for flags, what in (["--jobs", "2"], "names, sizes and contents"), (["--quick"], "names and sizes"):
        assert main(["data", "verify", str(folder), *flags]) == 0
        assert capsys.readouterr().out == f"{folder}: {what} of 5 files are right, digest {digest}\n"
    (folder / "a.pt").write_bytes(b"FIRST")
    assert main(["data", "verify", str(folder), "--quick"]) == 0
    assert main(["data", "verify", str(folder)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"pwm: data folder {folder} is not what {folder / MANIFEST} says: 'a.pt' has ")
    assert message.count("\n") == 1
    assert main(["data", "verify", str(folder), "--jobs", "0"]) == 2
    assert "jobs=0" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["data"], ["data", "check", "x"], ["data", "verify"]])
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: pwm data" in capsys.readouterr().err
