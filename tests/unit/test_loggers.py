"""JSONL and CSV files, the fuse of services, and their order."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from pwm.logging.gradients import HISTOGRAM_EPOCHS
from pwm.logging.loggers import Fuse, JSONLLogger, export_csv, read_metrics
from pwm.logging.tensorboard_logger import TensorBoardLogger
from pwm.logging.wandb_logger import ID_FILE, run_id
from pwm.runs.sinks import Sinks


def test_records_survive_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = JSONLLogger(path)
    log.write({"epoch": 0, "a": 0.1})
    log.write({"epoch": 1, "a": float("nan"), "b": float("inf")})
    # Read while the file is open: every record is on disk at once.
    assert read_metrics(path) == [{"epoch": 0, "a": 0.1}, {"epoch": 1, "a": None, "b": None}]
    log.close()
    with path.open("a") as file:
        file.write('{"epoch": 2, "a"')
    assert [record["epoch"] for record in read_metrics(path)] == [0, 1]
    JSONLLogger(path, keep_until=0).close()
    assert read_metrics(path) == [{"epoch": 0, "a": 0.1}]


def test_csv_has_a_column_per_metric(tmp_path: Path) -> None:
    records = [{"epoch": 0, "a": 1.5}, {"epoch": 1, "b": None}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    export_csv(tmp_path / "m.jsonl", tmp_path / "m.csv")
    with (tmp_path / "m.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"a": "1.5", "b": "", "epoch": "0"}, {"a": "", "b": "", "epoch": "1"}]


def test_fuse_reports_the_first_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    fuse = Fuse("the service")
    with fuse:
        pass
    assert not fuse.blown
    for message in ("no route to host\nwith details", "again"):
        with fuse:
            raise OSError(message)
    assert fuse.blown
    shown = capsys.readouterr().err
    assert shown == (
        "pwm: warning: the service is off from here on, training goes on and metrics.jsonl stays complete: "
        "OSError: no route to host\n"
    )


def test_fuse_lets_interrupts_pass() -> None:
    fuse = Fuse("the service")
    with pytest.raises(KeyboardInterrupt), fuse:
        raise KeyboardInterrupt
    assert not fuse.blown


class Sink:
    """Keeps what it gets, or fails."""

    def __init__(self, order: list[str], name: str, error: Exception | None = None) -> None:
        self.order, self.name, self.error = order, name, error

    def write(self, record: dict[str, float]) -> None:
        if self.error:
            raise self.error
        self.order.append(f"{self.name} {record['epoch']}")


def test_every_sink_gets_every_record_in_order() -> None:
    order: list[str] = []
    sinks = Sinks([Sink(order, "truth"), Sink(order, "copy")])
    sinks.write({"epoch": 0})
    sinks.write({"epoch": 1})
    assert order == ["truth 0", "copy 0", "truth 1", "copy 1"]


def test_records_that_cannot_be_kept_stop_the_run() -> None:
    order: list[str] = []
    with pytest.raises(OSError, match="disk full"):
        Sinks([Sink(order, "truth", OSError("disk full")), Sink(order, "copy")]).write({"epoch": 0})
    assert order == []


def test_wandb_id_belongs_to_the_folder(tmp_path: Path) -> None:
    ids = {run_id(tmp_path / name) for name in ("a", "b", "a", "b")}
    assert len(ids) == 2
    assert all(len(found) == 8 and found.isalnum() for found in ids)
    assert (tmp_path / "a" / ID_FILE).read_text().strip() in ids


class Networks(Mapping[str, object]):
    """Counts how often somebody looks at the networks."""

    def __init__(self) -> None:
        self.looked = 0

    def __iter__(self):
        self.looked += 1
        return iter(())

    def __len__(self) -> int:
        return 0

    def __getitem__(self, key: str) -> object:
        raise KeyError(key)


def test_gradients_are_left_alone_until_histograms_are_due(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    networks = Networks()
    log = TensorBoardLogger(tmp_path, networks=networks)
    for epoch in range(2, HISTOGRAM_EPOCHS):
        log.write({"epoch": epoch, "env_steps": 32 * epoch})
    assert networks.looked == 0
    log.write({"epoch": HISTOGRAM_EPOCHS, "env_steps": 32 * HISTOGRAM_EPOCHS})
    log.close()
    assert networks.looked == 1
