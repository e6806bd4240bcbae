"""The study scripts: rows, tables and pictures from results that are known."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def files(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("study_files")


@pytest.fixture
def export(script: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("rliable")
    return script("export_suite")


def row(algorithm: str, seed: int, held_out: float, task: str = "dflex_hopper") -> dict[str, object]:
    return {
        "task": task,
        "algorithm": algorithm,
        "seed": seed,
        "env_steps": 100_000,
        "train_time": 60.0 * seed,
        "peak": held_out + 50,
        "last10": held_out + 10,
        "retention": 0.5 + seed / 10,
        "held_out_final": held_out,
        "held_out_best": held_out + 1,
        "latent_error_k1": "" if algorithm == "sac" else 0.1 * seed,
        "zero_action": 100.0,
        "random_action": -50.0,
    }


def store(files: ModuleType, folder: Path, rows: list[dict[str, object]]) -> None:
    """Rows, each with a curve of three evaluations a minute and 25 000 steps apart."""
    files.merge(folder, rows)
    for r in rows:
        values = [1.0, 300.0, float(str(r["held_out_final"]))]
        records = [
            {"epoch": i, "env_steps": 50_000 * i, "train_time": 300 * i, "eval/episode_return": value}
            | ({} if r["algorithm"] == "sac" else {"eval/latent_error_k1": 0.5})
            for i, value in enumerate(values)
        ]
        path = files.curve_path(folder, r["task"], r["algorithm"], r["seed"])
        path.parent.mkdir(exist_ok=True)
        path.write_text(files.csv_text(files.CURVE, records))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- rows ------------------------------------------------------------------------------------------


def test_a_repeated_run_replaces_its_row(files: ModuleType, tmp_path: Path) -> None:
    for seed, held_out in ((2, 10), (1, 20), (2, 30)):
        files.merge(tmp_path, [row("flow", seed, held_out)])
    rows = files.load_rows(tmp_path)
    assert [(int(r["seed"]), float(r["held_out_final"])) for r in rows] == [(1, 20.0), (2, 30.0)]
    assert tuple(rows[0]) == files.COLUMNS


def test_figures_of_a_curve_are_those_of_the_report(files: ModuleType) -> None:
    from pwm.analysis.tables.run_measures import EvaluationRecord, measures

    returns = [0.0, 100.0, 400.0, 300.0, 350.0, 320.0]
    records = [
        {
            "epoch": i,
            "env_steps": 100.0 * i,
            "wall_time": 9.0 * i,
            "train_time": 8.0 * i,
            "eval/episode_return": value,
        }
        for i, value in enumerate(returns)
    ]
    records[-1]["eval/latent_error_k1"], records[-2]["eval/latent_error_k1"] = 0.25, 0.125
    reference = {"zero_action": 100.0, "random_action": -50.0}
    found = files.figures(records, reference)
    wanted = measures(
        [EvaluationRecord(i, 100 * i, 9.0 * i, v, None) for i, v in enumerate(returns)], reference, None
    )
    assert (found["peak"], found["final"], found["env_steps"]) == (400.0, 320.0, 500)
    assert (found["wall_time"], found["train_time"]) == (45.0, 40.0)
    assert found["retention"] == round(wanted["retention"], 3) == round(220 / 300, 3)
    assert found["last10"] == round(wanted["last10"], 2)
    assert float(found["latent_error_k1"]) == pytest.approx(0.1875, abs=1e-3)
    nothing = files.figures(records[:1], reference)
    assert (nothing["retention"], nothing["latent_error_k1"]) == ("", "")


def test_one_held_out_episode_has_no_spread(files: ModuleType) -> None:
    assert files.held_out_columns("best", [3.0]) == {"held_out_best": 3.0, "held_out_best_std": ""}
    found = files.held_out_columns("final", [1.0, 3.0])
    assert found == {"held_out_final": 2.0, "held_out_final_std": pytest.approx(2**0.5, abs=0.01)}


def test_training_time_is_what_the_processor_worked_for_training(export: ModuleType, tmp_path: Path) -> None:
    records = [
        {"epoch": 0, "env_steps": 0, "eval/episode_return": 1.5, "wall_time": 2.0, "cpu_time": 0.0},
        {"epoch": 1, "env_steps": 512, "wall_time": 7.0, "cpu_time": 3.0},
        {"epoch": 2, "env_steps": 1024, "eval/episode_return": 2.5, "wall_time": 14.0, "cpu_time": 8.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    found = export.curve_records(tmp_path)
    assert found == [records[0] | {"train_time": 0.0}, records[2] | {"train_time": 8.0}]


def test_a_command_names_no_folder_of_the_machine(export: ModuleType) -> None:
    command = "pwm train env=gym general.logdir=some/where general.name=flow general.progress=false"
    assert export.public(command) == "pwm train env=gym general.name=flow"


# --- tables ----------------------------------------------------------------------------------------


def test_summary_takes_medians_over_seeds(export: ModuleType) -> None:
    rows = [row("flow", seed, held_out) for seed, held_out in ((1, 900.0), (2, 700.0), (3, 950.0))]
    flow, sac = export.summarise([*rows, row("sac", 1, 500.0)], ["mlp", "flow", "sac"])
    assert (flow["algorithm"], flow["seeds"], flow["held_out_final"], flow["minutes"]) == (
        "flow",
        3,
        900.0,
        2.0,
    )
    assert 700 <= flow["held_out_final_low"] < 900 < flow["held_out_final_high"] <= 950
    assert (flow["retention"], flow["worst_retention"], flow["latent_error_k1"]) == (0.7, 0.6, "0.2")
    # One run has no interval, and a model-free agent no world model.
    assert (sac["held_out_final_low"], sac["latent_error_k1"]) == ("", "")


def test_pairs_are_compared_on_the_tasks_they_share(export: ModuleType) -> None:
    rows = [row("mlp", s, v) for s, v in ((1, 1.0), (2, 5.0))]
    rows += [row("flow", s, v) for s, v in ((1, 4.0), (2, 6.0))]
    rows += [row("flow", s, v, "dflex_ant") for s, v in ((1, 4.0), (2, 6.0))]
    rows += [row("sac", s, 9.0 + s, "dflex_ant") for s in (1, 2)]
    found = {
        (r["candidate"], r["baseline"], r["task"]): r for r in export.compare(rows, ["mlp", "flow", "sac"])
    }
    assert list(found) == [
        ("flow", "mlp", "dflex_hopper"),
        ("flow", "mlp", "all tasks"),
        ("sac", "flow", "dflex_ant"),
        ("sac", "flow", "all tasks"),
    ]
    hopper = found["flow", "mlp", "dflex_hopper"]
    assert (hopper["better"], hopper["difference"], hopper["seeds"]) == (0.75, 2.0, 2)
    assert hopper["difference_low"] < 2 < hopper["difference_high"]
    # Where no run of one reaches the other's there is no interval.
    assert found["sac", "flow", "all tasks"]["better"] == 1.0
    assert found["sac", "flow", "all tasks"]["better_low"] == ""


@pytest.mark.slow
def test_many_changes_are_compared_with_the_first_alone(export: ModuleType) -> None:
    names = [f"change_{i}" for i in range(8)]
    rows = [row(name, seed, 10.0 * i + seed) for i, name in enumerate(names) for seed in (1, 2)]
    pairs = {(r["candidate"], r["baseline"]) for r in export.compare(rows, names)}
    assert pairs == {(name, names[0]) for name in names[1:]}


def test_equal_budgets_count_the_seeds_that_got_so_far(script: Callable[[str], ModuleType]) -> None:
    budgets = script("equal_budgets")

    def seed(steps: int, minutes: float) -> dict[str, np.ndarray]:
        share = np.array([0.0, 0.5, 1.0])
        return {
            "env_steps": steps * share,
            "train_time": 60 * minutes * share,
            "eval/episode_return": np.array([0.0, 100.0, 300.0]),
        }

    curves = {
        ("dflex_hopper", "sac"): [seed(100_000, 20), seed(40_000, 8)],
        ("dflex_hopper", "flow"): [seed(100_000, 8)],
        ("dflex_hopper", "other"): [],
    }
    lines = budgets.at_equal_budgets(curves, ["sac", "flow", "other"])
    found = {
        (r["unit"], r["budget"]): (r["seeds"], r["median"], r["lowest"], r["highest"], r["ended"], r["rank"])
        for r in lines
        if r["algorithm"] == "sac"
    }
    assert found == {
        # Half of the first run, and five eighths of the second.
        ("env_steps", 25_000): (2, 100.0, 50.0, 150.0, 0, 1),
        ("env_steps", 50_000): (1, 100.0, 100.0, 100.0, 0, 1),
        ("env_steps", 100_000): (1, 300.0, 300.0, 300.0, 0, 1),
        ("minutes", 5): (2, 100.0, 50.0, 150.0, 0, 2),
        # The second run ended after eight minutes with 300.
        ("minutes", 10): (2, 200.0, 100.0, 300.0, 1, 2),
        ("minutes", 20): (2, 300.0, 300.0, 300.0, 1, 1),
    }
    assert [(r["seeds"], r["median"], r["rank"]) for r in lines if r["algorithm"] == "other"] == [
        (0, "", "")
    ] * 6


def test_tables_and_pictures_come_from_what_is_stored(
    export: ModuleType, files: ModuleType, tmp_path: Path
) -> None:
    store(files, tmp_path, [row(name, s, 200.0 + s) for name in ("flow", "mlp", "sac") for s in (1, 2)])
    export.report(tmp_path, ["mlp", "residual", "flow"])
    summary = table(tmp_path / "summary.csv")
    assert [(r["algorithm"], r["held_out_final"]) for r in summary] == [
        ("mlp", "201.5"),
        ("flow", "201.5"),
        ("sac", "201.5"),
    ]
    assert {r["algorithm"] for r in table(tmp_path / "equal_budgets.csv")} == {"mlp", "flow", "sac"}
    assert len(table(tmp_path / "comparison.csv")) == 3 * 2
    for picture in ("curves.png", "curves_minutes.png", "diagnostics.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_without_runs_there_is_nothing_to_export(
    export: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(["--results", str(tmp_path / "none"), "--runs", str(tmp_path)]) == 2
    assert "no run folder in" in capsys.readouterr().err


def test_readme_tables_show_equal_steps_and_equal_minutes(
    script: Callable[[str], ModuleType], files: ModuleType, tmp_path: Path
) -> None:
    tables = script("readme_tables")
    rows = [row("flow", 1, 400.0), row("sac", 1, 200.0), row("flow", 1, 7.25, "gym_Reacher-v5")]
    store(files, tmp_path / "new", rows)
    text = tables.tables(tmp_path / "new", tmp_path / "old").splitlines()
    assert "| task | doing nothing | flow | SAC |" in text
    assert "| hopper | 100 | 400 | 200 |" in text
    assert "| Reacher-v5 | 100 | 7.2 |  |" in text
    assert "| hopper | 100000 steps | **400** | 200 |" in text
    assert "| hopper | 10 minutes | **400** | 200 |" in text
    store(files, tmp_path / "old", [row("pwm_small_h16_flow", 1, 3.0)])
    assert "| hopper | 100 | 3.0 |" in tables.tables(tmp_path / "none", tmp_path / "old").splitlines()
    marked = f"a\n{tables.BEGIN}\nold\n{tables.END}\nb\n"
    assert tables.renewed(marked, "new") == f"a\n{tables.BEGIN}\n\nnew\n\n{tables.END}\nb\n"


# --- the baselines' loop ---------------------------------------------------------------------------

TASKS = "tasks=[dflex_ant general.epochs=4750, gym env.id=Pendulum-v1 general.epochs=1000]"


def test_baselines_take_as_many_steps_as_our_runs(script: Callable[[str], ModuleType]) -> None:
    suite = script("model_free_suite")
    only = ["dflex_ant", "gym_Pendulum-v1/2"]
    found = list(suite.jobs(["sac", "crossq"], 20.0, only, [TASKS, "seeds=[1,2]"]))
    assert [(job.algorithm, job.task, job.seed, job.env_steps, job.eval_every) for job in found] == [
        ("sac", "dflex_ant", 1, 100_000, 2000),
        ("crossq", "dflex_ant", 1, 100_000, 2000),
        ("sac", "dflex_ant", 2, 100_000, 2000),
        ("crossq", "dflex_ant", 2, 100_000, 2000),
        ("sac", "Pendulum-v1", 2, 25_000, 500),
        ("crossq", "Pendulum-v1", 2, 25_000, 500),
    ]


def test_stored_baselines_are_not_repeated(
    script: Callable[[str], ModuleType],
    files: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suite = script("model_free_suite")
    overrides = ["tasks=[dflex_ant]", "seeds=[1,2]"]
    (first, *_) = suite.jobs(["sac"], 20.0, [], overrides)
    files.merge(tmp_path, [row("sac", 1, 5.0, "dflex_ant") | {"command": first.command}])
    arguments = ["--algos", "sac", "--results", str(tmp_path), "--dry-run", *overrides]
    assert suite.main(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "2 runs, 1 stored already"
    assert shown[1:] == [first.command.replace("--seed 1", "--seed 2")]
    assert suite.main(["seeds=[x]"]) == 2


# --- pictures --------------------------------------------------------------------------------------


def test_curves_are_drawn_over_steps_and_minutes(
    script: Callable[[str], ModuleType], files: ModuleType, tmp_path: Path
) -> None:
    study = script("plot_study")
    store(files, tmp_path, [row("flow", 1, 250.0), row("sac", 1, 250.0)])
    rows, curves = files.load(tmp_path)
    drawn = {}
    for over in study.AXES:
        (axes,) = study.draw_returns(rows, curves, {"flow": "C0", "sac": "C1"}, over).axes
        drawn[over] = axes.lines[1].get_xdata().tolist()
        assert [line.get_label() for line in axes.lines[:2]] == ["flow", "sac"]
    assert drawn == {"env_steps": [0, 50_000, 100_000], "train_time": [0, 5, 10]}


def test_seeds_evaluated_at_different_times_are_interpolated(script: Callable[[str], ModuleType]) -> None:
    study = script("plot_study")
    seeds = [
        {"train_time": np.array([0.0, 60, 120, 180]), "eval/episode_return": np.array([0.0, 10, 20, 30])},
        {"train_time": np.array([6.0, 66, 126]), "eval/episode_return": np.array([100.0, 110, 120])},
        {"env_steps": np.array([0.0, 1]), "eval/episode_return": np.array([7.0, 7])},
    ]
    axes = study.Figure().subplots()
    study.draw(axes, seeds, "eval/episode_return", "C0", "", over="train_time")
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata() == pytest.approx([(10 + 109) / 2, (20 + 119) / 2])


def test_many_algorithms_are_drawn_by_where_they_ended(script: Callable[[str], ModuleType]) -> None:
    study = script("plot_study")
    names = [f"change_{i}" for i in range(12)]
    rows = [row(name, 1, 250 + i) for i, name in enumerate(names)] + [row(names[0], 2, 270)]
    alone = row(names[3], 1, 1, "dflex_ant")
    (axes,) = study.draw_changes([*rows, alone], names).axes
    assert axes.get_title() == "dflex_hopper"
    peaks, ends = (collection.get_offsets() for collection in axes.collections)
    assert [tuple(p) for p in ends] == [(260 + i, i) for i in range(12)] + [(280, 0)]
    assert [tuple(p) for p in peaks] == [(300 + i, i) for i in range(12)] + [(320, 0)]
    assert axes.lines[0].get_xdata()[0] == 270
    assert [label.get_text() for label in axes.get_yticklabels()] == names


def test_every_panel_says_what_it_shows_and_whose_lines(
    script: Callable[[str], ModuleType], files: ModuleType
) -> None:
    study = script("plot_study")
    shown = {key for keys in study.PANELS.values() for key in keys}
    assert shown <= set(files.CURVE)
    steps = np.arange(3.0)
    seed = {"env_steps": steps, **dict.fromkeys(shown, steps + 1)}
    seed["eval/value"] = seed["eval/realised_value"] = np.full(3, np.nan)
    colours = {"mlp": "C0", "flow": "C1"}
    figure = study.draw_diagnostics({("dflex_hopper", name): [seed] for name in colours}, colours)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(colours)
    drawn = {axes.get_title(): len(axes.lines) for axes in figure.axes}
    for name, keys in study.PANELS.items():
        assert drawn[f"dflex_hopper\n{name}"] == (0 if "eval/value" in keys else 2 * len(keys))
