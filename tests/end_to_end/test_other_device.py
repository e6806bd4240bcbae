"""A state that was saved on a GPU continues on a CPU, and the other way round, with new random streams."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
import torch
from tests.end_to_end.tiny import ANALYTIC, HOPPER, assert_same_weights, metrics, train, trained
from torch import Tensor

from pwm.checkpoints import storage
from pwm.checkpoints.storage import STATE_FORMAT
from pwm.envs.base import restore_generator

# A CUDA generator's state: seed and offset, two 64-bit integers.
ON_GPU = torch.tensor(list(struct.pack("=qq", 7, 40)), dtype=torch.uint8)


def test_a_state_of_a_gpu_continues_on_a_cpu(tmp_path: Path) -> None:
    first = trained(tmp_path / "a", *HOPPER, "general.epochs=1")
    runs = [first, tmp_path / "b" / first.relative_to(tmp_path / "a")]
    shutil.copytree(*runs)
    for run in runs:
        state = storage.load(run / "latest.pt", STATE_FORMAT)
        content = {key: value for key, value in state.items() if key not in ("format", "version")}
        content["trainer"]["agent"]["generator"] = ON_GPU
        content["trainer"]["env"]["generator"] = ON_GPU
        storage.save(run / "latest.pt", STATE_FORMAT, content)
        with pytest.warns(RuntimeWarning, match="another kind of device: new random streams") as warned:
            assert train(run.parents[2], *HOPPER, "general.epochs=2") == 0
        assert len({str(w.message) for w in warned}) == 1
        assert [record["epoch"] for record in metrics(run)] == [0, 1, 2]
    # The new streams follow from the state.
    assert_same_weights(runs[0] / "final_policy.pt", runs[1] / "final_policy.pt")


class GpuGenerator:
    """Keeps its state as a CUDA generator does, and as strictly, where there is no GPU."""

    def __init__(self) -> None:
        self.state = ON_GPU

    def get_state(self) -> Tensor:
        return self.state.clone()

    def set_state(self, state: Tensor) -> None:
        if state.numel() != 16:
            raise RuntimeError("RNG state is wrong size")
        self.state = state

    def manual_seed(self, seed: int) -> GpuGenerator:
        self.state = torch.tensor(list(struct.pack("=qq", seed, 0)), dtype=torch.uint8)
        return self


def test_the_reverse() -> None:
    on_cpu = torch.Generator().manual_seed(3)
    first, second = GpuGenerator(), GpuGenerator()
    for generator in (first, second):
        with pytest.warns(RuntimeWarning, match="another kind of device"):
            restore_generator(generator, on_cpu.get_state())  # type: ignore[arg-type]
    assert first.state.tolist() == second.state.tolist() != ON_GPU.tolist()
    torch.rand(1, generator=on_cpu)
    with pytest.warns(RuntimeWarning, match="another kind of device"):
        restore_generator(second, on_cpu.get_state())  # type: ignore[arg-type]
    assert first.state.tolist() != second.state.tolist()


def test_a_state_of_the_same_kind_goes_on_exactly() -> None:
    before = torch.Generator().manual_seed(3)
    torch.rand(5, generator=before)
    after = torch.Generator().manual_seed(4)
    restore_generator(after, before.get_state())
    assert torch.equal(torch.rand(9, generator=after), torch.rand(9, generator=before))
    gpu = GpuGenerator()
    restore_generator(gpu, ON_GPU + 1)  # type: ignore[arg-type]
    assert gpu.state.tolist() == (ON_GPU + 1).tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")], ids="->".join)
def test_a_run_changes_its_device(devices: tuple[str, str], tmp_path: Path) -> None:
    run = trained(tmp_path, *ANALYTIC, "general.epochs=1", f"general.device={devices[0]}")
    with pytest.warns(RuntimeWarning, match="another kind of device"):
        assert train(tmp_path, *ANALYTIC, "general.epochs=3", f"general.device={devices[1]}") == 0
    assert len(metrics(run)) == 4
