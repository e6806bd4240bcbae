"""Which policies ``pwm evaluate`` takes, and what it says and writes of them."""

from __future__ import annotations

import _thread
import csv
import json
import shutil
import signal
import threading
from pathlib import Path

import pytest
from tests.end_to_end.test_cli_errors import the_message
from tests.end_to_end.tiny import ANALYTIC, train

from pwm.analysis.tables.checkpoint_table import peak_against_final
from pwm.checkpoints.policy_files import select_policies
from pwm.errors import StorageError
from pwm.files import check_writable
from pwm.launch.cli import INTERRUPTED, main

KEPT = ["best_policy.pt", "final_policy.pt", "policies/epoch0000001.pt", "policies/epoch0000002.pt"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log folder of two seeds; only the first keeps policies on its way."""
    folder = tmp_path_factory.mktemp("evaluate") / "logs [1]"
    for seed, every in ((1, "1"), (2, "null")):
        changes = [f"general.seed={seed}", f"general.checkpoint_every={every}", "general.epochs=2"]
        assert train(folder, *ANALYTIC, *changes) == 0
    return folder


@pytest.fixture(autouse=True)
def here(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(logs.parent)


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    """Rows of the table, each task, algorithm, seed and checkpoint."""
    capsys.readouterr()
    assert main(["evaluate", *arguments, "--episodes", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["task", "algorithm", "seed", "checkpoint"]
    rows = [line.split("  ") for line in lines[1:] if line.startswith("analytic_lqr")]
    return [[cell.strip() for cell in row if cell.strip()][:4] for row in rows]


def row(seed: int, checkpoint: str) -> list[str]:
    return ["analytic_lqr", "pwm_small_h16", str(seed), checkpoint]


ROOT = "logs [1]"
# Glob patterns read [1] as a class of characters.
PATTERN = "logs [[]1]"
SEED1, SEED2 = [f"{ROOT}/analytic_lqr/pwm_small_h16/seed{seed}" for seed in (1, 2)]
BOTH_BEST, BOTH_FINAL = [row(1, "best"), row(2, "best")], [row(1, "final"), row(2, "final")]
SELECTIONS = {
    "a run": ([SEED1], [row(1, "best")]),
    "a folder above": ([ROOT, "--checkpoint", "final"], BOTH_FINAL),
    "a pattern": ([f"{PATTERN}/*/*/seed*"], BOTH_BEST),
    "a pattern below a folder by its name": ([f"{ROOT}/**/seed*"], BOTH_BEST),
    "any depth": ([f"{PATTERN}/**/seed2", "--checkpoint", "final"], [row(2, "final")]),
    "a pattern of files": ([f"{PATTERN}/**/best_policy.pt"], BOTH_BEST),
    "paths as the checkpoint": (["--checkpoint", f"{PATTERN}/*/*/*/final_policy.pt"], BOTH_FINAL),
    "paths that the shell expanded": (
        ["--checkpoint", *(f"{ROOT}/analytic_lqr/pwm_small_h16/seed{n}/best_policy.pt" for n in (1, 2))],
        BOTH_BEST,
    ),
    "a file in a run": (
        [SEED1, "--checkpoint", "epoch0000002.pt"],
        [row(1, "epoch 2")],
    ),
    "a path in a run": (
        [f"{ROOT}/*/*/seed1".replace(ROOT, PATTERN), "--checkpoint", "policies/epoch0000001.pt"],
        [row(1, "epoch 1")],
    ),
    "a run and the path of its file": (
        [SEED1, "--checkpoint", f"{SEED1}/policies/epoch0000002.pt"],
        [row(1, "epoch 2")],
    ),
    "a pattern in a run": (
        [SEED1, "--checkpoint", "epoch*.pt"],
        [row(1, "epoch 1"), row(1, "epoch 2")],
    ),
    "any policy of a run": ([SEED2, "--checkpoint", "*"], [row(2, "best"), row(2, "final")]),
    "the same run twice": ([ROOT, f"{PATTERN}/*/*/seed1"], BOTH_BEST),
    "all of a run": (
        [SEED1, "--checkpoint", "all", "--output", "x.json"],
        [row(1, "best"), row(1, "final"), row(1, "epoch 1"), row(1, "epoch 2")],
    ),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_policies_are_found_in_every_form(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = SELECTIONS[name]
    assert evaluate(capsys, *arguments) == expected


def test_all_checkpoints_of_a_folder_with_their_files(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(logs, tmp_path / "logs")
    assert main(["evaluate", str(root), "--checkpoint", "all", "--episodes", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-2:] == [str(root / f"checkpoints.{kind}") for kind in ("json", "csv")]
    results = json.loads((root / "checkpoints.json").read_text())
    assert [r["checkpoint"] for r in results] == ["best", "final", "epoch 1", "epoch 2", "best", "final"]
    with (root / "checkpoints.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["return"]) for r in rows] == [r["mean"] for r in results]
    assert [r["epoch"] for r in rows][1:4] == ["2", "1", "2"]
    run = root / "analytic_lqr" / "pwm_small_h16" / "seed1"
    peak = max(results[:4], key=lambda r: r["mean"])
    line = f"seed 1 ({run}): peak {peak['mean']:.1f} ({peak['checkpoint']}), final {results[1]['mean']:.1f}, "
    assert line in shown
    stored = json.loads((run / "policies" / "evaluation_epoch0000001.json").read_text())
    assert stored == results[2]
    # A run that has saved nothing yet is named.
    bare = root / "analytic_lqr" / "pwm_small_h16" / "seed3"
    bare.mkdir()
    shutil.copy(run / "config.yaml", bare)
    with pytest.warns(RuntimeWarning, match=r"seed3 has no policy yet"):
        assert len(select_policies([root], "all")) == 6


def test_the_peak_is_counted_from_the_floor() -> None:
    def result(checkpoint: str, mean: float) -> dict:
        reference = {"zero_action": 100.0, "random_action": 20.0}
        policy = f"r/{checkpoint}.pt"
        about = {"task": "t", "name": "n", "training_seed": 1, "policy": policy}
        return {**about, "checkpoint": checkpoint, "mean": mean, "reference": reference}

    lines = peak_against_final([result("best", 200.0), result("final", 130.0)]).splitlines()
    assert lines[1] == "  t n seed 1 (r): peak 200.0 (best), final 130.0, 30% of the peak is left"
    below = peak_against_final([result("best", 99.0), result("final", 98.0)])
    assert "never above the floor" in below
    fallen = peak_against_final([result("best", 200.0), result("final", 90.0)])
    assert fallen.endswith("final 90.0, below the floor")
    assert "its final policy was not evaluated" in peak_against_final([result("best", 99.0)])


def test_policies_that_are_called_alike_show_their_paths(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = logs / "analytic_lqr" / "pwm_small_h16" / "seed1"
    copy = shutil.copytree(run, tmp_path / "copy")
    assert main(["evaluate", str(run), str(copy), "--episodes", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith(f"  {run / 'best_policy.pt'}")
    assert lines[2].endswith(f"  {copy / 'best_policy.pt'}")


MISTAKES = {
    "nothing": ([], ["name a run folder", "--checkpoint FILE"]),
    "a pattern without a match": (["nowhere/*/seed*"], ["nowhere/*/seed*", "no such folder or file"]),
    "a checkpoint pattern without one": (["--checkpoint", "no/*.pt"], ["no/*.pt"]),
    "no pattern": ([SEED1, "--checkpoint", "["], ["'['", "best, final, all"]),
    "no checkpoint": ([SEED1, "--checkpoint", ""], ["''", "best, final, all"]),
    "an unknown checkpoint": ([SEED1, "--checkpoint", "worst"], ["'worst'", "best, final, all", *KEPT]),
    "a checkpoint of one run only": ([ROOT, "--checkpoint", "epoch0000001.pt"], ["seed2", "epoch0000001.pt"]),
    "a folder as the checkpoint": (["--checkpoint", SEED1], ["is a folder"]),
    "no runs below": (["empty", "--checkpoint", "all"], ["empty has no policy"]),
    "no logs": (["--checkpoint", "all"], ["logs", "no such folder"]),
    "a negative seed": ([SEED1, "--seed", "-1"], ["seed=-1", "at least 0"]),
    "an output folder": ([SEED1, "--output", "empty"], ["empty is a folder"]),
    "the working folder as output": ([SEED1, "--output", "."], [". is a folder"]),
    "an output where nothing can be": (
        [SEED1, "--output", "/dev/null/x.csv"],
        ["/dev/null cannot be written"],
    ),
    "an output below a file": (
        [SEED1, "--output", f"{SEED1}/config.yaml/x.json"],
        ["config.yaml", "cannot be written to"],
    ),
    "a film of several": ([SEED1, "--checkpoint", "all", "--video", "x.gif"], ["--video films one"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_message_before_anything_is_evaluated(
    name: str, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (logs.parent / "empty").mkdir(exist_ok=True)
    for stored in logs.rglob("evaluation_*.json"):
        stored.unlink()
    arguments, expected = MISTAKES[name]
    assert main(["evaluate", *arguments]) == 2
    message = the_message(capsys)
    assert [part for part in expected if part not in message] == [], message
    assert not list(logs.rglob("evaluation_*.json"))


def test_an_empty_path_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["evaluate", SEED1, "--output", ""],
        ["diff", "", SEED1],
        ["convert", "x", "", "--from", "pwm"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert "it is empty; name a file or a folder" in capsys.readouterr().err


def test_results_go_to_a_home_folder_and_under_any_spelling_of_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    evaluate(capsys, SEED1, "--output", "~/results/x.CSV")
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["x.csv", "x.json"]


def test_a_pattern_of_folders_leaves_out_results_beside_them(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = logs / "checkpoints.json"
    results.write_text("[]")
    assert evaluate(capsys, f"{PATTERN}/*") == BOTH_BEST
    assert main(["evaluate", f"{PATTERN}/*.json"]) == 2
    assert str(results.relative_to(logs.parent)) in the_message(capsys)
    results.unlink()


def test_a_folder_is_seen_to_be_writable_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="below cannot be written to"):
        check_writable(tmp_path / "file" / "below")
    check_writable(tmp_path / "not" / "yet" / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_command_ends_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    # Started in the background, as a job of a shell script is, Python leaves this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.0, _thread.interrupt_main)
    timer.start()
    try:
        assert main(["evaluate", SEED1, "--episodes", "1000000"]) == INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)
    assert the_message(capsys) == "pwm: interrupted\n"


def test_damage_in_one_policy_costs_no_work_on_the_others(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(logs, tmp_path / "logs")
    for stored in root.rglob("evaluation_*.json"):
        stored.unlink()
    damaged = root / "analytic_lqr" / "pwm_small_h16" / "seed2" / "final_policy.pt"
    damaged.write_bytes(damaged.read_bytes()[:500])
    assert main(["evaluate", str(root), "--checkpoint", "all"]) == 2
    assert str(damaged) in the_message(capsys)
    assert not list(root.rglob("evaluation_*.json"))
