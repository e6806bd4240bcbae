"""The report's comparison of gradients, and its table of runs, on runs with known numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.unit.run_folders import write_run

from pwm.analysis.cost.training_cost import measure_cost
from pwm.analysis.statistics.estimates import welch_test, welch_test_over_tasks
from pwm.analysis.tables.run_measures import EvaluationRecord, measures
from pwm.study.comparison.arm_comparison import StudyComparison, compare_study
from pwm.study.comparison.arms import Arm, load_arms
from pwm.study.report.document import Bullets, Table
from pwm.study.report.gradients import comparisons, gradient_quality, signals
from pwm.study.report.run_table import run_table

pytest.importorskip("rliable")

LQR, COUNTING = "analytic_lqr", "analytic_counting"
# Means over training of the policy's gradients, in dB, by arm and task.
POLICY = {
    "mlp": {LQR: (1.0, 2.0, 3.0), COUNTING: (-4.0, -5.0, -6.0)},
    "better": {LQR: (11.0, 12.0, 13.5), COUNTING: (6.0, 5.0, 4.0)},
    "worse": {LQR: (-9.0, -8.0, -7.0), COUNTING: (-14.0, -15.0, -16.0)},
    "alike": {LQR: (0.0, 2.0, 4.5), COUNTING: (-4.5, -5.0, -5.0)},
}


def arms_of(logdir: Path, policy: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Arm]:
    """Three epochs per run; the gradients are measured after the first and the third."""
    for arm, tasks in policy.items():
        for task, means in tasks.items():
            for seed, mean in enumerate(means, start=1):
                more: dict[str, list[float | None]] = {"memory/rss_peak": [100.0, 300.0, 300.0]}
                if not math.isnan(mean):
                    more["actor/esnr_db"] = [mean - 1.0, None, mean + 1.0]
                    more["wm/esnr_db"] = [5.0 + seed, None, 5.0 + seed]
                    # The better its gradients, the more an arm stretches.
                    more["wm/stretch_db"] = [mean, None, mean]
                write_run(logdir, task, arm, seed, [10.0, 30.0, 50.0, 40.0], seconds=1200.0, more=more)
    return load_arms({arm: [logdir / task / arm for task in tasks] for arm, tasks in policy.items()})


def study_of(arms: list[Arm]) -> StudyComparison:
    return compare_study(arms, "return", {arm.label: arm.scores() for arm in arms}, ["*"], {})


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> list[Arm]:
    return arms_of(tmp_path_factory.mktemp("runs"), POLICY)


def test_means_are_those_over_training_of_every_seed(arms: list[Arm]) -> None:
    measured = signals(arms)
    assert {
        label: {task: tuple(values) for task, values in tasks.items()}
        for label, tasks in measured["policy"].items()
    } == POLICY
    assert measured["world model"]["mlp"][LQR].tolist() == [6.0, 7.0, 8.0]


def test_differences_over_tasks_decide(arms: list[Arm]) -> None:
    found = {(c.arm, c.measure): c for c in comparisons(study_of(arms), signals(arms))}
    outcomes = {arm: found[arm, "policy"].outcome for arm in ("better", "worse", "alike")}
    assert outcomes == {"better": "confirmed", "worse": "not confirmed", "alike": "cannot tell"}
    tasks = [COUNTING, LQR]
    expected = welch_test_over_tasks(*([POLICY[arm][task] for task in tasks] for arm in ("better", "mlp")))
    assert found["better", "policy"].test == expected
    assert found["better", "policy"].tasks == tasks
    # Who stretches more is less smooth.
    smooth = {arm: found[arm, "smoothness"].outcome for arm in outcomes}
    assert smooth == {"better": "not confirmed", "worse": "confirmed", "alike": "cannot tell"}
    # The world model's gradients are the same in all arms.
    assert {found[arm, "world model"].outcome for arm in outcomes} == {"cannot tell"}


def test_the_section_says_it_in_sentences_and_numbers(arms: list[Arm]) -> None:
    (section,) = gradient_quality(study_of(arms), signals(arms))
    _, sentences, table = section.blocks
    assert isinstance(sentences, Bullets)
    assert isinstance(table, Table)
    said = {sentence.partition(";")[0]: sentence for sentence in sentences.items}
    assert "better, policy: confirmed" in said
    assert said["better, policy: confirmed"].endswith(
        "with 3 seeds per arm on 2 tasks: analytic_counting and analytic_lqr."
    )
    assert "worse, policy: not confirmed" in said
    assert "alike, world model: cannot tell" in said
    rows = {(row["Task"], row["Arm"]): row for row in (dict(row) for row in table.rows)}
    assert rows[LQR, "mlp"]["Policy (dB)"].startswith("2.00 [")
    assert rows[LQR, "mlp"]["Policy, difference"] == "–"
    assert rows[LQR, "mlp"]["Smoothness (dB)"].startswith("−2.00 [")
    difference = welch_test(POLICY["worse"][LQR], POLICY["mlp"][LQR]).difference
    assert (
        rows[LQR, "worse"]["Policy, difference"] == f"−10.0 [−{-difference.low:.1f}, −{-difference.high:.1f}]"
    )


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    arms = arms_of(tmp_path, {"mlp": {LQR: (1.0,)}, "flow": {LQR: (20.0,)}})
    measured, study = signals(arms), study_of(arms)
    assert {c.outcome for c in comparisons(study, measured)} == {"cannot tell"}
    (section,) = gradient_quality(study, measured)
    assert "no task has two measured seeds of it and of mlp" in section.blocks[1].items[0]
    row = dict(section.blocks[2].rows[1])
    assert (row["Policy (dB)"], row["Policy, difference"]) == ("20.0", "+19.0")


def test_a_task_of_which_a_run_was_not_measured_is_left_out(tmp_path: Path) -> None:
    policy = {
        "mlp": POLICY["mlp"],
        "flow": {LQR: POLICY["better"][LQR], COUNTING: (1.0, math.nan, 2.0)},
    }
    arms = arms_of(tmp_path, policy)
    found = [c for c in comparisons(study_of(arms), signals(arms)) if c.measure == "policy"]
    assert [c.tasks for c in found] == [[LQR]]


def test_without_measurements_there_is_no_section(tmp_path: Path) -> None:
    nothing = {arm: {LQR: (math.nan, math.nan)} for arm in ("mlp", "flow")}
    arms = arms_of(tmp_path, nothing)
    assert gradient_quality(study_of(arms), signals(arms)) == []


def test_every_run_has_a_line_of_what_it_reached_and_took(arms: list[Arm]) -> None:
    study = study_of(arms)
    costs = {
        arm.label: [measure_cost(run, {LQR: None, COUNTING: None}) for run in arm.table.runs] for arm in arms
    }
    table = run_table(study, costs)
    assert len(table.rows) == 24
    assert dict(table.rows[0]) == {
        "Model": "mlp",
        "Task": COUNTING,
        "Seed": "1",
        "Peak": "50.0",
        "Final": "40.0",
        "Last 100 epochs": "32.5",
        "Completed": "100 %",
        "Memory (MB)": "300.0",
        "Hours": "1.00",
    }


def test_the_last_epochs_are_counted_from_the_last_evaluation() -> None:
    def evaluation(epoch: int, value: float) -> EvaluationRecord:
        return EvaluationRecord(epoch, epoch, 0.0, value, None)

    def late(*epochs: int) -> float | None:
        return measures([evaluation(e, float(e)) for e in epochs], {}, None)["last_100_epochs"]

    assert late(0, 100, 150, 200) == 175.0
    assert late(0, 1000) == 1000.0
    assert late(0) == 0.0
