"""Several processes that train one world model together: the same steps as one, whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.end_to_end.processes import wait
from tests.end_to_end.tiny import ANALYTIC, metrics
from tests.unit.offline_data import block, write_store

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.launch.cli import main
from pwm.runs.preemption import EXIT_CODE

WALKER, REACHER = 1, 4
MODEL = [
    "alg.latent_dim=16",
    "alg.encoder_units=[16]",
    "alg.reward_units=[16]",
    "alg.dynamics.units=[16]",
    "alg.wm_batch_size=8",
    "alg.horizon=3",
    "alg.held_out=0.3",
    "general.progress=false",
    "general.threads=1",
    "general.name=model",
]
FLOW = ["alg=pwm_multitask_flow", "alg.task_dim=4", "alg.balanced=true", "alg.accumulate=2"]
OBSERVATIONS = ["alg.latents=observations", "alg.obs_rms=true", "tasks=walker-walk", "dynamics=residual"]
# Of the whole, not of a share, and not the time that things took.
COMPARED = ("wm/", "heldout/", "lr/", "transitions", "updates", "epoch")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segments of different lengths of two tasks, shorter than windows at their ends."""
    folder = tmp_path_factory.mktemp("store") / "data"
    blocks = [block(WALKER, 4, 9), block(WALKER, 3, 20, seed=1), block(REACHER, 5, 12, seed=2)]
    return write_store(folder, blocks[:2], blocks[2:])


def words(logdir: Path, data: Path, *changes: str) -> list[str]:
    given = {word.partition("=")[0] for word in changes}
    sizes = [word for word in MODEL if word.partition("=")[0] not in given]
    return ["pretrain", f"data={data}", f"general.logdir={logdir}", *sizes, *changes]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def forked(arguments: list[str], size: int) -> list[int]:
    """Start ``pwm`` in ``size`` processes that find each other as torchrun's do; returns their pids."""
    torch.set_num_threads(1)
    shared = {
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(size),
    }
    pids = []
    for rank in range(size):
        if pid := os.fork():
            pids.append(pid)
            continue
        try:
            os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
            TrainingVisualizer.generate_all_plots = lambda self: []
            os._exit(main(arguments))
        finally:
            os._exit(70)
    return pids


def run_of(logdir: Path) -> Path:
    (found,) = logdir.glob("*/model/seed*")
    return found


def compared(logdir: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in record.items() if name.startswith(COMPARED)}
        for record in metrics(run_of(logdir))
    ]


def assert_close(one: list[dict[str, float]], other: list[dict[str, float]], tolerance: float) -> None:
    assert len(one) == len(other) > 1
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert second[name] == pytest.approx(value, rel=tolerance, abs=1e-7), name


@pytest.mark.parametrize("kind", [FLOW, OBSERVATIONS], ids=["flow", "observations"])
def test_two_processes_take_the_steps_of_one(
    data: Path, tmp_path: Path, kind: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 updates, the last 20 after a continuation with another number of processes."""
    monkeypatch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
    # Without decay, a longer run takes the same steps.
    size = [*kind, "alg.wm_iterations=5", "alg.lr_schedule=constant", "general.eval_every=2"]
    assert main(words(tmp_path / "one", data, *size, "general.epochs=10")) == 0
    for epochs, ranks in ((6, 2), (10, 4)):
        arguments = words(tmp_path / "many", data, *size, f"general.epochs={epochs}")
        assert [wait(pid) for pid in forked(arguments, ranks)] == [0] * ranks
    assert_close(compared(tmp_path / "one"), compared(tmp_path / "many"), 1e-5)
    manifest = json.loads((run_of(tmp_path / "many") / "manifest.json").read_text())
    assert (manifest["processes"], manifest["earlier"][-1]["processes"]) == (4, 2)


def test_a_signal_to_any_process_stops_all_at_the_same_update(data: Path, tmp_path: Path) -> None:
    long = [*FLOW, "alg.wm_iterations=5", "general.epochs=100000", "general.save_interval=0"]
    pids = forked(words(tmp_path, data, *long), 2)
    while not list(tmp_path.glob("*/model/seed*/latest.pt")):
        time.sleep(0.05)
    os.kill(pids[1], signal.SIGUSR1)
    assert [wait(pid) for pid in pids] == [EXIT_CODE, EXIT_CODE]
    status = json.loads((run_of(tmp_path) / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("preempted", "received a signal in another process")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["alg.wm_batch_size=9"], "alg.wm_batch_size=9 windows cannot be shared equally by 2 processes"),
        (None, "torchrun started 2 processes, but alg.trainer=online trains in one"),
    ],
    ids=["odd", "online"],
)
def test_what_cannot_be_shared_is_refused(
    data: Path, tmp_path: Path, changes: list[str] | None, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    single = ["train", f"general.logdir={tmp_path}", *ANALYTIC]
    arguments = single if changes is None else words(tmp_path, data, *FLOW, *changes)
    assert [wait(pid) for pid in forked(arguments, 2)] == [2, 2]
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return sorted(int(line) for line in found.stdout.split())


@pytest.mark.slow
def test_torchrun_starts_again_after_a_killed_process(data: Path, tmp_path: Path) -> None:
    epochs = 150
    size = [*FLOW, "alg.wm_iterations=2", "general.save_interval=0", "general.eval_every=100"]
    arguments = words(tmp_path, data, *size, f"general.epochs={epochs}")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    torchrun += [f"--master-port={free_port()}", "-m", "pwm.launch.cli"]
    with (tmp_path / "output.txt").open("w") as log:
        process = subprocess.Popen([*torchrun, *arguments], stdout=log, stderr=subprocess.STDOUT)
    while not list(tmp_path.glob("*/model/seed*/latest.pt")):
        assert process.poll() is None, (tmp_path / "output.txt").read_text()
        time.sleep(0.05)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    assert process.wait() == 0, (tmp_path / "output.txt").read_text()
    run: Path = run_of(tmp_path)
    manifest: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert [int(record["epoch"]) for record in metrics(run)] == list(range(epochs + 1))
    assert manifest["processes"] == 2
