"""Files that users take for checkpoints: read without running anything, or named in one sentence."""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.unit.foreign_checkpoints import RunningMeanStd

from pwm.checkpoints import storage
from pwm.checkpoints.file_kinds import describe_file
from pwm.errors import CheckpointError
from pwm.interop.files import read_file
from pwm.interop.pickles import Record, array

WEIGHTS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.arange(4, dtype=torch.float16),
    "c": torch.zeros(0),
}
FORMATS: dict[str, dict[str, Any]] = {
    "archive": {},
    "archive, protocol 4": {"pickle_protocol": 4},
    "before 1.6": {"_use_new_zipfile_serialization": False},
    "before 1.6, protocol 5": {"_use_new_zipfile_serialization": False, "pickle_protocol": 5},
}


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_tensors_are_read_as_torch_reads_them(options: dict[str, Any], tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        **WEIGHTS,
        "view": base[1:3, ::2],
        "transposed": base.T,
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "flags": torch.tensor([True, False]),
        "bfloat16": torch.ones(5, dtype=torch.bfloat16),
        "complex": torch.ones(2, dtype=torch.complex64),
        "nested": [{"deep": torch.full((2,), 7.0)}, (1, 2.5, "x", None, True)],
        "size": torch.Size([3]),
    }
    torch.save(content, tmp_path / "file.pt", **options)
    found = read_file(tmp_path / "file.pt")
    assert found.keys() == content.keys()
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)
    assert torch.equal(found["nested"][0]["deep"], content["nested"][0]["deep"])
    assert found["nested"][1] == content["nested"][1]
    assert found["size"] == torch.Size([3])


def test_shapes_without_data_stay_so(tmp_path: Path) -> None:
    torch.save({"meta": torch.empty(3, 4, device="meta")}, tmp_path / "file.pt")
    found = read_file(tmp_path / "file.pt")["meta"]
    assert found.is_meta
    assert found.shape == (3, 4)


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_objects_become_records(options: dict[str, Any], tmp_path: Path) -> None:
    content = {
        "statistics": RunningMeanStd(np.arange(3.0), np.float32(2.0), np.int64(5)),
        "fortran": np.asfortranarray(np.arange(6.0, dtype=">f8").reshape(2, 3)),
        "settings": argparse.Namespace(rate=0.1, path=Path("x")),
        "lists": collections.defaultdict(list, {"a": [1]}),
        "set": {1, 2},
    }
    torch.save(content, tmp_path / "file.pt", **options)
    found = read_file(tmp_path / "file.pt")
    statistics = found["statistics"]
    assert isinstance(statistics, Record)
    assert statistics.origin.endswith("foreign_checkpoints.RunningMeanStd")
    for name, value in (("mean", [0.0, 1.0, 2.0]), ("var", 2.0), ("count", 5)):
        values = array(statistics.attributes[name])
        assert values is not None
        assert values.tolist() == value
    assert array(found["fortran"]).tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert found["settings"].attributes["rate"] == 0.1
    assert found["lists"].entries == {"a": [1]}
    assert found["set"] == {1, 2}


class Malicious:
    """Pickles as a call of ``function``; whoever runs the pickle makes it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", ["system", "eval", "open", "load", "getattr"])
def test_malicious_files_are_not_run(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    attacks = {
        "system": Malicious(os.system, f"touch {mark}"),
        "eval": Malicious(eval, f"open({str(mark)!r}, 'w')"),
        "open": Malicious(open, str(mark), "w"),
        "load": Malicious(torch.load, str(mark)),
        "getattr": Malicious(getattr, "text", "upper"),
    }
    path = tmp_path / "file.pt"
    torch.save({"model": dict(WEIGHTS), "extra": attacks[name]}, path, **options)
    found = read_file(path)
    assert torch.equal(found["model"]["a"], WEIGHTS["a"])
    assert isinstance(found["extra"], Record)
    assert not mark.exists()
    # The attack works where files are trusted.
    if name in ("system", "eval", "open"):
        function, arguments = attacks[name].call
        function(*arguments)
        assert mark.exists()


HOSTILE = {
    "nested": b"\x80\x02" + b"]q\x00" + b"(h\x00h\x00e" * 4 + b".",
    "set attributes of a class": b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "set attributes of a function": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x01\x00\x00\x00aK\x01s\x86b."
    ),
    "no stack": b"\x80\x02R.",
    "huge memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "not callable": b"\x80\x02K\x01)R.",
    "endless": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
    "unknown operation": b"\x80\x02\xff.",
    "extension": b"\x80\x02\x82\x01.",
    "reference": b"\x80\x02X\x01\x00\x00\x00aQ.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_end_in_one_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/data.pkl", HOSTILE[name])
    # Some are harmless once no name means anything.
    with contextlib.suppress(CheckpointError):
        read_file(path)
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError, match="pickle"):
        read_file(path)
    assert not hasattr(collections.OrderedDict, "a")


def test_a_tensor_larger_than_its_data_has_none(tmp_path: Path) -> None:
    torch.save({"repeated": torch.zeros(1).expand(1 << 40)}, tmp_path / "file.pt")
    assert read_file(tmp_path / "file.pt")["repeated"].is_meta


def script(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("policy.pth", "x")


def numpy_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


KINDS: dict[str, tuple[bytes | Callable[[Path], None], str]] = {
    "empty": (b"", "an empty file"),
    "zeros": (bytes(900), "a file of zeros"),
    "html": (b"\n  <!DOCTYPE HTML><html><body>404 Not Found", "an HTML page"),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML file"),
    "json": (b'{"error": "gone"}', "a JSON file"),
    "text": (b"layers: 3\n", "a text file that begins with 'layers: 3'"),
    "png": (b"\x89PNG\r\n\x1a\n\x00\x00", "a PNG image"),
    "jpeg": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG image"),
    "gif": (b"GIF89a\x01\x00", "a GIF image"),
    "pdf": (b"%PDF-1.7\n", "a PDF document"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "a gzip archive"),
    "tar": (b"\0" * 257 + b"ustar\0" + b"\0" * 300, "a tar archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "numpy": (numpy_array, "a NumPy array"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "unknown": (bytes(range(200, 256)), "a file of no known kind, whose first bytes are c8 c9 ca cb"),
    "program": (script, "a TorchScript program"),
    "archive": (archive, "a zip archive that holds policy.pth"),
    "pickle": (pickle.dumps([1, 2]), "a Python pickle: a list of 2 values"),
    "pickled object": (
        pickle.dumps(RunningMeanStd(0, 1, 2)),
        "object of class tests.unit.foreign_checkpoints",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    make, expected = KINDS[name]
    path = tmp_path / "file.pt"
    path.write_bytes(make) if isinstance(make, bytes) else make(path)
    with pytest.raises(CheckpointError) as caught:
        read_file(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.pt does not exist"):
        read_file(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="it is a folder"):
        read_file(tmp_path)
    assert describe_file(tmp_path) == "a folder"


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["archive", "before 1.6", "safetensors"])
def test_truncated_files_are_named(kind: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    weights = {f"layer{i}": torch.randn(20, 20) for i in range(6)}
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, **FORMATS[kind])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(CheckpointError, match=r"truncated|damaged"):
        read_file(path)


def test_flipped_bits_of_an_archive_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    values = torch.randn(100, 10)
    torch.save({"a": values}, path)
    whole, noticed = path.read_bytes(), 0
    for position in range(0, len(whole), 97):
        content = bytearray(whole)
        content[position] ^= 4
        path.write_bytes(content)
        try:
            found = read_file(path)
        except CheckpointError:
            noticed += 1
        else:
            # Some bytes of an archive mean nothing.
            assert torch.equal(found["a"], values)
    assert noticed > 40


@pytest.mark.parametrize("name", ["object", "code", "program", "state dict", "html", "truncated"])
def test_no_refusal_repeats_advice_to_switch_safety_off(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    if name == "object":
        torch.save({"format": storage.POLICY_FORMAT, "x": RunningMeanStd(0, 1, 2)}, path)
    elif name == "code":
        torch.save({"model": Malicious(os.system, f"touch {tmp_path / 'mark'}")}, path)
    elif name == "program":
        script(path)
    elif name == "html":
        path.write_bytes(b"<html>")
    else:
        torch.save(WEIGHTS, path)
        if name == "truncated":
            path.write_bytes(path.read_bytes()[:-50])
    for load in (read_file, lambda p: storage.load(p, storage.POLICY_FORMAT)):
        try:
            load(path)
        except CheckpointError as error:
            message = str(error)
            assert str(path) in message
            assert "\n" not in message
            for advice in ("weights_only", "trust", "safe_globals", "arbitrary"):
                assert advice not in message
    assert not (tmp_path / "mark").exists()
