"""Run folders to tables, on real tiny runs: whole, unfinished, failed, damaged and there twice."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.end_to_end.tiny import ANALYTIC, metrics, overrides, status, train
from tests.unit.run_folders import write_run

from pwm.analysis.tables.run_measures import EvaluationRecord, measures
from pwm.analysis.tables.runs import RunTable, load_runs, task_of, write_table
from pwm.configuration.building import build_env, pick_device
from pwm.configuration.config import compose_config
from pwm.errors import DataError
from pwm.launch.cli import INTERRUPTED
from pwm.runs.preemption import EXIT_CODE
from pwm.training.trainers.online.trainer import OnlineTrainer

ARMS = {"mlp": [], "flow": ["dynamics=flow"]}
TASK = "analytic_lqr"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log folder of two algorithms with two seeds each; not to be changed."""
    logdir = tmp_path_factory.mktemp("runs")
    for name, changes in ARMS.items():
        for seed in (1, 2):
            named = (f"general.name={name}", f"general.seed={seed}")
            assert train(logdir, *ANALYTIC, *changes, *named) == 0
    return logdir


@pytest.fixture
def logdir(originals: Path, tmp_path: Path) -> Path:
    """A copy of the four runs."""
    return Path(shutil.copytree(originals, tmp_path / "logs"))


def folder(logdir: Path, name: str = "mlp", seed: int = 1) -> Path:
    return logdir / TASK / name / f"seed{seed}"


def kinds(table: RunTable) -> list[tuple[str, Any, bool]]:
    """Kind, key and use of every problem."""
    return [(problem.kind, problem.key, problem.used) for problem in table.problems]


def keys(table: RunTable) -> list[tuple[str, str, int]]:
    return [run.key for run in table.runs]


ALL = [(TASK, name, seed) for name in ("flow", "mlp") for seed in (1, 2)]


# --- whole runs -----------------------------------------------------------------------------------


def test_whole_runs_have_no_problems(originals: Path) -> None:
    table = load_runs([originals])
    assert keys(table) == ALL
    assert table.report() == "4 runs used, 0 problems"


def test_a_row_says_what_the_run_folder_says(originals: Path) -> None:
    row = load_runs([folder(originals)]).rows({TASK: -1e9})[0]
    records = [r for r in metrics(folder(originals)) if "eval/episode_return" in r]
    returns = [r["eval/episode_return"] for r in records]
    steps = [r["env_steps"] for r in records]
    manifest = json.loads((folder(originals) / "manifest.json").read_text())
    counts = manifest["parameters"]
    reference = json.loads((folder(originals) / "reference.json").read_text())
    assert len(returns) == 4
    assert (row["task"], row["algorithm"], row["seed"], row["state"]) == (TASK, "mlp", 1, "finished")
    assert (row["epochs"], row["planned_epochs"]) == (3, 3)
    assert row["env_steps"] == steps[-1] == status(folder(originals))["env_steps"]
    assert row["wall_time"] == records[-1]["wall_time"]
    assert row["world_model_parameters"] == counts["world_model"]
    assert row["parameters"] == counts["world_model"] + counts["actor"] + counts["critic"]
    assert (row["final"], row["best"], row["drop"]) == (returns[-1], max(returns), max(returns) - returns[-1])
    assert row["last10"] == pytest.approx(np.mean(returns))
    area = sum((a + b) / 2 * (t - s) for a, b, s, t in zip(returns, returns[1:], steps, steps[1:]))
    assert row["auc"] == pytest.approx(area / (steps[-1] - steps[0]))
    assert (row["steps_to_threshold"], row["seconds_to_threshold"]) == (steps[0], records[0]["wall_time"])
    assert (row["zero_action"], row["random_action"]) == (
        reference["zero_action"],
        reference["random_action"],
    )
    assert row["config_hash"] == (folder(originals) / "config.sha256").read_text().strip()
    assert row["commit"] == manifest["git_commit"]


def test_evaluations_are_one_row_each(originals: Path, tmp_path: Path) -> None:
    rows = load_runs([originals]).evaluations()
    assert len(rows) == 16
    assert list(rows[0]) == [
        "task", "algorithm", "seed", "epoch", "env_steps", "wall_time", "episode_return", "std",
    ]  # fmt: skip
    first = metrics(folder(originals, "flow"))[0]
    assert rows[0]["episode_return"] == first["eval/episode_return"]
    assert rows[0]["std"] == first["eval/episode_return_std"]
    write_table(tmp_path / "table.csv", rows)
    with (tmp_path / "table.csv").open(newline="") as file:
        stored = list(csv.DictReader(file))
    assert [float(r["episode_return"]) for r in stored] == [r["episode_return"] for r in rows]


@pytest.mark.parametrize(
    "changes",
    [
        ["env=analytic"],
        ["env=analytic", "env.task=counting"],
        ["env=dflex_hopper"],
        ["env=gym", "env.id=Pendulum-v1"],
    ],
)
def test_the_task_is_the_one_the_environment_names(changes: list[str]) -> None:
    """Of runs, too, whose manifest does not name it."""
    config = compose_config(changes)
    env = build_env(config, 1, 0, pick_device("cpu"))
    assert task_of({}, config) == env.spec.name
    assert task_of({"task": "own"}, config) == "own"
    env.close()


def test_a_run_whose_task_nobody_can_tell_is_listed_and_not_used(tmp_path: Path) -> None:
    """One of an earlier release, in an environment that is not installed here."""
    folder = write_run(tmp_path, "analytic_lqr", "mlp", 1, [1.0, 2.0])
    (folder / "config.yaml").write_text(compose_config(["env=gym", "env.id=Gone-v0"]).to_yaml())
    (folder / "manifest.json").write_text("{}")
    (problem,) = load_runs([tmp_path]).problems
    assert problem.kind == "damaged"
    assert "names no task, and its environment cannot be asked" in problem.reason
    assert not problem.used


# --- finding folders ------------------------------------------------------------------------------


def test_paths_patterns_and_repetitions_find_each_run_once(
    originals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(originals)
    found = load_runs([f"{TASK}/*/seed1", "**/flow", str(folder(originals)), Path(TASK)])
    assert keys(found) == ALL
    assert not found.problems


def test_copies_of_files_inside_a_run_are_no_runs(logdir: Path) -> None:
    inside = folder(logdir) / "wandb" / "files"
    inside.mkdir(parents=True)
    (inside / "config.yaml").write_text("wandb: 1\n")
    assert load_runs([logdir]).report() == "4 runs used, 0 problems"


def test_what_is_not_found_is_listed(originals: Path, tmp_path: Path) -> None:
    table = load_runs([originals, tmp_path / "nowhere", tmp_path / "no*where"])
    assert len(table.runs) == 4
    assert [p.reason for p in table.problems] == [
        f"no run folder in {tmp_path / 'nowhere'}",
        f"no run folder in {tmp_path / 'no*where'}",
    ]
    with pytest.raises(DataError, match="no run folder in"):
        load_runs([tmp_path])
    with pytest.raises(DataError, match="no paths"):
        load_runs([])


# --- problems -------------------------------------------------------------------------------------


def test_a_missing_seed_is_listed(logdir: Path) -> None:
    shutil.rmtree(folder(logdir, "flow", 2))
    table = load_runs([logdir])
    assert kinds(table) == [("missing", (TASK, "flow", 2), False)]
    assert "missing: analytic_lqr flow seed 2: there is no run folder of it; not used" in table.report()
    wanted = [(TASK, "mlp", 1), (TASK, "mlp", 3)]
    assert kinds(load_runs([logdir], expected=wanted)) == [("missing", (TASK, "mlp", 3), False)]


def test_a_failed_run_is_listed_with_its_reason_and_never_used(
    logdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exploding(trainer: OnlineTrainer, *arguments: Any) -> dict[str, float]:
        if trainer.epoch == 2:
            raise KeyboardInterrupt("enough")
        return original(trainer, *arguments)

    original = OnlineTrainer.run_epoch
    with monkeypatch.context() as patch:
        patch.setattr(OnlineTrainer, "run_epoch", exploding)
        assert train(logdir, *ANALYTIC, "general.name=mlp", "general.seed=3") == INTERRUPTED
    for asked in (False, True):
        table = load_runs([logdir], up_to_common_step=asked)
        assert keys(table) == ALL
        assert kinds(table) == [
            ("failed", (TASK, "mlp", 3), False),
            ("missing", (TASK, "flow", 3), False),
        ]
        assert table.problems[0].reason == "KeyboardInterrupt: enough"


@pytest.fixture
def preempted(logdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was asked to stop before its second epoch; beside the four."""

    def stopping(trainer: OnlineTrainer, *arguments: Any) -> dict[str, float]:
        if trainer.epoch == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(trainer, *arguments)

    original = OnlineTrainer.run_epoch
    with monkeypatch.context() as patch:
        patch.setattr(OnlineTrainer, "run_epoch", stopping)
        assert train(logdir, *ANALYTIC, "general.name=mlp", "general.seed=3") == EXIT_CODE
    return folder(logdir, "mlp", 3)


def test_an_unfinished_run_is_used_up_to_the_common_step_when_asked(logdir: Path, preempted: Path) -> None:
    plain = load_runs([logdir])
    assert keys(plain) == ALL
    assert kinds(plain)[0] == ("partial", (TASK, "mlp", 3), False)
    assert "preempted, received SIGUSR1; last evaluation at epoch 1 of 3" in plain.problems[0].reason

    table = load_runs([logdir], up_to_common_step=True)
    assert keys(table) == [*ALL, (TASK, "mlp", 3)]
    assert kinds(table)[0] == ("partial", (TASK, "mlp", 3), True)
    rows = table.rows()
    assert {row["epochs"] for row in rows} == {1}
    assert len({row["env_steps"] for row in rows}) == 1
    # What comes after the common step decides nothing.
    for row in rows:
        second = [r for r in metrics(Path(row["path"])) if "eval/episode_return" in r][1]
        assert row["final"] == second["eval/episode_return"]
        assert row["wall_time"] == second["wall_time"]


def test_a_killed_run_says_running(logdir: Path) -> None:
    path = folder(logdir) / "status.json"
    path.write_text(path.read_text().replace('"finished"', '"running"'))
    (problem,) = load_runs([logdir]).problems
    assert (problem.kind, problem.used) == ("partial", False)
    assert problem.reason == "still running, or killed; last evaluation at epoch 3 of 3"


def test_early_stopping_is_used_and_listed(logdir: Path) -> None:
    more = ["general.epochs=50", "general.patience=1"]
    assert train(logdir, *ANALYTIC, *more, "general.name=lazy") == 0
    table = load_runs([logdir / TASK / "lazy"])
    ((kind, key, used),) = kinds(table)
    assert (kind, key, used) == ("stopped early", (TASK, "lazy", 42), True)
    assert "of 50 (general.patience=1)" in table.problems[0].reason
    assert table.rows()[0]["epochs"] < 50


def test_of_two_folders_of_one_run_one_is_used_and_the_other_listed(logdir: Path) -> None:
    shutil.copytree(folder(logdir), logdir / "copy")
    table = load_runs([logdir])
    assert keys(table) == ALL
    assert kinds(table) == [("duplicate", (TASK, "mlp", 1), False)]
    assert table.problems[0].path == logdir / "copy"
    assert table.problems[0].reason.endswith("seed1, which is used instead, has the same configuration")
    config = compose_config(
        overrides(logdir, *ANALYTIC, "general.name=mlp", "general.seed=1", "alg.gamma=0.9")
    )
    (logdir / "copy" / "config.yaml").write_text(config.to_yaml())
    (problem,) = load_runs([logdir]).problems
    assert problem.reason.endswith("has another configuration: alg.gamma: 0.995 -> 0.9")


def test_the_finished_one_of_two_folders_is_used(logdir: Path, preempted: Path) -> None:
    # A finished run of the same key, first by name.
    twin = shutil.copytree(folder(logdir), logdir / "a")
    config = compose_config(overrides(logdir, *ANALYTIC, "general.name=mlp", "general.seed=3"))
    (Path(twin) / "config.yaml").write_text(config.to_yaml())
    table = load_runs([logdir], up_to_common_step=True)
    assert [run.path for run in table.runs if run.key[2] == 3] == [logdir / "a"]
    found = {(p.kind, p.path, p.used) for p in table.problems if p.path == preempted}
    assert found == {("partial", preempted, False), ("duplicate", preempted, False)}
    # Nobody is cut at the step of a run that is not used.
    assert {row["epochs"] for row in table.rows()} == {3}


def test_seeds_of_different_configurations_are_listed(logdir: Path) -> None:
    config = compose_config(
        overrides(logdir, *ANALYTIC, "general.name=mlp", "general.seed=2", "alg.gamma=0.9")
    )
    (folder(logdir, "mlp", 2) / "config.yaml").write_text(config.to_yaml())
    table = load_runs([logdir])
    assert kinds(table) == [("inconsistent", (TASK, "mlp", 2), True)]
    assert table.problems[0].reason == "other configuration than seed 1: alg.gamma: 0.995 -> 0.9"


def unlink(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).unlink()


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text(content)


def without_last_record(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def with_an_infinite_return(run: Path) -> None:
    records = metrics(run)
    records[2]["eval/episode_return"] = None
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def with_a_literal_nan_at_the_end(run: Path) -> None:
    records = metrics(run)
    records[-1]["eval/episode_return"] = float("nan")
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def with_repeated_records(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text() * 2)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (unlink("config.yaml"), "config.yaml is missing"),
        (write("config.yaml", "general: [1, 2"), "config.yaml cannot be read"),
        (unlink("status.json"), "status.json is missing"),
        (write("status.json", '{"state": "fini'), "status.json cannot be read"),
        (write("status.json", "[]"), "status.json holds list"),
        (write("status.json", '{"state": "asleep"}'), "names the state 'asleep'"),
        (unlink("metrics.jsonl"), "metrics.jsonl does not exist"),
        (write("metrics.jsonl", ""), "is empty"),
        (write("metrics.jsonl", '{"epoch": 0}\n'), "holds no evaluation"),
        (write("metrics.jsonl", '{"epo\n{"epoch": 0}\n'), "is damaged"),
        (write("manifest.json", "{"), "manifest.json cannot be read"),
        (write("reference.json", "[1, 2"), "reference.json cannot be read"),
        (without_last_record, "finished at epoch 3, but the last evaluation in metrics.jsonl is of epoch 2"),
        (write("manifest.json", '{"parameters": null}'), "manifest.json: parameters=None must be an object"),
        (
            write("manifest.json", '{"earlier": [7]}'),
            "the earlier sitting 7 must be an object",
        ),
        (
            write("manifest.json", '{"parameters": {"actor": "x"}}'),
            "parameters.actor='x' must be",
        ),
        (write("reference.json", '{"zero_action": NaN}'), "zero_action=nan must be a finite number"),
        (with_a_literal_nan_at_the_end, "epoch 3: eval/episode_return missing or not finite"),
        (with_an_infinite_return, "epoch 2: eval/episode_return missing or not finite"),
        (with_repeated_records, "its epochs do not increase"),
    ],
)
def test_a_damaged_run_is_listed_with_the_reason(
    damage: Callable[[Path], object], reason: str, logdir: Path
) -> None:
    victim = folder(logdir)
    damage(victim)
    table = load_runs([logdir])
    assert len(table.runs) == 3
    problem = table.problems[0]
    assert (problem.kind, problem.path, problem.used) == ("damaged", victim, False)
    assert reason in problem.reason
    # Its task and seed are known unless the configuration is what is damaged; then the run is missing, too.
    rest = kinds(table)[1:]
    if reason.startswith("config.yaml"):
        assert (problem.key, rest) == (None, [("missing", (TASK, "mlp", 1), False)])
    else:
        assert (problem.key, rest) == ((TASK, "mlp", 1), [])


# --- figures of one run ---------------------------------------------------------------------------


def curve(*returns: float, steps: Callable[[int], int] = lambda i: 100 * i) -> list[EvaluationRecord]:
    return [EvaluationRecord(i, steps(i), 2.0 * i, value, None) for i, value in enumerate(returns)]


def test_figures_by_hand() -> None:
    found = measures(curve(0.0, 10.0, 30.0, 20.0), {"zero_action": -10.0, "random_action": 5.0}, 10.0)
    assert (found["final"], found["best"], found["drop"]) == (20.0, 30.0, 10.0)
    assert found["last10"] == 15.0
    assert found["auc"] == pytest.approx((5 + 20 + 25) / 3)
    # Above the better floor, 5: 15 of 25, because the last fifth of so few is the last one.
    assert found["retention"] == 0.6
    assert (found["steps_to_threshold"], found["seconds_to_threshold"]) == (100, 2.0)


def test_area_counts_steps_not_evaluations() -> None:
    found = measures(curve(0.0, 10.0, 10.0, steps=lambda i: [0, 100, 1000][i]), {}, None)
    assert found["auc"] == pytest.approx((5 * 100 + 10 * 900) / 1000)


def test_retention_looks_at_the_last_ten_but_at_most_at_a_fifth() -> None:
    long, short = curve(*range(60)), curve(*range(20))
    assert measures(long, {"zero_action": 0.0}, None)["retention"] == pytest.approx(54.5 / 59)
    assert measures(short, {"zero_action": 0.0}, None)["retention"] == pytest.approx(17.5 / 19)


def test_last_ten_are_ten() -> None:
    assert measures(curve(*range(20)), {}, None)["last10"] == 14.5


def test_figures_that_are_undefined() -> None:
    found = measures(curve(1.0), {"zero_action": 1.0}, 2.0)
    assert (found["final"], found["drop"]) == (1.0, 0.0)
    for name in ("auc", "retention", "steps_to_threshold", "seconds_to_threshold"):
        assert found[name] is None
