"""Weights & Biases and TensorBoard as a run leaves them: the real packages, read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.end_to_end.tiny import ANALYTIC, metrics, only_run, overrides, status, train, trained
from tests.end_to_end.wandb_server import Uploaded, WandBServer
from torch import nn

from pwm.checkpoints.storage import POLICY_FORMAT, load
from pwm.launch.cli import INTERRUPTED
from pwm.logging import wandb_logger
from pwm.logging.wandb_logger import WandBLogger, run_id

pytest.importorskip("wandb")
pytest.importorskip("tensorboard")

import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]
WANDB = [*ANALYTIC, "general.run_wandb=true"]
BOTH = [*WANDB, "wandb.mode=offline", "general.tensorboard=true", "wandb.project=flow", "wandb.group=pairs"]
MEASURED = ("wall_time", "cpu_time", "fps", "time/", "memory/")
NETWORKS = ("world_model", "actor", "critic")


def fresh_wandb(patch: pytest.MonkeyPatch, folder: Path, **variables: str) -> None:
    """Let wandb know these variables only: no key and no settings of whoever runs the tests."""
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    quiet = {"WANDB_CONFIG_DIR": str(folder), "WANDB_CACHE_DIR": str(folder), "NETRC": str(folder / "netrc")}
    for name, value in (quiet | variables).items():
        patch.setenv(name, value)


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No account, no network."""
    fresh_wandb(monkeypatch, tmp_path)
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandBServer]:
    """A W&B server to which wandb is logged in."""
    server = WandBServer()
    fresh_wandb(monkeypatch, tmp_path, WANDB_BASE_URL=server.url, WANDB_API_KEY="0123456789" * 4)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of two sittings, with both services on and W&B offline."""
    folder = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        fresh_wandb(patch, folder)
        for epochs in (2, 4):
            assert train(folder / "logs", *BOTH, f"general.epochs={epochs}") == 0
    return only_run(folder / "logs")


def computed(records: list[dict[str, float]]) -> list[dict[str, float]]:
    """Metrics without those that depend on the clock."""
    return [{k: v for k, v in record.items() if not k.startswith(MEASURED)} for record in records]


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """A row of W&B's history without histograms and W&B's own values."""
    return {k: v for k, v in row.items() if not k.startswith(("_", "gradients/"))}


def assert_one_run(run: Uploaded, records: list[dict[str, float]]) -> None:
    """W&B holds every record once, with histograms at epoch 1."""
    assert [scalars(row) for row in run.history] == records
    assert [row["_step"] for row in run.history] == [record["epoch"] for record in records]
    with_histograms = [row["epoch"] for row in run.history if any(k.startswith("gradients/") for k in row)]
    assert with_histograms == [1]
    for network in NETWORKS:
        found = [v for k, v in run.history[1].items() if k.startswith(f"gradients/{network}/")]
        assert found
        assert all(v["_type"] == "histogram" and sum(v["values"]) > 0 for v in found)


def test_offline_runs_of_two_sittings_sync_into_one(logged: Path, server: WandBServer) -> None:
    folders = sorted(str(path) for path in (logged / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    command = [sys.executable, "-m", "wandb", "sync", *folders]
    done = subprocess.run(command, cwd=logged, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (name, run) = next(iter(server.runs.items()))
    assert list(server.runs) == [run_id(logged)] == [name]
    records = metrics(logged)
    assert_one_run(run, records)
    assert (run.project, run.group, run.name) == ("flow", "pairs", "analytic_lqr pwm_small_h16 seed42")
    assert run.config["alg"]["horizon"] == 4
    assert run.config["general"]["epochs"] == 4
    assert run.config["manifest"] == json.loads((logged / "manifest.json").read_text())
    best = max(records, key=lambda record: record["eval/episode_return"])
    expected = {"state": "finished", "best_return": best["eval/episode_return"], "best_epoch": best["epoch"]}
    assert {key: run.summary[key] for key in expected} == expected
    assert run.exit_codes == [0, 0]


def test_histograms_can_be_sent_by_hand(server: WandBServer, tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    network(torch.ones(1, 2)).sum().backward()
    logger = WandBLogger(tmp_path, "by hand")
    logger.log_gradient_histogram("actor", network, 3)
    logger.write({"epoch": 3, "env_steps": 12})
    logger.close()
    (run,) = server.runs.values()
    (row,) = run.history
    assert scalars(row) == {"epoch": 3, "env_steps": 12}
    assert row["gradients/actor/weight"]["_type"] == "histogram"


def test_online_run_continues_where_it_was_interrupted(
    server: WandBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 2 is sent, then lost with the state, and computed again: W&B holds it once."""
    options = [*WANDB, "wandb.entity=someone", "general.save_interval=0"]
    write = WandBLogger.write

    def killed(logger: WandBLogger, record: dict[str, float]) -> None:
        write(logger, record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WandBLogger, "write", killed)
        assert train(tmp_path, *options) == INTERRUPTED
    (run,) = server.runs.values()
    assert run.summary["state"] == "failed"
    assert run.exit_codes == [1]
    assert train(tmp_path, *options) == 0
    (run,) = server.runs.values()
    records = metrics(only_run(tmp_path))
    assert computed([scalars(row) for row in run.history]) == computed(records)
    assert run.summary["state"] == "finished"
    assert run.exit_codes == [1, 0]


def test_server_that_goes_away_does_not_stop_training(
    server: WandBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_logger, "FINISH_TIMEOUT", 1.0)
    write = WandBLogger.write

    def cut(logger: WandBLogger, record: dict[str, float]) -> None:
        if record["epoch"] == 1:
            server.stop()
        write(logger, record)

    monkeypatch.setattr(WandBLogger, "write", cut)
    folder = trained(tmp_path, *WANDB)
    assert status(folder)["state"] == "finished"
    assert len(metrics(folder)) == 4


def test_no_server_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = WandBServer()
    closed.stop()
    fresh_wandb(monkeypatch, tmp_path, WANDB_BASE_URL=closed.url, WANDB_API_KEY="0123456789" * 4)
    monkeypatch.setattr(wandb_logger, "INIT_TIMEOUT", 1.0)
    folder = trained(tmp_path / "logs", *WANDB)
    assert status(folder)["state"] == "finished"
    assert capsys.readouterr().err.count("pwm: warning: Weights & Biases is off from here on") == 1


def test_no_key_is_a_warning_even_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main, terminal = os.openpty()
    with os.fdopen(terminal, "r") as stdin:
        # wandb asks for a key where both are terminals.
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        folder = trained(tmp_path, *WANDB)
    os.close(main)
    assert status(folder)["state"] == "finished"
    shown = capsys.readouterr()
    assert "there is no API key; run `wandb login`, or use wandb.mode=offline" in shown.err
    assert "Enter your choice" not in shown.err + shown.out


def test_tensorboard_holds_every_record_once(logged: Path) -> None:
    events = EventAccumulator(str(logged / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    records = metrics(logged)
    for name in {key for record in records for key in record}:
        expected = [(record["env_steps"], record[name]) for record in records if name in record]
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [v for _, v in found] == pytest.approx([v for _, v in expected], rel=1e-6), name
    names = events.Tags()["histograms"]
    assert {name.split("/")[1] for name in names} == set(NETWORKS)
    for name in names:
        (event,) = events.Histograms(name)
        assert event.step == records[1]["env_steps"]
        value = event.histogram_value
        assert value.num == sum(value.bucket)
        assert value.min <= value.sum / value.num <= value.max


def test_tensorboard_forgets_what_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed before it saved its state starts over in the same folder."""
    options = [*ANALYTIC, "general.tensorboard=true"]
    assert train(tmp_path, *options) == 0
    folder = only_run(tmp_path)
    (folder / "latest.pt").unlink()
    assert train(tmp_path, *options) == 0
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("wm/loss")] == [216, 232, 248]


def test_services_do_not_change_a_run(logged: Path, tmp_path: Path) -> None:
    plain = trained(tmp_path, *ANALYTIC, "general.epochs=2")
    assert train(tmp_path, *ANALYTIC, "general.epochs=4") == 0
    assert computed(metrics(plain)) == computed(metrics(logged))
    a, b = (load(folder / "final_policy.pt", POLICY_FORMAT)["modules"] for folder in (plain, logged))
    assert all((a[name] == b[name]).all() for name in a)
    assert (plain / "config.sha256").read_text() == (logged / "config.sha256").read_text()


def test_tensorboard_that_cannot_write_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, *ANALYTIC, "general.epochs=1") == 0
    folder = only_run(tmp_path)
    (folder / "tensorboard").write_text("in the way")
    assert train(tmp_path, *ANALYTIC, "general.tensorboard=true") == 0
    assert len(metrics(folder)) == 4
    assert capsys.readouterr().err.count("pwm: warning: TensorBoard is off from here on") == 1


@pytest.mark.parametrize(
    ("package", "options", "install"),
    [
        ("wandb", ["general.run_wandb=true"], 'pip install "flow-pwm[wandb]"'),
        ("tensorboard", ["general.tensorboard=true"], 'pip install "flow-pwm[tensorboard]"'),
    ],
)
def test_service_that_is_not_installed(
    package: str,
    options: list[str],
    install: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            patch.delitem(sys.modules, name)
        patch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
        # Importing a name that maps to None fails as it does where there is no such package.
        patch.setitem(sys.modules, package, None)
        assert train(tmp_path / "logs", *ANALYTIC, *options) == 2
    assert install in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_services_that_are_off_are_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pwm.launch.cli import main; code = main(['train', *sys.argv[1:]]);"
        "print(code, *sorted({'wandb', 'tensorboard'} & set(sys.modules)))"
    )
    options = overrides(tmp_path, *ANALYTIC, "general.epochs=1", "wandb.project=unused")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "0"


def test_disabled_mode_leaves_no_trace(tmp_path: Path) -> None:
    folder = trained(tmp_path, *WANDB, "wandb.mode=disabled")
    assert not list(folder.glob("wandb*"))


def test_environment_can_take_an_online_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_wandb(monkeypatch, tmp_path, WANDB_MODE="offline")
    folder = trained(tmp_path / "logs", *WANDB)
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
