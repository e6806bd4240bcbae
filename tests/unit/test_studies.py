"""The study scripts: rows, summary and pictures from results that are known."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

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
        suite.merge("cpu_suite", new)
    rows = suite.load_rows("cpu_suite")
    assert [(int(r["seed"]), float(r["peak"])) for r in rows] == [(1, 20.0), (2, 30.0)]


def test_summary_takes_medians_and_measures_retention_from_the_floor(suite: ModuleType) -> None:
    rows = [row("pwm_small", s, 150.0, last) for s, last in ((1, 50.0), (2, 100.0), (3, 150.0))]
    rows += [row("pwm_small_flow", s, 950.0, 900.0 + s) for s in (1, 2, 3)]
    mlp, flow = suite.summarise(rows, suite.ALGORITHMS)
    assert (mlp["median_last10"], mlp["median_minutes"], mlp["seeds"]) == (100.0, 2.0, 3)
    # 100 of 200 above the floor of -50 in the worst seed, 150 of 200 in the middle one.
    assert (mlp["worst_retention"], mlp["median_retention"]) == (0.5, 0.75)
    assert mlp["flow_minus_this_low95"] <= 802 <= mlp["flow_minus_this_high95"]
    assert mlp["flow_minus_this_low95"] > 700
    assert flow["flow_minus_this_low95"] == ""


def test_pictures_are_drawn_from_stored_curves(suite: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "cpu_suite"
    (folder / "curves").mkdir(parents=True)
    for algorithm in ("pwm_small", "pwm_small_flow"):
        for seed in (1, 2):
            suite.merge("cpu_suite", row(algorithm, seed, 10, 9))
            path = folder / "curves" / f"dflex_hopper_{algorithm}_seed{seed}.csv"
            path.write_text(curve([1.0, 2.0 * seed, 3.0], suite.CURVE))
    for picture in importlib.import_module("plot_study").plot_study(folder):
        assert picture.read_bytes().startswith(b"\x89PNG")


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
