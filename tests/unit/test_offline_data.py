"""Data sets on disk: windows against data made by hand, sampling, memory, what interrupts the writing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from tests.unit.offline_data import MT30, block, write_store

from pwm.data.offline import dataset
from pwm.data.offline.dataset import OfflineData
from pwm.data.offline.layout import Block, pack
from pwm.data.offline.verification import describe_store, verify_store
from pwm.data.offline.writer import writing
from pwm.errors import ConfigError, DataError

PENDULUM, CUP, FINGER = map(MT30.names.index, ("pendulum-swingup", "cup-catch", "finger-spin"))


def joined(*blocks: Block) -> Block:
    steps = np.concatenate([b.steps for b in blocks])
    segments = np.concatenate([b.segments for b in blocks])
    lengths = segments["transitions"].astype(np.int64) + 1
    segments["start"] = np.cumsum(lengths) - lengths
    return Block(steps, segments)


def by_hand(first: float, length: int, terminated: bool = False) -> Block:
    """One pendulum segment: observations first, first+1, ...; action and reward t of the t-th transition."""
    t = np.arange(length + 1)
    obs = (first + t)[None, :, None] + np.array([0.25, 0.5, 0.75])
    action = (t[:-1] / 100)[None, :, None]
    ends = np.zeros((1, length))
    ends[0, -1] = terminated
    return pack(MT30, np.array([PENDULUM]), obs, action, t[None, :-1] / 50, ends)


def test_windows_of_hand_made_segments(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "d", [joined(by_hand(100, 5), by_hand(200, 2, terminated=True))])
    data = OfflineData(folder, horizon=3, padded=False)
    assert (len(data), data.obs_dim, data.act_dim) == (7, 3, 1)
    batch = data.gather(torch.arange(7))
    assert batch.task is None
    # Transition k is (obs[k], action[k], reward[k], obs[k+1]); behind the end the last observation repeats.
    expected = [
        [100, 101, 102, 103],
        [101, 102, 103, 104],
        [102, 103, 104, 105],
        [103, 104, 105, 105],
        [104, 105, 105, 105],
        [200, 201, 202, 202],
        [201, 202, 202, 202],
    ]
    np.testing.assert_array_equal(batch.obs[..., 0].T.numpy(), np.array(expected) + 0.25)
    np.testing.assert_array_equal(batch.obs[..., 2].T.numpy(), np.array(expected) + 0.75)
    steps = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0], [4, 0, 0], [0, 1, 0], [1, 0, 0]])
    torch.testing.assert_close(batch.action[..., 0].T, steps / 100)
    torch.testing.assert_close(batch.reward.T, steps / 50)
    lengths = torch.tensor([3, 3, 3, 2, 1, 2, 1])
    torch.testing.assert_close(batch.valid.T, torch.arange(3) < lengths[:, None])
    assert batch.terminated.T.nonzero().tolist() == [[5, 1], [6, 0]]
    with pytest.raises(DataError, match=r"ranks 0\.\.7 are out of range 0\.\.6"):
        data.gather(torch.arange(8))


def test_windows_stay_in_their_segment_and_carry_its_task(tmp_path: Path) -> None:
    blocks = [[block(PENDULUM, 3, 4, seed=1)], [block(CUP, 2, 6, seed=2), block(PENDULUM, 1, 9, seed=3)]]
    folder = write_store(tmp_path / "d", *blocks)
    data = OfflineData(folder, horizon=5)
    assert data.transitions == {"pendulum-swingup": 21, "cup-catch": 12}
    batch = data.gather(torch.arange(len(data)))
    steps = np.concatenate([b.steps for part in blocks for b in part])
    seen = {bytes(row["obs"].tobytes()): i for i, row in enumerate(steps)}
    ends = np.cumsum([5, 5, 5, 7, 7, 10]) - 1
    starts = [seen[row.tobytes()] for row in batch.obs[0].numpy()]
    assert sorted(starts) == [i for i in range(len(steps)) if i not in ends]
    for column, start in enumerate(starts):
        last = int(ends[np.searchsorted(ends, start)])
        rows = [min(start + t, last) for t in range(6)]
        np.testing.assert_array_equal(batch.obs[:, column], steps["obs"][rows])
        np.testing.assert_array_equal(batch.action[:, column], steps["action"][rows[:5]])
        assert batch.valid[:, column].sum() == min(5, last - start)
        wide = int((batch.obs[0, column] != 0).sum())
        assert MT30.tasks[int(batch.task[column])].obs_dim == wide


def test_sampling_is_uniform_or_balanced_and_a_function_of_the_generator(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "d", [block(PENDULUM, 4, 90)], [block(CUP, 1, 40)])
    generator = torch.Generator().manual_seed(0)
    for balanced, share in ((False, 0.9), (True, 0.5)):
        data = OfflineData(folder, 2, balanced=balanced)
        state = generator.get_state()
        tasks = torch.cat([data.sample(1000, generator).task for _ in range(4)])
        assert abs(float((tasks == PENDULUM).float().mean()) - share) < 0.03
        after = data.sample(50, generator)
        again = torch.Generator()
        again.set_state(state)
        other = OfflineData(folder, 2, balanced=balanced)
        assert torch.equal(torch.cat([other.sample(1000, again).task for _ in range(4)]), tasks)
        repeated = other.sample(50, again)
        assert all(torch.equal(a, b) for a, b in zip(after, repeated, strict=True))
    chosen = OfflineData(folder, 2, tasks=["cup-catch"])
    assert set(chosen.sample(100, generator).task.tolist()) == {CUP}
    own = OfflineData(folder, 2, tasks=["cup-catch"], padded=False)
    assert (own.obs_dim, own.act_dim, own.sample(3, generator).task) == (8, 2, None)
    # Every transition of a task is drawn about equally often.
    first = OfflineData(folder, 1, tasks=["cup-catch"]).sample(8000, generator).obs[0].numpy()
    counts = np.unique(first, axis=0, return_counts=True)[1]
    assert len(counts) == 40
    assert 120 < counts.min() < counts.max() < 290


def test_what_cannot_be_sampled_is_refused(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "d", [block(PENDULUM, 1, 5)], [block(CUP, 1, 5)])
    for arguments, message in (
        ({"horizon": 0}, "horizon=0"),
        ({"horizon": 1, "tasks": ["walker-wlk"]}, "'walker-wlk' is not one of"),
        ({"horizon": 1, "padded": False}, "2 tasks have no widths of their own"),
    ):
        with pytest.raises(ConfigError, match=message):
            OfflineData(folder, **arguments)
    with pytest.raises(DataError, match="no data of task 'walker-walk'"):
        OfflineData(folder, 1, tasks=["walker-walk"])
    with pytest.raises(DataError, match="batch_size=0"):
        OfflineData(folder, 1).sample(0, torch.Generator())


def test_an_interrupted_writer_continues_with_what_is_missing(tmp_path: Path) -> None:
    parts = [[block(PENDULUM, 2, 8, seed=i)] for i in range(3)]
    whole = write_store(tmp_path / "whole", *parts)
    folder, plan = tmp_path / "parts", [{"part": i} for i in range(3)]

    def dying() -> object:
        yield parts[1][0]
        raise KeyboardInterrupt

    def begin(*blocks: object) -> None:
        with writing(folder, MT30, plan, {"made_by": "a test"}) as writer:
            for number, part in enumerate(blocks):
                writer.write(number, part, f"part {number}")

    with pytest.raises(KeyboardInterrupt):
        begin(dying())
    # A kill leaves more than an interruption: what was begun.
    (folder / "000000.tmp").mkdir()
    with pytest.raises(KeyboardInterrupt):
        begin(parts[0], dying())
    with pytest.raises(DataError, match="unfinished data set"):
        OfflineData(folder, 1)
    # A shard that is not finished, one that the manifest does not know, and what is none of ours.
    (folder / "notes").mkdir()
    (folder / "000001.tmp").mkdir()
    shutil.copytree(folder / "000000", folder / "000002")
    before = (folder / "000000" / "steps.npy").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="made from something else"):
        write_store(folder, *parts[:2])
    with writing(folder, MT30, plan, {"made_by": "a test"}) as writer:
        assert writer.missing == [1, 2]
        (folder / "notes").rmdir()
        for number in (1, 2):
            writer.write(number, parts[number], f"part {number}")
    assert (folder / "000000" / "steps.npy").stat().st_mtime_ns == before
    assert verify_store(folder).digest == verify_store(whole).digest
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        write_store(other, *parts)


def test_sampling_a_store_larger_than_its_bound_keeps_memory_flat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 4 << 20
    monkeypatch.setattr(dataset, "RESIDENT_BYTES", bound)
    one = block(0, 120, 500)
    folder = write_store(tmp_path / "d", *[[one] for _ in range(8)])
    size = sum(path.stat().st_size for path in folder.rglob("*.npy"))
    assert size > 14 * bound
    data, generator, process = OfflineData(folder, 3), torch.Generator().manual_seed(0), psutil.Process()
    data.sample(256, generator)
    before = process.memory_info().rss
    most = 0
    for _ in range(80):
        data.sample(256, generator)
        most = max(most, process.memory_info().rss - before)
    # A draw of 256 windows alone may touch 32 MiB of pages; all together would be the whole store.
    assert most < 40 << 20 < size


def test_single_numbers_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    def refusal(change, task: int = PENDULUM) -> str:
        changed = block(task, 3, 4)
        change(changed.steps, changed.segments)
        with pytest.raises(DataError) as raised:
            write_store(tmp_path / "d", [block(task, 1, 4), changed])
        shutil.rmtree(tmp_path / "d")
        return str(raised.value)

    def put(field, row, value):
        def change(steps, segments):
            steps[field][row] = value

        return change

    where = r"part 0: segment 2 (pendulum-swingup), step 1: "
    # Row 6 of the block is the second row of its second segment, which is the third of the part.
    assert refusal(put("obs", (6, 1), np.nan)).startswith(where + "obs is not finite")
    assert refusal(put("action", (6, 0), np.inf)).startswith(where + "action is not finite")
    assert refusal(put("obs", (6, 3), 1.0)).startswith(where + "obs is not zero beyond")
    assert refusal(put("action", (6, 1), 0.5)).startswith(where + "action is not zero beyond")
    assert refusal(put("action", (6, 0), 1.01)).startswith(where + "action is outside [-1, 1]")
    assert "terminated is neither" in refusal(put("terminated", 6, 1.0))
    assert "terminated is neither" in refusal(put("terminated", 8, 0.5))
    assert "END row holds a transition" in refusal(put("action", (9, 0), 0.5))
    assert "sums of rewards" in refusal(put("reward", 6, 1.99))

    def lower(steps, segments):
        steps["reward"][6] = -0.5
        segments["reward_sum"][1] = steps["reward"][5:10].sum()

    assert "reward is outside the task's range: -0.5" in refusal(lower)

    def task_80(steps, segments):
        segments["task"][1] = 80

    assert "80 is not below 30" in refusal(task_80)

    def overlap(steps, segments):
        segments["start"][1] -= 1

    assert "do not cover" in refusal(overlap)

    def walker(steps, segments):
        segments["task"] = 1

    assert "(walker-walk): its observations are 3 wide, like those of pendulum-s" in refusal(walker)


def test_a_finger_that_never_touches_is_no_mislabelled_task(tmp_path: Path) -> None:
    """Speed of the body and both sensors stay zero, which leaves as many columns as acrobot has."""
    finger = block(FINGER, 2, 9)
    finger.steps["obs"][:, 6:] = 0.0
    verify_store(write_store(tmp_path / "d", [finger]))
    finger.steps["obs"][:, 5:] = 0.0
    with pytest.raises(
        DataError, match=r"\(finger-spin\): its observations are 5 wide, like those of cartpole"
    ):
        write_store(tmp_path / "e", [finger])


def test_the_description_counts_what_is_there(tmp_path: Path) -> None:
    text = describe_store(write_store(tmp_path / "d", [block(PENDULUM, 3, 4), block(CUP, 2, 7)]))
    assert "pendulum-swingup         3         0           12" in text
    assert "26 transitions in segments of different lengths" in text
