"""Files of TD-MPC2's published data: read as they are, and a hundred that must not be."""

from __future__ import annotations

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.offline_data import MT30, MT80, block, published, write_chunks, write_store

from pwm.data.offline.dataset import OfflineData
from pwm.data.offline.verification import verify_store
from pwm.datasets import conversion
from pwm.datasets.conversion import convert
from pwm.datasets.published import open_published, write_published
from pwm.errors import ConfigError, DataError, PwmError
from pwm.launch.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = MT30.names
WALKER, PENDULUM, CUP = (NAMES.index(name) for name in ("walker-walk", "pendulum-swingup", "cup-catch"))


def quiet(_: str) -> None:
    """Say nothing."""


def test_a_published_row_becomes_transitions(tmp_path: Path) -> None:
    chunk = published([WALKER, PENDULUM])
    write_chunks(tmp_path / "mt30", chunk)
    convert([tmp_path / "mt30"], tmp_path / "d", say=quiet)
    data = OfflineData(tmp_path / "d", horizon=500)
    # The first transition of every row: ranks 0 and 500, by task.
    batch = data.gather(torch.tensor([0, 500]))
    for column in range(2):
        assert int(batch.task[column]) == [WALKER, PENDULUM][column]
        for k in (0, 1, 499):
            assert torch.equal(batch.obs[k, column], chunk["obs"][column, k])
            assert torch.equal(batch.obs[k + 1, column], chunk["obs"][column, k + 1])
            assert torch.equal(batch.action[k, column], chunk["action"][column, k + 1])
            assert batch.reward[k, column] == chunk["reward"][column, k + 1]
    assert batch.valid.all()
    assert not batch.terminated.any()


@pytest.mark.parametrize("name", ["tdmpc2_data_tensordict04.pt", "tdmpc2_data_tensordict08.pt"])
def test_tensordicts_of_early_and_late_releases(tmp_path: Path, name: str) -> None:
    convert([GOLDEN / name], tmp_path / "d", say=quiet)
    assert verify_store(tmp_path / "d").content["counts"]["walker-walk"]["whole"] == 1
    data = OfflineData(tmp_path / "d", horizon=500)
    batch = data.gather(torch.tensor([0, 500]))
    t = torch.arange(1, 501)
    torch.testing.assert_close(batch.reward.T, torch.stack((t % 11 / 8, t % 2.0)))
    torch.testing.assert_close(batch.action[:, 0], ((t[:, None] % 9 - 4) / 4).expand(-1, 6))
    torch.testing.assert_close(batch.action[:, 1, 0], t % 3 - 1.0)
    torch.testing.assert_close(batch.obs[1:, 0], (t[:, None] % 7 + torch.arange(24) + 1) / 32)
    torch.testing.assert_close(batch.obs[1:, 1, :3], (t[:, None] % 5 + torch.arange(3) + 1) / 8)


def test_pieces_of_mt80_are_no_whole_episodes(tmp_path: Path) -> None:
    push = MT80.names.index("mw-push")
    write_chunks(tmp_path / "s", published([WALKER, push], MT80))
    convert([tmp_path / "s"], tmp_path / "d", say=quiet)
    content = verify_store(tmp_path / "d").content
    assert (content["task_set"], content["obs_dim"], content["row_length"]) == ("mt80", 39, 101)
    assert content["counts"] == {
        "walker-walk": {"segments": 1, "whole": 0, "transitions": 100},
        "mw-push": {"segments": 1, "whole": 1, "transitions": 100},
    }


def test_a_subset_of_tasks(tmp_path: Path) -> None:
    source = write_chunks(tmp_path / "s", published([WALKER, PENDULUM, WALKER]), published([CUP]))
    convert([source], tmp_path / "d", ["walker-walk"], say=quiet)
    assert OfflineData(tmp_path / "d", 1).transitions == {"walker-walk": 1000}
    with pytest.raises(DataError, match="no source has rows of task 'fish-swim'"):
        convert([source], tmp_path / "e", ["fish-swim"], say=quiet)
    with pytest.raises(ConfigError, match="'mw-push' is not one of"):
        convert([source], tmp_path / "e", ["mw-push"], say=quiet)
    assert not (tmp_path / "e").exists()


def test_what_is_written_in_the_published_layout_comes_back(tmp_path: Path) -> None:
    original = block(CUP, 3, 500)
    store = write_store(tmp_path / "a", [original])
    write_published(tmp_path / "s" / "chunk_0.pt", original, MT30)
    plain = torch.load(tmp_path / "s" / "chunk_0.pt", weights_only=True)
    assert {key: tuple(value.shape) for key, value in plain.items()} == {
        "obs": (3, 501, 24),
        "action": (3, 501, 6),
        "reward": (3, 501),
        "task": (3, 501),
    }
    assert plain["reward"][:, 0].isnan().all()
    convert([tmp_path / "s"], tmp_path / "b", say=quiet)
    steps = "000000/steps.npy"
    assert (store / steps).read_bytes() == (tmp_path / "b" / steps).read_bytes()


def test_episodes_that_are_longer_than_a_row_of_their_set_become_several(tmp_path: Path) -> None:
    original = block(WALKER, 2, 500, MT80)
    store = write_store(tmp_path / "a", [original], layout=MT80)
    write_published(tmp_path / "s" / "chunk_0.pt", original, MT80)
    assert open_published(tmp_path / "s" / "chunk_0.pt").obs.shape == (10, 101, 39)
    convert([tmp_path / "s"], tmp_path / "b", say=quiet)
    whole, pieces = OfflineData(store, 1), OfflineData(tmp_path / "b", 1)
    ranks = torch.arange(len(whole))
    for a, b in zip(whole.gather(ranks), pieces.gather(ranks), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(DataError, match="segments of 499 steps are no rows of 100 steps"):
        write_published(tmp_path / "s" / "chunk_1.pt", block(WALKER, 2, 499, MT80), MT80)


def test_a_killed_conversion_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "SHARD_STEPS", 2 * 501)
    chunks = [published([WALKER] * 3 + [CUP]), published([PENDULUM], first=4)]
    source = write_chunks(tmp_path / "s", *chunks)
    convert([source], tmp_path / "whole", say=quiet)

    def killed(message: str) -> None:
        raise KeyboardInterrupt(message)

    with pytest.raises(KeyboardInterrupt, match="shard 1 of 3"):
        convert([source], tmp_path / "parts", say=killed)
    said: list[str] = []
    convert([source], tmp_path / "parts", say=said.append)
    assert said == ["shard 2 of 3: chunk_0.pt, rows 2-4", "shard 3 of 3: chunk_1.pt, rows 0-1"]
    assert verify_store(tmp_path / "parts").digest == verify_store(tmp_path / "whole").digest
    # Another source, even of the same name and size, is another data set.
    chunks[1]["obs"][0, 5, 0] += 1
    write_chunks(source, *chunks)
    with pytest.raises(ConfigError, match="made from something else"):
        convert([source], tmp_path / "parts", say=quiet)


def test_padding_is_masked_only_when_asked(tmp_path: Path) -> None:
    chunk = published([PENDULUM])
    chunk["action"][0, 7, 3] = 0.25
    source = write_chunks(tmp_path / "s", chunk)
    with pytest.raises(DataError, match=r"chunk_0\.pt: segment 0 \(pendulum.*, step 6: action is not"):
        convert([source], tmp_path / "d", say=quiet)
    convert([source], tmp_path / "e", mask_padding=True, say=quiet)
    assert not OfflineData(tmp_path / "e", 500).gather(torch.tensor([0])).action[..., 1:].any()


def test_the_published_file_stays_on_disk_and_is_not_changed(tmp_path: Path) -> None:
    write_chunks(tmp_path, published([PENDULUM]))
    path = tmp_path / "chunk_0.pt"
    before = path.read_bytes()
    opened = open_published(path)
    opened.obs[0, 0, 0] = 5.0
    assert path.read_bytes() == before
    assert open_published(path).obs[0, 0, 0] != 5.0


# --- files that must be refused -------------------------------------------------------------------

MARKER = "executed"


class Hostile:
    """Runs a command when it is unpickled, if anybody lets it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def hostile(marker: Path) -> list[Any]:
    """Objects whose unpickling would leave ``marker``."""
    import os
    import subprocess

    name = str(marker)
    return [
        Hostile(os.system, f"touch '{name}'"),
        Hostile(exec, f"open({name!r}, 'w')"),
        Hostile(eval, f"open({name!r}, 'w')"),
        Hostile(open, name, "w"),
        Hostile(subprocess.check_call, ["touch", name]),
        Hostile(shutil.copyfile, __file__, name),
    ]


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def with_rows(change: Callable[[dict[str, Any]], Any]) -> bytes:
    chunk: dict[str, Any] = published([PENDULUM, WALKER])
    changed = change(chunk)
    return saved(chunk if changed is None else changed)


def replaced(key: str, make: Callable[[torch.Tensor], Any]) -> bytes:
    return with_rows(lambda chunk: chunk.update({key: make(chunk[key])}))


def number(key: str, place: Any, value: float) -> bytes:
    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor[place] = value
        return tensor

    return replaced(key, put)


def structure() -> Iterator[tuple[str, bytes]]:
    """Files of another structure than the layout's."""
    for key in ("obs", "action", "reward", "task"):
        yield f"{key} missing", with_rows(lambda chunk, key=key: {k: v for k, v in chunk.items() if k != key})
        yield f"{key} as list", replaced(key, lambda x: x[:, :2].tolist())
        yield f"{key} as float64", replaced(key, lambda x: x.double())
        yield f"{key} of one row less", replaced(key, lambda x: x[1:].clone())
        yield f"{key} of one step less", replaced(key, lambda x: x[:, 1:].clone())
        yield f"{key} flat", replaced(key, lambda x: x.flatten())
        yield f"{key} repeated by strides", replaced(key, lambda x: x[:1].clone().expand_as(x))
    yield "no rows", with_rows(lambda chunk: {k: v[:0].clone() for k, v in chunk.items()})
    yield "rows of 101", with_rows(lambda chunk: {k: v[:, :101].clone() for k, v in chunk.items()})
    yield "rows of 500", with_rows(lambda chunk: {k: v[:, :500].clone() for k, v in chunk.items()})
    yield "observations of 17", replaced("obs", lambda x: x[..., :17].clone())
    yield "actions of 4", replaced("action", lambda x: x[..., :4].clone())
    yield "a list", saved([1, 2])
    yield "a tensor", saved(torch.zeros(3))
    yield "names swapped", with_rows(lambda c: {**c, "obs": c["action"], "action": c["obs"]})
    yield "a world model", saved({"model": {"_encoder.state.0.weight": torch.zeros(3, 3)}})


def numbers() -> Iterator[tuple[str, bytes]]:
    """Files with numbers that cannot be what they are said to be."""
    for value in (float("nan"), float("inf"), -float("inf")):
        yield f"obs {value}", number("obs", (0, 0, 1), value)
        yield f"action {value}", number("action", (0, 3, 0), value)
        yield f"reward {value}", number("reward", (1, 500), value)
    yield "reward above", number("reward", (0, 9), 2.5)
    yield "reward below", number("reward", (0, 9), -0.1)
    yield "action above", number("action", (1, 9, 2), 1.5)
    yield "action below", number("action", (1, 9, 2), -7.0)
    yield "padded obs", number("obs", (0, 0, 3), 0.5)
    yield "padded action", number("action", (0, 1, 5), -0.5)
    yield "a task that changes", number("task", (0, 250), 8)
    yield "a task of MT80", number("task", 0, 31)
    yield "a negative task", number("task", 1, -1)
    yield "a walker called pendulum", number("task", 1, PENDULUM)
    yield "a pendulum called walker", number("task", 0, WALKER)
    yield "a pendulum called cup", number("task", 0, CUP)
    # The usual mistake: actions and rewards moved by one, so that the filler is read.
    yield "reward rolled", replaced("reward", lambda x: x.roll(1, 1))
    yield "action rolled", replaced("action", lambda x: x.roll(1, 1))


def bytes_damaged() -> Iterator[tuple[str, bytes]]:
    """Files that are cut off, overwritten or of another kind."""
    whole = saved(published([PENDULUM, WALKER]))
    for share in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999):
        yield f"cut at {share}", whole[: int(len(whole) * share)]
    for place in (0.05, 0.2, 0.4, 0.6, 0.8):
        at = int(len(whole) * place)
        yield f"flipped at {place}", whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :]
        yield f"zeroed at {place}", whole[:at] + bytes([255] * 4096) + whole[at + 4096 :]
    yield "empty", b""
    yield "text", b"obs,action,reward\n1,2,3\n"
    yield "a web page", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3800\n"
    yield "another zip", _zip({"readme.txt": b"hello"})
    yield "an npz", _npz()
    yield "zeros", bytes(10_000)


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, obs=np.zeros((1, 501, 24)))
    return buffer.getvalue()


def executable(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Files that would run something where they are unpickled."""
    for i, what in enumerate(hostile(marker)):
        yield f"hostile {i} alone", saved(what)
        yield f"hostile {i} as tensor", with_rows(lambda chunk, what=what: {**chunk, "obs": what})
        yield f"hostile {i} as plain pickle", pickle.dumps(what)


def test_a_hundred_files_are_refused_and_none_is_run(tmp_path: Path) -> None:
    marker, kinds = tmp_path / MARKER, []
    for name, content in [*structure(), *numbers(), *bytes_damaged(), *executable(marker)]:
        path = tmp_path / "chunk_0.pt"
        path.write_bytes(content)
        problem = "it was taken"
        try:
            convert([path], tmp_path / "d", say=quiet)
        except PwmError as error:
            problem = str(error)
        # The file and, behind it, a reason.
        assert str(path) in problem, f"{name}: {problem}"
        assert len(problem) > len(str(path)) + 10, f"{name}: {problem}"
        kinds.append(name)
        assert not marker.exists(), f"{name} was executed"
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
    assert len(set(kinds)) == len(kinds) >= 100


def test_the_hostile_files_are_hostile(tmp_path: Path) -> None:
    for what in hostile(tmp_path / MARKER):
        function, arguments = what.__reduce__()
        opened = function(*arguments)
        assert (tmp_path / MARKER).exists()
        if isinstance(opened, io.IOBase):
            opened.close()
        (tmp_path / MARKER).unlink()


def test_an_unreadable_mixture_of_sources_is_refused(tmp_path: Path) -> None:
    mt30 = write_chunks(tmp_path / "a", published([WALKER]))
    mt80 = write_chunks(tmp_path / "b", published([WALKER], MT80))
    shutil.move(mt80 / "chunk_0.pt", mt80 / "chunk_7.pt")
    for sources, message in (
        ([mt30, mt80], "chunk_7.pt is of mt80, .*chunk_0.pt of mt30"),
        ([mt30, mt30], "two sources are called chunk_0.pt"),
        ([tmp_path / "c"], "no such file"),
        ([tmp_path], r"holds no chunk_\*\.pt"),
    ):
        with pytest.raises(PwmError, match=message):
            convert(sources, tmp_path / "d", say=quiet)
        assert not (tmp_path / "d").exists()


def test_a_damaged_data_set_is_refused(tmp_path: Path) -> None:
    good = write_store(tmp_path / "good", [block(PENDULUM, 2, 5)], [block(CUP, 1, 5)])
    steps, manifest = "000000/steps.npy", "manifest.json"

    def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
        return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None

    damages: dict[str, Callable[[Path], Any]] = {
        "000000/steps.npy' has other content": edit(steps, lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]),
        "000000/steps.npy' has": edit(steps, lambda b: b[:-4]),
        "000000/segments.npy' is missing": lambda folder: (folder / "000000/segments.npy").unlink(),
        "'notes.txt' is not listed": lambda folder: (folder / "notes.txt").touch(),
        "'000001/": lambda folder: shutil.rmtree(folder / "000001"),
        "manifest.json is damaged: ": edit(manifest, lambda b: b[:-40]),
        "has version 2": edit(manifest, lambda b: b.replace(b'"version": 1', b'"version": 2')),
        "widths are not those": edit(manifest, lambda b: b.replace(b'"obs_dim": 24', b'"obs_dim": 23', 1)),
        "counts": edit(manifest, lambda b: b.replace(b'"transitions": 10', b'"transitions": 11')),
        "has no shards": edit(manifest, lambda b: b.replace(b'"shards"', b'"shard"')),
    }
    for message, damage in damages.items():
        folder = tmp_path / "bad"
        shutil.copytree(good, folder)
        damage(folder)
        with pytest.raises(DataError) as raised:
            verify_store(folder)
        assert message in str(raised.value), raised.value
        shutil.rmtree(folder)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_chunks(tmp_path / "s", published([WALKER, PENDULUM]))
    folder = str(tmp_path / "d")
    assert main(["data", "convert", str(source), "--to", folder, "--tasks", "walker-walk"]) == 0
    assert "walker-walk         1         1          500" in capsys.readouterr().out
    assert main(["data", "info", folder]) == 0
    assert "sources: ['chunk_0.pt']" in capsys.readouterr().out
    assert main(["data", "verify", folder]) == 0
    assert "every number of 2 files are right" in capsys.readouterr().out
    assert main(["data", "create-manifest", folder]) == 2
    assert "a manifest of its own" in capsys.readouterr().err
    (tmp_path / "d" / "000000" / "steps.npy").write_bytes(b"")
    assert main(["data", "verify", folder, "--quick"]) == 2
    assert main(["data", "info", str(source)]) == 2
    assert "is no data set: it holds files like chunk_0.pt" in capsys.readouterr().err
