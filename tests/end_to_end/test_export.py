"""The suite in small: parts of an experiment, one after the other, and their export."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.end_to_end.processes import Forked
from tests.end_to_end.tiny import metrics, overrides

import pwm.runs.run  # noqa: F401 (so that forked processes have everything they need)
from pwm.launch.cli import main
from pwm.study import run_pool

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EPISODES = 3
PARITY = "alg.reward_units=[48,48]"
TASKS = "tasks=[analytic env.episode_length=40 general.epochs=2, gym env.id=Pendulum-v1]"

pytest.importorskip("rliable")


def experiment(logdir: Path, *only: str, options: Sequence[str] = ()) -> int:
    """``pwm experiment experiment=cpu_suite`` with tiny runs of two tasks; returns the exit code."""
    tiny = overrides(logdir, PARITY, "seeds=[1,2]", TASKS)
    # The arms name presets, and tasks have lengths of their own.
    unwanted = ("alg=", "general.epochs=", "env.episode_length=")
    chosen = [o for o in tiny if not o.startswith(unwanted)]
    parts = [word for pattern in only for word in ("--only", pattern)]
    command = ["experiment", "experiment=cpu_suite", *chosen, *parts, "--jobs", "2", *options]
    return main([*command, "--episodes", str(EPISODES)])


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Processes are forked instead of started afresh; their arguments are remembered."""
    arguments: list[list[str]] = []

    def start(words: Sequence[str], threads: int, log: Path, gpu: str | None = None) -> Forked:
        arguments.append(list(words))
        return Forked(words, threads, log)

    monkeypatch.setattr(run_pool, "start_process", start)
    return arguments


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("export_suite")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_parts_are_made_one_after_the_other_and_exported(
    logdir: Path, forked: list[list[str]], export: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, results = logdir / "experiments" / "cpu_suite", logdir / "results"
    arguments = ["--runs", str(folder), "--results", str(results), "--episodes", str(EPISODES)]
    assert experiment(logdir, "analytic_lqr/flow/1") == 0
    assert [words[0] for words in forked] == ["train", "evaluate", "evaluate"]
    assert "no report before other runs are made: no run can be used of: mlp" in capsys.readouterr().out
    assert export.main(arguments) == 0
    (first,) = rows(results / "runs.csv")
    assert (first["task"], first["algorithm"], first["seed"]) == ("analytic_lqr", "flow", "1")

    assert experiment(logdir, "analytic_lqr/flow/1", "analytic*/mlp/[1x]") == 0
    assert sum(words[0] == "train" for words in forked) == 2
    report = (folder / "report.md").read_text()
    assert "analytic_lqr residual" in report
    assert export.main(arguments) == 0
    stored = rows(results / "runs.csv")
    assert [(r["algorithm"], r["seed"]) for r in stored] == [("flow", "1"), ("mlp", "1")]
    # What was exported before is as it was, and its folder is no longer needed.
    assert stored[0] == first
    assert export.main(["--runs", str(logdir / "gone"), *arguments[2:]]) == 2
    assert rows(results / "runs.csv") == stored
    rows_hold_what_the_run_folders_say(logdir)
    tables_are_of_all_stored_runs(results)
    capsys.readouterr()
    assert experiment(logdir, "analytic_lqr/*/1", options=["--dry-run"]) == 0
    lines = [
        line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("analytic_lqr ")
    ]
    states = {(words[1], words[2]): words[-1] for words in lines if len(words) > 6}
    assert states == {("mlp", "1"): "done", ("residual", "1"): "new", ("flow", "1"): "done"}


def rows_hold_what_the_run_folders_say(logdir: Path) -> None:
    stored = rows(logdir / "results" / "runs.csv")
    for r in stored:
        run = logdir / "experiments" / "cpu_suite" / r["task"] / r["algorithm"] / f"seed{r['seed']}"
        records = [record for record in metrics(run) if "eval/episode_return" in record]
        returns = [record["eval/episode_return"] for record in records]
        assert len(returns) == 3
        assert float(r["peak"]) == pytest.approx(max(returns), abs=0.01)
        assert float(r["last10"]) == pytest.approx(np.mean(returns), abs=0.01)
        for which in ("final", "best"):
            evaluation = json.loads((run / f"evaluation_{which}_policy.json").read_text())
            assert float(r[f"held_out_{which}"]) == pytest.approx(evaluation["mean"], abs=0.01)
            assert float(r[f"held_out_{which}_std"]) == pytest.approx(evaluation["std"], abs=0.01)
        manifest = json.loads((run / "manifest.json").read_text())
        assert r["commit"] == manifest["git_commit"]
        assert r["hardware"] == f"{manifest['device']}, 1 thread"
        errors = [record["eval/latent_error_k1"] for record in records]
        assert float(r["latent_error_k1"]) == pytest.approx(np.median(errors), rel=0.01)
        curve = rows(logdir / "results" / "curves" / f"{r['task']}_{r['algorithm']}_seed{r['seed']}.csv")
        assert [float(point["env_steps"]) for point in curve] == [record["env_steps"] for record in records]
        assert float(curve[-1]["train_time"]) == pytest.approx(float(r["train_time"]), abs=0.1)
        assert float(r["train_time"]) <= float(r["wall_time"])


def tables_are_of_all_stored_runs(results: Path) -> None:
    summary = {r["algorithm"]: r for r in rows(results / "summary.csv")}
    assert list(summary) == ["mlp", "flow"]
    assert summary["mlp"]["seeds"] == "1"
    (task, every) = rows(results / "comparison.csv")
    assert (task["candidate"], task["baseline"], task["task"]) == ("flow", "mlp", "analytic_lqr")
    assert every["better"] == task["better"]


def test_a_pattern_that_names_nothing_is_refused(
    logdir: Path, forked: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(logdir, "Pendulum/flow") == 2
    shown = capsys.readouterr().err
    arms, tasks = "mlp, residual, flow", "analytic_lqr, gym_Pendulum-v1"
    for part in ("--only Pendulum/flow", tasks, arms, "seeds: 1, 2"):
        assert part in shown
    assert not forked
