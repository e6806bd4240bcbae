"""``pwm board`` in a real browser: all runs, their curves and files, and nothing else."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.tiny import ANALYTIC, only_run, trained

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.board import pages
from pwm.board.charts import Line, chart
from pwm.board.pages import Board
from pwm.board.server import make_server
from pwm.launch.cli import main

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with pictures, a failed one, and one whose files are damaged."""
    top = tmp_path_factory.mktemp("logs")
    trained(top, *ANALYTIC)
    run = only_run(top)
    TrainingVisualizer(run).plot_learning_curves()
    (run / "film of it.mp4").write_bytes(b"film")
    (run / "secret.txt").write_text("secret")
    (run / "diagnosis.json").write_text('{"verdict": "fine"}')
    failed = top / "task" / "alg" / "seed1"
    failed.mkdir(parents=True)
    (failed / "status.json").write_text(json.dumps({"state": "failed", "reason": EVIL, "epoch": 3}))
    damaged = top / "task" / "alg" / "seed2"
    damaged.mkdir()
    for name in ("status.json", "metrics.jsonl", "manifest.json"):
        (damaged / name).write_text("{")
    return top


@pytest.fixture(scope="module")
def address(logs: Path) -> Iterator[str]:
    with make_server(Board(logs, live=True), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def finished(logs: Path) -> Path:
    (found,) = (path.parent for path in logs.rglob("learning_curves.png"))
    return found


def get(address: str, path: str, host: str | None = None) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.headers["Content-Type"], answer.read()


def test_all_runs_and_one_of_them_in_a_browser(browser: Any, address: str, logs: Path) -> None:
    page = browser.new_page()
    requests, messages = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("dialog", lambda dialog: messages.append(dialog.message))
    page.goto(address, wait_until="load")
    rows = page.locator("tbody tr")
    assert rows.count() == 3
    assert EVIL in page.locator("tbody").inner_text()
    assert page.locator("svg.chart polyline").count() == 1
    name = str(finished(logs).relative_to(logs))
    page.get_by_role("link", name=name).click()
    assert page.locator(".state").inner_text() == "finished"
    assert page.locator("svg.chart").count() >= 4
    widths = page.evaluate("[...document.images].map(i => { i.loading = 'eager'; return i.alt; })")
    assert "learning_curves.png" in widths
    page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
    assert '"verdict": "fine"' in page.locator("body").inner_text()
    assert {url.partition("/runs/")[0].rstrip("/") for url in requests} == {address}
    assert [text for text in messages if "film" not in text] == []


def test_files_of_runs_and_no_others(address: str) -> None:
    first = get(address, "/")[2].decode()
    pages = re.findall(r"runs/(\w+)\.html", first)
    assert len(set(pages)) == 3
    content = {key: get(address, f"/runs/{key}.html")[2].decode() for key in pages}
    (key,) = (key for key, text in content.items() if "film%20of%20it.mp4" in text)
    assert get(address, f"/runs/{key}/film%20of%20it.mp4") == (200, "video/mp4", b"film")
    for path in ("secret.txt", "config.yaml", "..%2f..%2fsecret.txt", "../../../etc/passwd"):
        assert get(address, f"/runs/{key}/{path}")[0] == 404, path
    assert get(address, "/runs/0123.html")[0] == 404
    # Pages of other places may not read it under a name of theirs.
    assert get(address, "/", host="elsewhere.example:80")[0] == 403


def test_static_files_are_the_same_pages(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = logs / "experiments" / "x"
    report.mkdir(parents=True)
    (report / "report.html").write_text("a report")
    assert main(["board", str(logs), "--write", str(tmp_path / "board")]) == 0
    (report / "report.html").unlink()
    first = tmp_path / "board" / "index.html"
    assert capsys.readouterr().out.strip() == str(first)
    links = re.findall(r'<a href="([^"]+)"', first.read_text())
    assert "reports/experiments/x/report.html" in links
    assert len(links) == 4
    for link in links:
        assert (first.parent / link).is_file(), link
    assert 'http-equiv="refresh"' not in first.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "nowhere holds no run"), (["--port", "99999999"], "--port 99999999")],
)
def test_what_cannot_be_shown_is_refused(
    logs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["board", *([str(logs)] if arguments[0] == "--port" else []), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_charts_of_nothing_one_point_and_numbers_that_are_none() -> None:
    assert "nothing yet" in chart("empty", "x", [Line("a", "red", [1.0], [float("nan")])])
    assert "<circle" in chart("one", "x", [Line("a", "red", [1.0], [2.0])])
    drawn = chart("<b>", "x", [Line("a<b", "red", [0.0, 1.0, 2.0], [0.0, float("inf"), 1e6])])
    assert "<b>" not in drawn.replace("<body>", "")
    assert drawn.count("polyline") == 2
    long = chart("many", "x", [Line("a", "red", list(range(10_000)), list(range(10_000)))])
    (points,) = re.findall(r'points="([^"]*)"', long)
    assert len(points.split()) <= 402


def test_the_first_page_reads_the_metrics_of_runs_that_changed(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    original = pages.load_records
    monkeypatch.setattr(pages, "load_records", lambda folder: read.append(folder) or original(folder))
    board = Board(logs)
    first = board.index()
    read.clear()
    assert board.index() == first
    assert read == []
    file = finished(logs) / "metrics.jsonl"
    kept = file.read_bytes()
    try:
        file.write_bytes(kept + b"\n")
        board.index()
        assert read == [finished(logs)]
    finally:
        file.write_bytes(kept)
