"""Arms: which runs they hold, what is refused, how they are cut, and the scale of their scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from tests.unit.run_folders import write_run

from pwm.analysis.statistics.estimates import welch_test
from pwm.analysis.tables.runs import cut_to_common_step
from pwm.configuration.config import compose_config
from pwm.errors import DataError
from pwm.study.comparison.arm_comparison import compare_study, find_scale
from pwm.study.comparison.arms import load_algorithms, load_arms, references_of, steps_in_words

LQR, COUNTING = "analytic_lqr", "analytic_counting"


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    """Two algorithms, two tasks, two seeds each."""
    for task, gain in ((LQR, 1.0), (COUNTING, 10.0)):
        for seed in (1, 2):
            write_run(tmp_path, task, "mlp", seed, [0.0, gain * seed, gain * (seed + 1)])
            write_run(tmp_path, task, "flow", seed, [0.0, gain * seed, gain * (seed + 4)])
    return tmp_path


def test_an_arm_holds_all_seeds_of_all_tasks_of_its_label(logdir: Path) -> None:
    baseline, candidate = load_arms({"old": [logdir / "*" / "mlp"], "new": [f"{logdir}/*/flow"]})
    assert (baseline.label, baseline.algorithm, candidate.label) == ("old", "mlp", "new")
    assert baseline.tasks == [COUNTING, LQR]
    assert [run.key for run in candidate.runs(LQR)] == [(LQR, "flow", 1), (LQR, "flow", 2)]
    assert baseline.runs("no such task") == []
    np.testing.assert_array_equal(baseline.scores()[LQR], [2.0, 3.0])
    np.testing.assert_array_equal(candidate.scores("auc")[COUNTING], [(5 + 30) / 2, (10 + 40) / 2])
    with pytest.raises(DataError, match="seed1 has no value for 'steps_to_threshold'"):
        baseline.scores("steps_to_threshold")


def test_several_folders_make_one_arm(logdir: Path) -> None:
    (arm,) = load_arms({"x": [logdir / LQR / "mlp" / "seed2", logdir / COUNTING / "mlp"]})
    assert [run.key for run in arm.table.runs] == [
        (COUNTING, "mlp", 1),
        (COUNTING, "mlp", 2),
        (LQR, "mlp", 2),
    ]


def test_one_label_for_two_algorithms_is_refused(logdir: Path) -> None:
    with pytest.raises(DataError, match="x: one label, but runs of 2 algorithms: flow, mlp"):
        load_arms({"x": [logdir]})


def test_a_label_without_a_usable_run_is_refused_with_the_reasons(logdir: Path) -> None:
    write_run(logdir, LQR, "late", 1, [0.0, 1.0], state="running")
    with pytest.raises(DataError, match=r"x: no run can be used\n.*\n.*partial: analytic_lqr late seed 1"):
        load_arms({"x": [logdir / LQR / "late"]})


def test_runs_that_were_expected_are_listed(logdir: Path) -> None:
    wanted = [(LQR, "mlp", seed) for seed in (1, 2, 3)]
    (arm,) = load_arms({"x": [logdir / LQR / "mlp"]}, expected={"x": wanted})
    assert [(p.kind, p.key) for p in arm.table.problems] == [("missing", (LQR, "mlp", 3))]


def test_all_arms_are_cut_at_one_step_of_each_task(logdir: Path) -> None:
    write_run(logdir, LQR, "late", 1, [0.0, 5.0], state="running")
    paths = {"mlp": [logdir / "*" / "mlp"], "late": [logdir / LQR / "late"]}
    mlp, late = load_arms(paths, up_to_common_step=True)
    # The task that has no unfinished run stays whole.
    assert {task: mlp.runs(task)[0].evaluations[-1].steps for task in mlp.tasks} == {
        COUNTING: 200,
        LQR: 100,
    }
    np.testing.assert_array_equal(mlp.scores()[LQR], [1.0, 2.0])
    np.testing.assert_array_equal(late.scores()[LQR], [5.0])


def test_a_run_that_starts_after_the_common_step_is_an_error(logdir: Path) -> None:
    late = write_run(logdir, LQR, "late", 1, [0.0, 5.0], first_step=300)
    wanted = (
        f"{late}: no evaluation up to step 200, where another run of {LQR} ends; its first is at step 300"
    )
    paths = {"mlp": [logdir / LQR / "mlp"], "late": [late]}
    with pytest.raises(DataError) as error:
        load_arms(paths, up_to_common_step=True)
    assert str(error.value) == wanted
    with pytest.raises(DataError) as error:
        load_algorithms([logdir / LQR], up_to_common_step=True)
    assert str(error.value) == wanted
    assert len(load_arms(paths)) == 2


def test_algorithms_become_arms_in_the_order_of_the_paths(logdir: Path) -> None:
    write_run(logdir, LQR, "late", 1, [0.0, 1.0], state="running")
    (logdir / LQR / "mlp" / "seed2" / "config.yaml").unlink()
    arms = load_algorithms([logdir / LQR / "mlp", logdir])
    assert [arm.label for arm in arms] == ["mlp", "flow"]
    mlp, flow = arms
    assert [run.key[2] for run in mlp.runs(LQR)] == [1]
    assert len(flow.table.runs) == 4
    # What belongs to no arm is not lost: the unfinished algorithm, and the run nobody can name any more.
    problems = [(p.kind, p.key) for p in mlp.table.problems]
    assert ("partial", (LQR, "late", 1)) in problems
    assert ("damaged", None) in problems
    assert ("missing", (LQR, "mlp", 2)) in problems
    assert [(p.kind, p.key) for p in flow.table.problems] == []


def test_a_path_without_a_usable_run_is_refused(logdir: Path) -> None:
    late = write_run(logdir, LQR, "late", 1, [0.0, 1.0], state="failed")
    with pytest.raises(DataError, match=r"seed1: no run can be used\n"):
        load_algorithms([logdir / LQR / "mlp", late])


def test_references_come_from_the_first_run_that_knows(tmp_path: Path) -> None:
    write_run(tmp_path, LQR, "mlp", 1, [1.0, 1.0], zero_action=None)
    write_run(tmp_path, LQR, "mlp", 2, [1.0, 1.0], zero_action=-3.0)
    (arm,) = load_arms({"x": [tmp_path]})
    assert references_of([arm], LQR) == {"zero_action": -3.0}
    assert references_of([arm], COUNTING) == {}


def test_scale_runs_from_the_floor_to_the_mean_of_the_best_arm(logdir: Path) -> None:
    # Nobody beats 10 on the first task, where the best run ends at 6.
    for arms, best in ((load_algorithms([logdir]), 55.0), (load_algorithms([logdir / "*" / "mlp"]), 25.0)):
        scores = {arm.label: arm.scores() for arm in arms}
        references = {task: references_of(arms, task) for task in (LQR, COUNTING)}
        # Two seeds, 10 apart, show nothing: their interval reaches far below the floor.
        assert find_scale(scores, references) == {}
        alone = {label: {COUNTING: found[COUNTING].mean(keepdims=True)} for label, found in scores.items()}
        assert find_scale(alone, references) == {COUNTING: (10.0, best)}


def test_there_is_no_scale_without_a_floor(logdir: Path) -> None:
    (arm,) = load_algorithms([logdir / "*" / "mlp" / "seed1"])
    assert find_scale({"mlp": arm.scores()}, {COUNTING: {}, LQR: {}}) == {}
    assert find_scale({"mlp": arm.scores()}, {COUNTING: {"random_action": 30.0}, LQR: {}}) == {}


def test_runs_that_share_a_start_are_compared_seed_by_seed(tmp_path: Path) -> None:
    """A good model lifts all tasks of its seed, so that their mean varies as much as each of them."""
    returns = {"mlp": (40.0, 100.0, 160.0), "flow": (50.0, 110.0, 171.0)}
    for task in (LQR, COUNTING):
        for arm, finals in returns.items():
            for seed, final in enumerate(finals):
                write_run(tmp_path, task, arm, seed, [0.0, final], zero_action=-1000.0)
    overall, better = [], []
    for shared in (False, True):
        for path in tmp_path.glob("*/*/seed*/manifest.json") if shared else ():
            start = {"sha256": "".join(path.parts[-3:-1])}
            path.write_text(json.dumps({**json.loads(path.read_text()), "start": start}))
        arms = load_arms({"mlp": [tmp_path / "*" / "mlp"], "flow": [tmp_path / "*" / "flow"]})
        assert [arm.shares_starts for arm in arms] == [shared] * 2
        study = compare_study(arms, "return", {arm.label: arm.scores() for arm in arms}, [], {})
        (pair,) = study.candidates
        assert pair.overall is not None
        assert pair.comparison.improvement is not None
        overall.append(pair.overall)
        better.append(pair.comparison.improvement)
    scale = 1000 + np.mean(returns["flow"])
    expected = welch_test(np.array(returns["flow"]) / scale, np.array(returns["mlp"]) / scale)
    assert overall[1].difference.value == pytest.approx(overall[0].difference.value)
    assert overall[1].difference.low == pytest.approx(expected.difference.low)
    assert overall[1].difference.low < overall[0].difference.low
    # Models are drawn with the runs of all tasks, not every run by itself.
    assert better[1].value == better[0].value
    assert better[1].high - better[1].low > better[0].high - better[0].low


def test_seeds_that_began_from_one_model_are_one(tmp_path: Path) -> None:
    for task in (LQR, COUNTING):
        for arm in ("mlp", "flow"):
            for seed, final in enumerate((40.0, 60.0)):
                folder = write_run(tmp_path, task, arm, seed, [0.0, final], zero_action=-1000.0)
                made = json.loads((folder / "manifest.json").read_text())
                (folder / "manifest.json").write_text(json.dumps({**made, "start": {"sha256": arm}}))
    arms = load_arms({"mlp": [tmp_path / "*" / "mlp"], "flow": [tmp_path / "*" / "flow"]})
    np.testing.assert_array_equal(arms[0].seed_means(arms[0].scores(), [LQR, COUNTING]), [50.0])
    study = compare_study(arms, "return", {arm.label: arm.scores() for arm in arms}, [], {})
    (pair,) = study.candidates
    assert pair.overall is None
    assert pair.comparison.improvement is not None
    assert np.isnan(pair.comparison.improvement.low)
    assert all(estimate is not None and np.isnan(estimate.low) for estimate in study.iqm.values())


def test_means_of_seeds_are_of_those_that_all_tasks_have(logdir: Path) -> None:
    write_run(logdir, LQR, "mlp", 3, [0.0, 1.0, 9.0])
    (arm,) = load_arms({"mlp": [logdir / "*" / "mlp"]})
    np.testing.assert_array_equal(arm.seed_means(arm.scores(), [LQR, COUNTING]), [11.0, 16.5])


def test_runs_that_count_other_steps_have_none_in_common(logdir: Path, tmp_path: Path) -> None:
    arms = load_algorithms([logdir / LQR])
    runs = [run for arm in arms for run in arm.table.runs]
    extraction = compose_config(["env=analytic", "alg=pwm_extract", "general.name=mlp"])
    assert steps_in_words(arms) == "environment steps"
    runs[0] = dataclasses.replace(runs[0], config=extraction)
    assert runs[0].progress == "updates"
    with pytest.raises(DataError, match="counts environment steps, other runs of analytic_lqr count updates"):
        cut_to_common_step(runs)
