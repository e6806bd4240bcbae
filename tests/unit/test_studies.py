"""The study scripts: rows, summary and pictures from results that are known."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The suite's module, with its results in a temporary folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("cpu_suite")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def row(algorithm: str, seed: int, peak: float, last10: float) -> dict[str, object]:
    return {
        "task": "dflex_hopper",
        "algorithm": algorithm,
        "seed": seed,
        "wall_time": 60.0 * seed,
        "peak": peak,
        "last10": last10,
        "held_out_final": last10,
        "zero_action": 100.0,
        "random_action": -50.0,
    }


def curve(values: list[float], keys: tuple[str, ...]) -> str:
    lines = [",".join(keys)]
    for step, value in enumerate(values):
        filled = {"epoch": step, "env_steps": 512 * step, "train_time": 60 * step}
        filled |= {"eval/episode_return": value, "eval/latent_error_k1": 0.5}
        lines.append(",".join(str(filled.get(key, "")) for key in keys))
    return "\n".join(lines) + "\n"


def test_a_repeated_run_replaces_its_row(suite: ModuleType) -> None:
    for numbers in ((2, 10, 9), (1, 20, 18), (2, 30, 27)):
        new = row("pwm_small_h16", *numbers)
        suite.merge(suite.RESULTS / "cpu_suite", new)
    rows = suite.load_rows(suite.RESULTS / "cpu_suite")
    assert [(int(r["seed"]), float(r["peak"])) for r in rows] == [(1, 20.0), (2, 30.0)]


def returns(*values: float) -> dict[str, np.ndarray]:
    return {"eval/episode_return": np.array(values)}


def test_summary_takes_medians_and_measures_retention_from_the_floors(suite: ModuleType) -> None:
    rows = [row("pwm_small_h16", s, 150.0, last) for s, last in ((1, 50.0), (2, 100.0), (3, 150.0))]
    rows += [row("pwm_small_h16_flow", s, 950.0, 900.0 + s) for s in (1, 2, 3)]
    curves = {
        ("dflex_hopper", "pwm_small_h16"): [returns(0, 150, 50), returns(0, 150, 100), returns(0, 150, 150)],
        ("dflex_hopper", "pwm_small_h16_flow"): [returns(0, 950, 901)] * 3,
    }
    mlp, flow = suite.summarise(rows, curves, suite.ALGORITHMS)
    assert (mlp["median_last10"], mlp["median_minutes"], mlp["seeds"]) == (100.0, 2.0, 3)
    # 100 of 200 above the lower floor of -50 in the worst seed, 150 of 200 in the middle one.
    assert (mlp["worst_retention"], mlp["median_retention"]) == (0.5, 0.75)
    # Above the higher floor of 100 the worst seed lost twice what it had gained, the middle one all.
    assert (mlp["worst_gain_retention"], mlp["median_gain_retention"]) == (-1.0, 0.0)
    assert (mlp["worst_drawdown"], flow["worst_drawdown"]) == (2.0, 0.058)
    assert mlp["flow_minus_this_low95"] <= 802 <= mlp["flow_minus_this_high95"]
    assert mlp["flow_minus_this_low95"] > 700
    assert flow["flow_minus_this_low95"] == ""


def test_a_seed_that_gained_nothing_kept_no_share_of_it(suite: ModuleType) -> None:
    rows = [row("pwm_small_h16", 1, 100.0, 90.0), row("pwm_small_h16", 2, 300.0, 290.0)]
    curves = {("dflex_hopper", "pwm_small_h16"): [returns(0, 100, 90), returns(0, 300, 290)]}
    (found,) = suite.summarise(rows, curves, suite.ALGORITHMS)
    empty = ("median_gain_retention", "worst_gain_retention", "worst_drawdown")
    assert [found[key] for key in empty] == [""] * 3
    assert found["worst_retention"] == pytest.approx(140 / 150, abs=1e-3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-90, -95, 200, 180, 300, 250], 0.25),
        # From the 200 of the second evaluation to 20, though the peak of 300 comes later.
        ([0, 200, 20, 300, 299], 0.9),
        # A bad start is no drop from what was learned.
        ([90, -500, 300, 300], 0.0),
    ],
)
def test_drawdown_is_the_largest_drop_from_a_peak_above_the_floor(
    suite: ModuleType, values: list[float], expected: float
) -> None:
    assert suite.drawdown(np.array(values, dtype=float), 100.0) == pytest.approx(expected)


def test_pictures_and_summary_come_from_stored_curves(suite: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "cpu_suite"
    (folder / "curves").mkdir(parents=True)
    for algorithm in ("pwm_small_h16", "pwm_small_h16_flow"):
        for seed in (1, 2):
            suite.merge(suite.RESULTS / "cpu_suite", row(algorithm, seed, 300, 250))
            path = folder / "curves" / f"dflex_hopper_{algorithm}_seed{seed}.csv"
            path.write_text(curve([1.0, 300.0, 250.0], suite.CURVE))
    suite.report("cpu_suite")
    with (folder / "summary.csv").open(newline="") as file:
        assert [r["worst_drawdown"] for r in csv.DictReader(file)] == ["0.25", "0.25"]
    for picture in ("curves.png", "curves_minutes.png", "diagnostics.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_baselines_stand_beside_the_suite(suite: ModuleType, tmp_path: Path) -> None:
    recorded = {
        ("cpu_suite", "pwm_small_h16_flow"): suite.CURVE,
        ("model_free", "sac"): ("env_steps", "train_time", "eval/episode_return"),
    }
    for (study, algorithm), columns in recorded.items():
        suite.merge(tmp_path / study, row(algorithm, 1, 300, 250))
        (tmp_path / study / "curves").mkdir()
        path = tmp_path / study / "curves" / f"dflex_hopper_{algorithm}_seed1.csv"
        path.write_text(curve([1.0, 300.0, 250.0], columns))
    rows, curves, algorithms = suite.stored("cpu_suite")
    assert algorithms == [*suite.ALGORITHMS, "sac"]
    assert [r["algorithm"] for r in rows] == ["pwm_small_h16_flow", "sac"]
    suite.report("cpu_suite")
    with (tmp_path / "cpu_suite" / "summary.csv").open(newline="") as file:
        assert [r["algorithm"] for r in csv.DictReader(file)] == ["pwm_small_h16_flow", "sac"]
    study = importlib.import_module("plot_study")
    colours = dict.fromkeys(algorithms, "C0")
    drawn = {}
    for over in study.AXES:
        (axes,) = study.draw_returns(rows, curves, colours, over).axes
        drawn[over] = axes.lines[1].get_xdata().tolist()
        assert [line.get_label() for line in axes.lines[:2]] == ["pwm_small_h16_flow", "sac"]
    assert drawn == {"env_steps": [0, 512, 1024], "train_time": [0, 1, 2]}


def test_seeds_evaluated_at_different_times_are_interpolated(suite: ModuleType) -> None:
    study = importlib.import_module("plot_study")
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


def test_equal_budgets_count_the_seeds_that_got_so_far(suite: ModuleType) -> None:
    budgets = importlib.import_module("equal_budgets")

    def seed(steps: int, minutes: float) -> dict[str, np.ndarray]:
        share = np.array([0.0, 0.5, 1.0])
        return {
            "env_steps": steps * share,
            "train_time": 60 * minutes * share,
            "eval/episode_return": np.array([0.0, 100.0, 300.0]),
        }

    curves = {("dflex_hopper", "sac"): [seed(100_000, 20), seed(40_000, 8)], ("dflex_hopper", "other"): []}
    table = budgets.at_equal_budgets(curves, ["sac", "other"])
    found = {
        (r["unit"], r["budget"]): (r["seeds"], r["median"], r["lowest"], r["highest"])
        for r in table
        if r["algorithm"] == "sac"
    }
    assert found == {
        # Half of the first run, and five eighths of the second.
        ("env_steps", 25_000): (2, 100.0, 50.0, 150.0),
        ("env_steps", 50_000): (1, 100.0, 100.0, 100.0),
        ("env_steps", 100_000): (1, 300.0, 300.0, 300.0),
        ("minutes", 5): (2, 100.0, 50.0, 150.0),
        ("minutes", 10): (1, 100.0, 100.0, 100.0),
        ("minutes", 20): (1, 300.0, 300.0, 300.0),
    }
    assert [(r["seeds"], r["median"]) for r in table if r["algorithm"] == "other"] == [(0, "")] * 6


def test_many_algorithms_are_drawn_by_where_they_ended(suite: ModuleType) -> None:
    study = importlib.import_module("plot_study")
    names = [f"change_{i}" for i in range(12)]
    rows = [row(name, 1, 300 + i, 250 + i) for i, name in enumerate(names)] + [row(names[0], 2, 400, 270)]
    alone = row(names[3], 1, 1, 1) | {"task": "dflex_ant"}
    (axes,) = study.draw_changes([*rows, alone], names).axes
    assert axes.get_title() == "dflex_hopper"
    peaks, ends = (collection.get_offsets() for collection in axes.collections)
    assert [tuple(p) for p in ends] == [(250 + i, i) for i in range(12)] + [(270, 0)]
    assert [tuple(p) for p in peaks] == [(300 + i, i) for i in range(12)] + [(400, 0)]
    assert axes.lines[0].get_xdata()[0] == 260
    assert [label.get_text() for label in axes.get_yticklabels()] == names


def test_every_panel_says_what_it_shows_and_whose_lines(suite: ModuleType) -> None:
    study = importlib.import_module("plot_study")
    shown = {key for keys in study.PANELS.values() for key in keys}
    assert shown <= set(suite.CURVE)
    steps = np.arange(3.0)
    seed = {"env_steps": steps, **dict.fromkeys(shown, steps + 1)}
    seed["eval/value"] = seed["eval/realised_value"] = np.full(3, np.nan)
    colours = {"pwm_small_h16": "C0", "pwm_small_h16_flow": "C1"}
    figure = study.draw_diagnostics({("dflex_hopper", name): [seed] for name in colours}, colours)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(colours)
    drawn = {axes.get_title(): len(axes.lines) for axes in figure.axes}
    for name, keys in study.PANELS.items():
        assert drawn[f"dflex_hopper\n{name}"] == (0 if "eval/value" in keys else 2 * len(keys))


def test_curves_keep_what_was_recorded_and_leave_the_rest_empty(suite: ModuleType, tmp_path: Path) -> None:
    records = [
        {"epoch": 0, "env_steps": 0, "eval/episode_return": 1.5, "wall_time": 2.0, "time/eval": 2.0},
        {"epoch": 1, "env_steps": 512, "wall_time": 7.0, "time/sim": 3.0, "time/gradients": 1.0},
        {
            "epoch": 2,
            "env_steps": 1024,
            "eval/episode_return": 2.5,
            "wm/grad_norm": 3.0,
            "replay/age": 7.5,
            "wall_time": 14.0,
            "time/eval": 3.0,
        },
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    run = suite.Run("cpu_suite", "dflex_hopper", "pwm_small_h16", 1)
    assert suite.write_curve(run, tmp_path) == [
        records[0] | {"train_time": 0.0},
        records[2] | {"train_time": 8.0},
    ]
    with (tmp_path / "cpu_suite" / "curves" / f"{run.name}.csv").open(newline="") as file:
        first, last = csv.DictReader(file)
    assert (first["wm/grad_norm"], last["wm/grad_norm"], last["replay/age"]) == ("", "3", "7.5")


def test_every_study_composes(suite: ModuleType) -> None:
    from pwm.configuration.config import compose_config

    for study, algorithms in suite.STUDIES.items():
        hashes = set()
        for algorithm in algorithms:
            run = suite.Run(study, "dflex_hopper", algorithm, 1)
            config = compose_config(run.arguments(Path("logs"))[1:])
            assert config.run_name == algorithm
            hashes.add(config.hash())
        assert len(hashes) == len(algorithms)
