"""A model-free baseline is trained, stored, and not repeated."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "model_free.py"
pytestmark = pytest.mark.slow


def command(folder: Path, algorithm: str) -> list[str]:
    options = f"--algo {algorithm} --task analytic --env-steps 400 --eval-every 150 --seed 1"
    folders = ["--results", str(folder / "results"), "--unfinished", str(folder / "unfinished")]
    return [sys.executable, str(SCRIPT), *options.split(), *folders]


def run(folder: Path, algorithm: str) -> str:
    done = subprocess.run(command(folder, algorithm), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("algorithm", ["sac", "tqc", "crossq", "ppo"])
def test_a_baseline_is_trained_stored_and_not_repeated(algorithm: str, tmp_path: Path) -> None:
    pytest.importorskip("sbx", reason="needs the extra 'baselines'")
    run(tmp_path, algorithm)
    results = tmp_path / "results"
    curve = results / "curves" / f"analytic_lqr_{algorithm}_seed1.csv"
    points = rows(curve)
    assert [int(r["env_steps"]) for r in points] == [0, 150, 300, 400]
    assert curve.read_text() == (tmp_path / "unfinished" / "curves" / curve.name).read_text()
    (row,) = rows(results / "runs.csv")
    returns = [float(r["eval/episode_return"]) for r in points]
    assert float(row["peak"]) == pytest.approx(max(returns), abs=0.01)
    assert float(row["final"]) == pytest.approx(returns[-1], abs=0.01)
    # One process on one core; rounding aside it cannot be busier than the clock runs.
    assert 0 < float(row["core_share"]) <= 1.01
    assert "sbx-rl" in row["versions"]
    # The policy that is trained is the one that is evaluated, except before on-policy data suffice.
    assert (len(set(returns)) > 1) == (algorithm != "ppo")
    assert run(tmp_path, algorithm).startswith("already finished")
    assert rows(results / "runs.csv") == [row]


def test_a_killed_run_leaves_its_curve(tmp_path: Path) -> None:
    pytest.importorskip("sbx", reason="needs the extra 'baselines'")
    long = [word.replace("400", "1000000") for word in command(tmp_path, "sac")]
    with subprocess.Popen(long, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            process.stdout.readline()
        process.kill()
    points = rows(tmp_path / "unfinished" / "curves" / "analytic_lqr_sac_seed1.csv")
    assert [int(r["env_steps"]) for r in points][:3] == [0, 150, 300]
    assert not (tmp_path / "results").exists()
