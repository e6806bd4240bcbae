"""The sentence a comparison comes to, for every way it can end, and criteria that cannot be judged."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.unit.run_folders import configuration

from pwm.analysis.cost.parameter_parity import Parities, Parity
from pwm.analysis.cost.training_cost import RunCost
from pwm.analysis.statistics.comparison import Comparison, compare_tasks
from pwm.analysis.tables.run_measures import EvaluationRecord, measures
from pwm.analysis.tables.runs import Run, RunTable
from pwm.study.comparison.arm_comparison import ArmComparison, StudyComparison, mean_difference
from pwm.study.comparison.arms import Arm
from pwm.study.comparison.fairness import Difference
from pwm.study.comparison.verdict import Criterion, criteria, verdict

pytest.importorskip("statsmodels")

COUNTING, LQR = TASKS = ("analytic_counting", "analytic_lqr")
SCALE = {COUNTING: (0.0, 10.0), LQR: (0.0, 100.0)}
LOW = {COUNTING: (4.0, 5.0, 6.0), LQR: (45.0, 50.0, 55.0)}
HIGH = {COUNTING: (9.0, 10.0, 11.0), LQR: (95.0, 100.0, 105.0)}
UNFAIR = Difference("flow", "alg.horizon", "16", "8", "all runs", declared=False, decides=True)
COST = RunCost(
    seconds=60.0,
    fps=None,
    velocity_evals=None,
    epoch_gflops=None,
    total_gflops=None,
    memory=None,
    device_memory=None,
    skipped_updates=0.0,
)

Scores = Mapping[str, Sequence[float]]


def arm(label: str, parameters: int | None = 1000, reference: float | None = 0.0) -> Arm:
    """One run of every task."""
    runs = [
        Run(
            path=Path(label),
            task=task,
            config=configuration(task),
            state="finished",
            reason="",
            parameters={} if parameters is None else {"world_model": parameters},
            commit=None,
            reference={} if reference is None else {"zero_action": reference},
            evaluations=(EvaluationRecord(1, 100, 60.0, 1.0, None),),
        )
        for task in TASKS
    ]
    return Arm(label, RunTable(runs, []))


def pair(candidate: Scores, baseline: Scores) -> ArmComparison:
    """Comparison by these final and best scores."""
    a, b = ({task: np.array(values) for task, values in arm.items()} for arm in (candidate, baseline))
    scaled = sorted(a)
    tasks = compare_tasks(a, b)
    overall = mean_difference(a, b, scaled, SCALE)
    return ArmComparison(arm("MLP"), arm("flow"), Comparison(tasks, None, []), tasks, overall, scaled, [])


@functools.cache
def better() -> ArmComparison:
    return pair(HIGH, LOW)


@functools.cache
def worse() -> ArmComparison:
    return pair(LOW, HIGH)


# --- the sentence ---------------------------------------------------------------------------------


def test_better() -> None:
    # Differences of 5 in 10 and 50 in 100; variances 0.01 and 0.0025 on that scale, in both arms.
    half = 0.5 * np.sqrt((2 * 0.01 + 2 * 0.0025) / 3)
    freedom = (2 * 0.01 + 2 * 0.0025) ** 2 / ((2 * 0.01**2 + 2 * 0.0025**2) / 2)
    half *= stats.t.ppf(0.975, freedom)
    assert verdict(better()) == (
        f"flow is better than MLP: +0.50 (95 % interval {0.5 - half:.2f} to {0.5 + half:.2f}) on a scale "
        "from the floor (0) to the best arm (1) with 3 seeds per arm on 2 tasks; task by task it is "
        "significantly better on analytic_counting and analytic_lqr, worse on none."
    )


def test_worse() -> None:
    said = verdict(worse())
    assert said.startswith("flow is worse than MLP: −0.50 (95 % interval −0.")
    assert said.endswith("better on none, worse on analytic_counting and analytic_lqr.")


def test_one_task_is_judged_in_returns() -> None:
    said = verdict(pair({LQR: HIGH[LQR]}, {LQR: LOW[LQR]}))
    assert said.startswith(
        "flow is better than MLP: +50.0 (95 % interval 38.7 to 61.3) in return with 3 seeds"
    )
    assert "on 1 task;" in said


def test_noise_cannot_be_told_apart() -> None:
    noisy = {COUNTING: (1.0, 9.0, 6.0), LQR: (20.0, 90.0, 60.0)}
    said = verdict(pair(noisy, LOW))
    assert said.startswith("flow and MLP cannot be told apart: +0.0")
    assert said.endswith("better on none, worse on none.")


def test_one_seed_cannot_show_anything() -> None:
    single = [{task: scores[:1] for task, scores in arm.items()} for arm in (HIGH, LOW)]
    assert verdict(pair(*single)) == (
        "flow and MLP cannot be told apart with 1 seed per arm on 2 tasks: a single run has no spread to "
        "judge by."
    )


def test_scores_that_do_not_vary_cannot_be_tested() -> None:
    said = verdict(pair({LQR: (2.0, 2.0)}, {LQR: (1.0, 1.0)}))
    assert said.endswith("with 2 seeds per arm on 1 task: no score varies, so there is nothing to test.")


def test_undeclared_differences_come_before_any_number() -> None:
    many = [dataclasses.replace(UNFAIR, key=f"alg.key{n}") for n in range(6)]
    unfair = dataclasses.replace(better(), differences=[UNFAIR])
    assert verdict(unfair) == (
        "flow and MLP are NOT COMPARABLE, because more differs than was declared: "
        "alg.horizon (16 against 8, all runs)."
    )
    assert verdict(dataclasses.replace(unfair, differences=many)).endswith(
        "alg.key3 (16 against 8, all runs) and 2 more."
    )
    fair = dataclasses.replace(UNFAIR, declared=True)
    assert verdict(dataclasses.replace(unfair, differences=[fair])) == verdict(better())


def test_tasks_on_which_nothing_is_learned_do_not_count() -> None:
    scores = [{task: np.array(x) for task, x in arm.items()} for arm in (HIGH, LOW)]
    overall = mean_difference(*scores, [LQR], SCALE)
    said = verdict(dataclasses.replace(better(), scaled=[LQR], overall=overall))
    assert said.startswith("flow is better than MLP: +50.0")
    assert "on 1 task (no arm is shown to be above the floor on analytic_counting);" in said
    assert said.endswith("significantly better on analytic_lqr, worse on none.")
    nothing = dataclasses.replace(better(), scaled=[], overall=None)
    assert verdict(nothing) == (
        "flow and MLP cannot be compared: on no task is an arm's final policy shown to score above the "
        "floor, that is above doing nothing and acting at random."
    )
    blind = dataclasses.replace(
        nothing, baseline=arm("MLP", reference=None), candidate=arm("flow", reference=None)
    )
    assert verdict(blind).endswith("no run folder holds the scores of policies that know nothing.")


def test_best_policies_that_say_the_opposite_are_mentioned() -> None:
    contrary = compare_tasks(
        {COUNTING: HIGH[COUNTING], LQR: LOW[LQR]}, {COUNTING: LOW[COUNTING], LQR: HIGH[LQR]}
    )
    said = verdict(dataclasses.replace(better(), best=contrary))
    assert said.endswith("(the best policies instead of the final ones say the opposite on analytic_lqr).")


# --- the criteria ---------------------------------------------------------------------------------


def judge(
    found: ArmComparison,
    parity: Parities | None = None,
    cost: RunCost = COST,
    reference: Mapping[str, float] | None = None,
    **row: float | None,
) -> dict[str, Criterion]:
    """Criteria by the first word that tells them apart."""
    measured = {"seed": 1, "best": 10.0, "final": 10.0, "retention": 1.0} | row
    study = StudyComparison(
        arms=[found.baseline, found.candidate],
        measure="score",
        references={task: dict(reference or {"zero_action": 0.0}) for task in TASKS},
        scale=dict(SCALE),
        scores={},
        rows={"flow": [{"task": task, **measured} for task in TASKS]},
        differences=[],
        normalised={},
        units={},
        iqm={},
        candidates=[found],
    )
    names = ("fair", "tasks", "size", "failed", "skipped", "retention", "seed")
    return dict(zip(names, criteria(study, {"flow": [cost, cost]}, parity or {}), strict=True))


def failed(judged: Mapping[str, Criterion]) -> list[str]:
    return [name for name, criterion in judged.items() if not criterion.passed]


def test_everything_can_be_met() -> None:
    assert failed(judge(better())) == []


def test_half_of_the_tasks_are_enough_and_less_are_not() -> None:
    half = dataclasses.replace(
        better().comparison, tasks=[better().comparison.tasks[0], worse().comparison.tasks[1]]
    )
    assert failed(judge(dataclasses.replace(better(), comparison=half))) == []
    assert failed(judge(worse())) == ["tasks"]


def test_tasks_that_do_not_count_pass_nothing() -> None:
    # Better on the task that counts for nothing, worse on the other.
    mixed = dataclasses.replace(
        better().comparison, tasks=[better().comparison.tasks[0], worse().comparison.tasks[1]]
    )
    judged = judge(dataclasses.replace(better(), comparison=mixed, scaled=[LQR]))
    assert failed(judged) == ["tasks"]
    assert judged["tasks"].detail == (
        "0 of 1 (analytic_lqr 50.0 against 100.0); not counted: no arm is shown to be above the floor on "
        "analytic_counting"
    )
    nothing = judge(dataclasses.replace(better(), scaled=[]))
    assert failed(nothing) == ["tasks"]
    assert nothing["tasks"].detail.startswith("no task counts: on no task is an arm's final policy shown")


def test_unfair_wins_are_no_wins() -> None:
    judged = judge(dataclasses.replace(better(), differences=[UNFAIR]))
    assert failed(judged) == ["fair", "tasks"]
    assert judged["tasks"].detail.endswith("; not comparable")


@pytest.mark.parametrize(("parameters", "passed"), [(1020, True), (980, True), (1021, False), (None, False)])
def test_sizes_must_be_known_and_agree(parameters: int | None, passed: bool) -> None:
    found = dataclasses.replace(better(), candidate=arm("flow", parameters))
    assert judge(found)["size"].passed is passed


def test_a_pair_that_fails_the_parity_check_fails_here() -> None:
    wrong = Parity({"dynamics": 1}, {"dynamics": 1}, ["encoder differs"], None)
    right = dataclasses.replace(wrong, problems=[])
    judged = judge(better(), {"flow": {COUNTING: right, LQR: wrong}})
    assert failed(judged) == ["size"]
    assert judged["size"].detail.endswith("; 1 of 2 checked pairs pass")
    # Another arm's pair says nothing about this one.
    judged = judge(better(), {"flow": {LQR: right}, "residual": {LQR: wrong}})
    assert failed(judged) == []
    assert judged["size"].detail.endswith("; 1 of 1 checked pairs pass")


def test_what_was_not_measured_is_not_met() -> None:
    unlogged = dataclasses.replace(COST, skipped_updates=None)
    assert failed(judge(better(), cost=unlogged)) == ["skipped"]
    assert failed(judge(better(), retention=None)) == ["retention"]
    never = judge(better(), best=-1.0, final=-1.0, retention=None)
    assert failed(never) == ["retention", "seed"]
    assert never["seed"].detail == (
        "worst seed: 2 of 2 runs cannot be judged: analytic_counting seed 1 never above the floor; "
        "analytic_lqr seed 1 never above the floor"
    )


def test_the_peak_is_measured_from_the_better_policy_that_knows_nothing() -> None:
    # Of a gain of 100 over doing nothing 10 are left, which is 0.92 of the way up from acting at random.
    reference = {"zero_action": 0.0, "random_action": -1000.0}
    curve = [EvaluationRecord(n, n, n, value, None) for n, value in enumerate([0.0, 100.0, 10.0])]
    found = measures(curve, reference, None)
    row = {name: found[name] for name in ("best", "final", "retention")}
    assert row["retention"] == pytest.approx(0.1)
    judged = judge(better(), reference=reference, **row)
    assert failed(judged) == ["retention", "seed"]
    assert "analytic_lqr 0.10" in judged["seed"].detail
    # Above acting at random, but not above doing nothing: there is no peak to keep.
    low = measures([dataclasses.replace(e, episode_return=-500.0) for e in curve], reference, None)
    assert low["retention"] is None


def test_one_run_without_a_peak_fails_what_the_others_pass() -> None:
    found = better()
    rows = [
        {"task": LQR, "seed": seed, "best": best, "final": best, "retention": kept}
        for seed, best, kept in ((1, 10.0, 1.0), (2, -1.0, None), (3, 10.0, 1.0))
    ]
    study = StudyComparison(
        arms=[found.baseline, found.candidate],
        measure="score",
        references={task: {"zero_action": 0.0} for task in TASKS},
        scale=dict(SCALE),
        scores={},
        rows={"flow": rows},
        differences=[],
        normalised={},
        units={},
        iqm={},
        candidates=[found],
    )
    *_, kept, ends = criteria(study, {"flow": [COST]}, {})
    assert (kept.passed, ends.passed) == (False, False)
    assert kept.detail == (
        "analytic_lqr 1.00; 1 of 3 runs cannot be judged: analytic_lqr seed 2 never above the floor"
    )


def test_what_is_lost_again_is_not_met() -> None:
    assert failed(judge(better(), retention=0.89)) == ["retention"]
    assert failed(judge(better(), final=5.0)) == []
    assert failed(judge(better(), final=4.9)) == ["seed"]
    assert failed(judge(better(), cost=dataclasses.replace(COST, skipped_updates=1.0))) == ["skipped"]
