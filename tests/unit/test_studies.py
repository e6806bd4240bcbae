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
        filled = {"epoch": step, "env_steps": 512 * step, "eval/episode_return": value}
        lines.append(",".join(str(filled.get(key, "")) for key in keys))
    return "\n".join(lines) + "\n"


def test_a_repeated_run_replaces_its_row(suite: ModuleType) -> None:
    for new in (row("pwm_small", 2, 10, 9), row("pwm_small", 1, 20, 18), row("pwm_small", 2, 30, 27)):
        suite.merge(suite.RESULTS / "cpu_suite", new)
    rows = suite.load_rows(suite.RESULTS / "cpu_suite")
    assert [(int(r["seed"]), float(r["peak"])) for r in rows] == [(1, 20.0), (2, 30.0)]


def returns(*values: float) -> dict[str, np.ndarray]:
    return {"eval/episode_return": np.array(values)}


def test_summary_takes_medians_and_measures_retention_from_the_floors(suite: ModuleType) -> None:
    rows = [row("pwm_small", s, 150.0, last) for s, last in ((1, 50.0), (2, 100.0), (3, 150.0))]
    rows += [row("pwm_small_flow", s, 950.0, 900.0 + s) for s in (1, 2, 3)]
    curves = {
        ("dflex_hopper", "pwm_small"): [returns(0, 150, 50), returns(0, 150, 100), returns(0, 150, 150)],
        ("dflex_hopper", "pwm_small_flow"): [returns(0, 950, 901)] * 3,
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
    rows = [row("pwm_small", 1, 100.0, 90.0), row("pwm_small", 2, 300.0, 290.0)]
    curves = {("dflex_hopper", "pwm_small"): [returns(0, 100, 90), returns(0, 300, 290)]}
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
    for algorithm in ("pwm_small", "pwm_small_flow"):
        for seed in (1, 2):
            suite.merge(suite.RESULTS / "cpu_suite", row(algorithm, seed, 300, 250))
            path = folder / "curves" / f"dflex_hopper_{algorithm}_seed{seed}.csv"
            path.write_text(curve([1.0, 300.0, 250.0], suite.CURVE))
    suite.report("cpu_suite")
    with (folder / "summary.csv").open(newline="") as file:
        assert [r["worst_drawdown"] for r in csv.DictReader(file)] == ["0.25", "0.25"]
    for picture in ("curves.png", "diagnostics.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


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
    colours = {"pwm_small": "C0", "pwm_small_flow": "C1"}
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
    run = suite.Run("cpu_suite", "dflex_hopper", "pwm_small", 1)
    assert suite.write_curve(run, tmp_path) == [
        records[0] | {"train_time": 0.0},
        records[2] | {"train_time": 8.0},
    ]
    with (tmp_path / "cpu_suite" / "curves" / f"{run.name}.csv").open(newline="") as file:
        first, last = csv.DictReader(file)
    assert (first["wm/grad_norm"], last["wm/grad_norm"], last["replay/age"]) == ("", "3", "7.5")


def test_every_study_composes(suite: ModuleType) -> None:
    from pwm.experiment.config import compose_config

    for study, algorithms in suite.STUDIES.items():
        hashes = set()
        for algorithm in algorithms:
            run = suite.Run(study, "dflex_hopper", algorithm, 1)
            config = compose_config(run.arguments(Path("logs"))[1:])
            assert config.run_name == algorithm
            hashes.add(config.hash())
        assert len(hashes) == len(algorithms)
