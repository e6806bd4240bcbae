"""Parts of a report that few experiments have: pretrained models, and scores that are successes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tests.unit.run_folders import write_run

from pwm.analysis.tables.model_fits import Fit, ModelFit, read_fit
from pwm.envs.task_table import task_row
from pwm.errors import DataError
from pwm.study.comparison.arm_comparison import StudyComparison, compare_study
from pwm.study.comparison.arms import load_arms
from pwm.study.extraction import _published, score, table
from pwm.study.report.document import Table
from pwm.study.report.models import SharedModel, pretrained_models
from pwm.study.report.scores import normalised_scores

LQR, COUNTING = "analytic_lqr", "analytic_counting"


def tables(sections: list) -> list[Table]:
    return [block for section in sections for block in section.blocks if isinstance(block, Table)]


@pytest.fixture
def study(tmp_path: Path) -> StudyComparison:
    pytest.importorskip("rliable")
    for task in (LQR, COUNTING):
        for arm, final in (("mlp", 100.0), ("flow", 300.0)):
            for seed in (1, 2):
                write_run(tmp_path, task, arm, seed, [0.0, final + 10 * seed])
    arms = load_arms({arm: [tmp_path / "*" / arm] for arm in ("mlp", "flow")})
    return compare_study(arms, "return", {arm.label: arm.scores() for arm in arms}, [], {})


def test_dm_control_is_scored_by_returns_and_meta_world_by_success() -> None:
    result = {"mean": 250.0, "success": 0.75}
    assert score("dmc_walker-walk", result) == 0.25
    assert score("metaworld_mw-reach", result) == 0.75
    assert score("dflex_hopper", {"mean": 250.0}) is None


def test_doubtful_published_scores_say_so() -> None:
    names = ("cartpole-swingup", "cup-catch", "mw-reach", "mw-push")
    measured = dict.fromkeys(("return", "std", "score", "random", "behaviour", "minutes"), 0.5)
    results = []
    for name in names:
        found = _published(task_row(name), "mt80" if name.startswith("mw-") else "mt30")
        scores = {f"published_{key}": found.get(key) for key in ("pwm", "tdmpc2", "caveat")}
        results.append({"task": name, **measured, **scores})
    assert [r["published_tdmpc2"] for r in results] == [0.0005, 0.9643, 0.8, 1.0]
    lines = table(results).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == [
        "cartpole-swingup*",
        "cup-catch",
        "mw-reach**",
        "mw-push**",
    ]
    assert [line.split()[0] for line in lines[-2:]] == ["*", "**"]
    assert "random actions earn 0.057" in lines[-2]
    assert "unverified" in lines[-1]


def test_the_mean_of_scores_is_over_returns_and_successes(study: StudyComparison) -> None:
    """One task is scored by its return of at most 1000, the other by its success."""
    runs = [run for arm in study.arms for run in arm.table.runs]
    success = {"mlp": 0.5, "flow": 1.0}
    scores = {
        run.key: success[run.key[1]] if run.task == COUNTING else run.evaluations[-1].episode_return / 1000
        for run in runs
    }
    table, tests = tables(normalised_scores(study, scores, {LQR: 1000.0}))
    rows = {row[0]: row for row in table.cells}
    assert rows[COUNTING][1:] == ["0.50 [0.50, 0.50]", "1.00 [1.00, 1.00]", "–"]
    assert str(rows[LQR][1]).startswith("0.11 [")
    assert rows[LQR][3] == "0.010"
    assert str(rows["mean of 2 tasks"][1]).startswith("0.31 [")
    assert "end in success (analytic_counting)" in table.notes[0]
    assert "an episode can earn (1,000)" in table.notes[0]
    assert tests.cells[0][0] == "flow"
    # A task of which a single run has no score has none in the report.
    del scores[next(run.key for run in runs if run.task == COUNTING)]
    assert [row[0] for row in tables(normalised_scores(study, scores, {LQR: 1000.0}))[0].cells] == [LQR]
    assert normalised_scores(study, {}, {}) == []


def test_models_that_cannot_be_read_are_named_and_the_others_shown() -> None:
    fit = ModelFit(800, 12.5, 512_345, 8, Fit(0.4, 0.02), {"cup-catch": Fit(0.4, math.nan)})
    models = [SharedModel("mlp", 1, 6, Path("a"), fit), SharedModel("flow", 1, 5, Path("b"), None)]
    overall, by_task = tables(pretrained_models(models))
    assert overall.cells == [
        ["mlp", "1", "800", "12.5", "512,345", "0.40", "0.020", "6"],
        ["flow", "1", "–", "–", "–", "–", "–", "5"],
    ]
    assert "8 steps ahead" in overall.notes[0]
    assert "flow seed 1" in overall.notes[-1]
    assert by_task.cells == [["cup-catch", "mlp", "0.40", "–"], ["cup-catch", "flow", "–", "–"]]
    assert pretrained_models([]) == []


def test_a_fit_is_that_of_the_last_evaluation(tmp_path: Path) -> None:
    folder = write_run(tmp_path, LQR, "model", 1, [0.0, 1.0, 2.0])
    with pytest.raises(DataError, match="no evaluation on held-out windows"):
        read_fit(folder)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for number, record in enumerate(records[:2]):
        record |= {"updates": 100 * number, "heldout/latent_error_k16": 1 - 0.3 * number}
        record["heldout/reward_rmse"] = None if number else 2.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    fit = read_fit(folder)
    assert (fit.updates, fit.minutes, fit.horizon, fit.parameters) == (100, 1.0, 16, None)
    assert fit.mean.latent == 0.7
    assert math.isnan(fit.mean.reward)
    assert fit.tasks == {LQR: fit.mean}
