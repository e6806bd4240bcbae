"""Statistics against published results, known distributions and hand-counted cases."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pwm import packages
from pwm.analysis.statistics import estimates as statistics
from pwm.analysis.statistics.estimates import (
    detectable_effect,
    holm,
    interquartile_mean,
    interquartile_mean_curve,
    performance_profile,
    permutation_test,
    power,
    probability_of_improvement,
    smallest_permutation_p,
    summarise,
    welch_test,
    welch_test_over_tasks,
)
from pwm.analysis.statistics.resampling import percentile_interval
from pwm.errors import ConfigError, DataError

pytest.importorskip("rliable")

ANCHORS = Path(__file__).parents[3] / "shared" / "data" / "anchors"
SIMULATIONS = 1000
# A correct 95 % interval fails these bounds in fewer than 1 of 10 000 sets of 1000 simulations.
COVERAGE = (0.92, 0.98)
TYPE_1 = (0.03, 0.07)


def anchor(name: str) -> list[dict[str, str]]:
    """Rows of a file of published results."""
    path = ANCHORS / name
    if not path.is_file():
        pytest.skip("the published results are not on this machine (../shared/data/anchors)")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# --- published results ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "task", "mean", "std"),
    [
        ("pwm", "hopper", 5649, 53),
        ("pwm", "ant", 9546, 1043),
        ("pwm", "anymal", 14073, 1174),
        ("pwm", "humanoid", 8773, 730),
        ("pwm", "humanoidsnu", 5851, 299),
        ("tdmpc2", "hopper", 3430, 2081),
        ("tdmpc2", "ant", 6413, 470),
    ],
)
def test_published_means_and_deviations(algorithm: str, task: str, mean: float, std: float) -> None:
    rows = anchor("dflex_published_curves.csv")
    last = {
        r["seed"]: float(r["train_return"]) for r in rows if (r["algorithm"], r["task"]) == (algorithm, task)
    }
    found = summarise(list(last.values()))
    assert (found.seeds, round(found.mean.value), round(found.std)) == (5, mean, std)


@pytest.mark.parametrize(("suite", "mean", "iqm"), [("mt30", 0.598, 0.681), ("mt80", 0.678, 0.847)])
def test_published_interquartile_means(suite: str, mean: float, iqm: float) -> None:
    from rliable import metrics

    columns: dict[str, list[float]] = {}
    for r in anchor(f"{suite}_tdmpc2_published.csv"):
        success = r["task"].startswith("mw-")
        score = float(r["episode_success"]) if success else float(r["episode_reward"]) / 1000
        columns.setdefault(r["task"], []).append(score)
    matrix = np.array(list(columns.values())).T
    assert matrix.mean() == pytest.approx(mean, abs=5e-4)
    found = interquartile_mean(matrix, resamples=200)
    assert found.value == pytest.approx(iqm, abs=1e-3)
    assert found.value == metrics.aggregate_iqm(matrix)
    assert found.low < found.value < found.high


# --- intervals cover the truth as often as they say -----------------------------------------------


def share_covering(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize("seeds", [3, 5, 20])
def test_students_interval_covers_the_mean(seeds: int) -> None:
    found = [summarise(10 + 3 * scores).mean for scores in normal(seeds, SIMULATIONS, seeds)]
    covered = share_covering(np.array([e.low for e in found]), np.array([e.high for e in found]), 10.0)
    assert COVERAGE[0] < covered < COVERAGE[1]


@pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 10)])
def test_welchs_interval_covers_the_difference(n: int, m: int) -> None:
    pairs = zip(2 + 3 * normal(1, SIMULATIONS, n), normal(2, SIMULATIONS, m))
    found = [welch_test(x, y).difference for x, y in pairs]
    covered = share_covering(np.array([e.low for e in found]), np.array([e.high for e in found]), 2.0)
    assert COVERAGE[0] < covered < COVERAGE[1]


@pytest.mark.parametrize("tasks", [2, 6])
def test_interval_over_tasks_covers_the_mean_difference(tasks: int) -> None:
    # Three seeds, and tasks of different spread and difference.
    spread, shift = np.linspace(1, 4, tasks)[:, None], np.linspace(0, 4, tasks)[:, None]
    x = shift + spread * normal(11, SIMULATIONS, tasks, 3)
    y = spread * normal(12, SIMULATIONS, tasks, 3)
    found = [welch_test_over_tasks(list(a), list(b)).difference for a, b in zip(x, y)]
    covered = share_covering(np.array([e.low for e in found]), np.array([e.high for e in found]), 2.0)
    assert COVERAGE[0] < covered < COVERAGE[1]


def bootstrap_coverage(seeds: int, tasks: int, spread: float) -> float:
    """Share of simulations in which the interval holds the interquartile mean of infinitely many seeds.

    Tasks lie evenly between 0 and ``spread`` with normal noise, so that the truth is the middle.
    """
    where = np.linspace(0, spread, tasks) if tasks > 1 else np.array([spread / 2])
    scores = where[:, None] + 0.3 * normal(seeds, seeds, tasks, SIMULATIONS)
    found = interquartile_mean_curve(scores, resamples=600)
    return share_covering(found.low, found.high, spread / 2)


@pytest.mark.parametrize(("tasks", "spread"), [(1, 0.0), (2, 1.0), (6, 0.0), (6, 1.0)])
def test_bootstrap_interval_covers_with_enough_seeds(tasks: int, spread: float) -> None:
    assert COVERAGE[0] < bootstrap_coverage(20, tasks, spread) < COVERAGE[1]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_bootstrap_interval_of_few_seeds_is_as_narrow_as_the_notes_say(seeds: int) -> None:
    from pwm.analysis.statistics.comparison import BOOTSTRAP_COVERAGE

    low, high = BOOTSTRAP_COVERAGE[seeds]
    # Two standard errors of 1000 simulations beyond what is stated.
    for tasks, spread in ((1, 0.0), (3, 1.0), (6, 1.0)):
        assert low - 3 < 100 * bootstrap_coverage(seeds, tasks, spread) < high + 3


def test_interval_of_the_probability_of_improvement_covers() -> None:
    truth = stats.norm.cdf(0.5 / math.sqrt(2))
    simulations = 40
    x, y = 0.5 + normal(1, simulations, 20, 2), normal(2, simulations, 20, 2)
    found = [probability_of_improvement(a, b, resamples=100) for a, b in zip(x, y)]
    hits = sum(e.low <= truth <= e.high for e in found)
    # A 95 % interval has fewer than 32 hits of 40 less than once in 1000 times.
    assert stats.binom.cdf(31, simulations, 0.95) < 1 / 1000
    assert hits >= 32


@pytest.mark.parametrize(("seeds", "tasks", "effect"), [(3, 1, 2.0), (3, 6, 0.0), (20, 1, 0.0), (20, 1, 2.0)])
def test_interval_of_the_probability_of_improvement_is_as_narrow_as_the_notes_say(
    seeds: int, tasks: int, effect: float
) -> None:
    from pwm.analysis.statistics.comparison import IMPROVEMENT_COVERAGE

    x = effect + normal(seeds, seeds, tasks, SIMULATIONS)
    y = normal(seeds + 1, seeds, tasks, SIMULATIONS)
    # All simulations at once; what has shrunk to a point is not shown.
    low, high = percentile_interval([x, y], statistics._share_of_wins, 0, 200)
    shown = low < high
    truth = float(stats.norm.cdf(effect / math.sqrt(2)))
    covered = 100 * float(np.mean(shown & (low <= truth) & (truth <= high)))
    least, most = IMPROVEMENT_COVERAGE[seeds]
    assert least - 3 < covered < most + 3


# --- runs that are not independent ----------------------------------------------------------------


def labels(seeds: int, tasks: int, arm: str = "") -> list[list[str]]:
    """Labels of runs of which those of a seed began from one model."""
    return [[f"{arm}{seed}"] * tasks for seed in range(seeds)]


def test_intervals_of_runs_that_share_a_model_cover_where_drawing_runs_alone_does_not() -> None:
    """Twelve models lift six tasks each; a task adds little of its own."""
    seeds, tasks, simulations = 12, 6, 150
    model, own = normal(21, seeds, 1, simulations), normal(22, seeds, tasks, simulations)
    scores = model + 0.3 * own
    shared = interquartile_mean_curve(scores, resamples=300, units=labels(seeds, tasks))
    alone = interquartile_mean_curve(scores, resamples=300)
    np.testing.assert_array_equal(shared.value, alone.value)
    assert share_covering(alone.low, alone.high, 0.0) < 0.7
    assert share_covering(shared.low, shared.high, 0.0) > 0.85


def test_what_is_drawn_are_models_with_all_their_runs() -> None:
    """With equal tasks every sample of models is one of a single task, whose statistic is the mean."""
    column = np.array([[0.0], [1.0], [5.0], [9.0]])
    several = np.tile(column, (1, 3))

    def mean(drawn: np.ndarray) -> np.ndarray:
        # Of a model all tasks are drawn, or none.
        assert (drawn == drawn[:, :1]).all()
        return np.atleast_1d(drawn.mean())

    low, high = percentile_interval([several], mean, 0, 4000, [labels(4, 3)])
    alone = percentile_interval([column], lambda drawn: np.atleast_1d(drawn.mean()), 0, 4000)
    assert (low.item(), high.item()) == pytest.approx((alone[0].item(), alone[1].item()), abs=0.5)


def test_several_runs_of_a_model_on_one_task_are_drawn_together() -> None:
    # Two models with two and four runs; as many runs as there were are kept.
    scores = np.array([[0.0], [0.0], [1.0], [1.0], [1.0], [1.0]])
    seen = set()

    def kept(drawn: np.ndarray) -> np.ndarray:
        seen.add((len(drawn), *np.unique(drawn)))
        return np.atleast_1d(drawn.mean())

    percentile_interval([scores], kept, 0, 50, [[["a"], ["a"], ["b"], ["b"], ["b"], ["b"]]])
    assert seen == {(6, 0.0), (6, 1.0), (6, 0.0, 1.0)}


def test_one_model_for_all_runs_has_no_interval() -> None:
    scores, one = normal(23, 3, 2), [["model"] * 2] * 3
    assert np.isnan(interquartile_mean(scores, units=one).low)
    assert np.isnan(performance_profile(scores, [0.0], units=one).high).all()
    found = probability_of_improvement(scores, normal(24, 3, 2), units=(one, labels(3, 2)))
    assert np.isnan([found.low, found.high]).all()
    assert found.value == probability_of_improvement(scores, normal(24, 3, 2), resamples=2).value


def test_arms_that_share_models_are_drawn_together() -> None:
    """The second arm is the first one and a little more, so that it wins half of all pairs and a bit."""
    scores = normal(25, 6, 4)
    both = labels(6, 4), labels(6, 4)
    seen = []

    def gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        seen.append(float((b - a).mean()))
        return np.atleast_1d(seen[-1])

    percentile_interval([scores, scores + 0.1], gap, 0, 20, both)
    assert seen == pytest.approx([0.1] * 20)
    apart = percentile_interval([scores, scores + 0.1], gap, 0, 20, (labels(6, 4, "a"), labels(6, 4, "b")))
    assert apart[0] < 0.1 < apart[1]


def test_runs_that_share_nothing_are_drawn_as_ever() -> None:
    scores = normal(26, 4, 3)
    own = np.arange(12).reshape(4, 3).astype(str)
    assert interquartile_mean(scores, units=own) == interquartile_mean(scores)
    with pytest.raises(DataError, match="labels of shapes"):
        interquartile_mean(scores, units=own[:, :2])


# --- tests are wrong as often as they say ---------------------------------------------------------


def share_significant(
    test: Callable[[np.ndarray, np.ndarray], float], n: int, m: int, y_scale: float
) -> float:
    pairs = zip(normal(3, SIMULATIONS, n), y_scale * normal(4, SIMULATIONS, m))
    return float(np.mean([test(x, y) <= 0.05 for x, y in pairs]))


@pytest.mark.parametrize(("n", "m", "scale"), [(5, 5, 1.0), (10, 5, 3.0), (10, 10, 1.0)])
def test_welch_finds_nothing_where_nothing_is(n: int, m: int, scale: float) -> None:
    assert TYPE_1[0] <= share_significant(lambda x, y: welch_test(x, y).p_value, n, m, scale) <= TYPE_1[1]


def test_welch_is_careful_with_three_seeds() -> None:
    # Its degrees of freedom are estimated, too, and on the low side.
    assert 0.02 < share_significant(lambda x, y: welch_test(x, y).p_value, 3, 3, 1.0) < 0.05


def test_permutation_finds_nothing_where_nothing_is() -> None:
    assert TYPE_1[0] <= share_significant(permutation_test, 5, 5, 1.0) <= TYPE_1[1]


def test_three_seeds_can_never_be_significant_by_permutation() -> None:
    assert smallest_permutation_p(3, 3) == 0.1
    assert permutation_test([4, 5, 6], [1, 2, 3]) == pytest.approx(0.1)
    assert permutation_test([1e9, 1e9 + 1, 1e9 + 2], [0, 1, 2]) == pytest.approx(0.1)
    # Half of the arrangements of no effect at all lie on either side.
    assert permutation_test([1, 2, 3], [1, 2, 3]) == 1.0


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 4), (4, 4), (5, 5), (7, 7), (8, 8)])
def test_smallest_p_is_reached_by_arms_that_do_not_overlap(n: int, m: int) -> None:
    found = permutation_test(100 + np.arange(n), np.arange(m))
    assert found == pytest.approx(smallest_permutation_p(n, m), abs=3e-4)
    assert found >= smallest_permutation_p(n, m) * (1 - 1e-9)


# --- power ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_needed_agree_with_cohens_table(effect: float, seeds: int) -> None:
    # Two values at a distance of sqrt(2) have a standard deviation of 1.
    arm = np.array([-1.0, 1.0]) / math.sqrt(2)
    found = power(arm + effect, arm)
    assert found.effect == pytest.approx(effect)
    assert found.seeds_needed == seeds


def test_detectable_effect_is_detected_as_often_as_it_says() -> None:
    effect = detectable_effect(3, 3)
    assert effect == pytest.approx(3.07, abs=0.005)
    pairs = zip(effect + normal(5, SIMULATIONS, 3), normal(6, SIMULATIONS, 3))
    detected = np.mean([stats.ttest_ind(x, y).pvalue < 0.05 for x, y in pairs])
    assert 0.75 < detected < 0.85


def test_achieved_power_and_hopeless_effects() -> None:
    arm = np.array([-1.0, 0.0, 1.0])
    effect = detectable_effect(3, 3)
    found = power(arm + effect, arm)
    assert found.achieved == pytest.approx(0.8, abs=1e-6)
    assert found.detectable_difference == pytest.approx(effect)
    tiny = power(arm + 1e-3, arm)
    assert tiny.seeds_needed is None
    assert tiny.achieved == pytest.approx(0.05, abs=1e-3)
    huge = power(arm + 1e6, arm)
    assert (huge.seeds_needed, round(huge.achieved, 6)) == (2, 1.0)
    constant = power([1, 1], [0, 0])
    assert math.isnan(constant.effect)
    assert constant.seeds_needed is None


# --- single values --------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    found = holm([0.01, math.nan])
    assert found[0] == pytest.approx(0.02)
    assert math.isnan(found[1])
    assert holm([]) == []


def test_probability_of_improvement_by_hand() -> None:
    x, y = [[3.0], [1.0], [2.0]], [[0.0], [2.0], [1.5]]
    # Wins of 3: three; of 1: one; of 2: two and a tie.
    assert probability_of_improvement(x, y, resamples=50).value == pytest.approx(6.5 / 9)
    assert probability_of_improvement(y, x, resamples=50).value == pytest.approx(2.5 / 9)
    same = probability_of_improvement(x, x, resamples=50)
    assert same.value == 0.5
    # More runs in one arm; the second task is always lost.
    two = probability_of_improvement([[3.0, 0.0], [4.0, 0.0]], [[1.0, 1.0]] * 3, resamples=50)
    assert two.value == pytest.approx(0.5)
    # What is drawn again is the same figure.
    for a, b in ((x, y), (x, x), (normal(1, 3, 2), normal(2, 4, 2))):
        same = statistics._share_of_wins(np.asarray(a), np.asarray(b))
        assert same.item() == pytest.approx(probability_of_improvement(a, b, resamples=2).value)


def test_performance_profile_by_hand() -> None:
    scores = [[0.0, 1.0], [0.5, 1.0], [1.0, 2.0]]
    found = performance_profile(scores, [-1.0, 0.25, 1.0, 2.0], resamples=100)
    np.testing.assert_allclose(found.value, [1.0, 5 / 6, 1 / 6, 0.0])
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    assert (found.low[0], found.high[0], found.low[3], found.high[3]) == (1.0, 1.0, 0.0, 0.0)


def test_welch_by_hand_and_without_spread() -> None:
    found = welch_test([1, 2, 3], [2, 4, 6])
    assert found.difference.value == -2.0
    # t = -2 / sqrt(1/3 + 4/3), with (5/3)^2 / ((1/9 + 16/9) / 2) degrees of freedom.
    t, freedom = -2 / math.sqrt(5 / 3), (25 / 9) / ((17 / 9) / 2)
    assert found.p_value == pytest.approx(2 * stats.t.cdf(t, freedom))
    assert math.isnan(welch_test([1, 1], [2, 2]).p_value)
    assert welch_test([1, 1], [2, 2]).difference.value == -1.0


def test_welch_over_tasks_by_hand() -> None:
    x, y = [[1, 2, 3], [10, 14]], [[2, 4, 6], [8, 9, 10]]
    found = welch_test_over_tasks(x, y)
    # Differences -2 and 3; a quarter of the variances 1, 4, 8 and 1 over 3, 3, 2 and 3 seeds.
    parts = np.array([1 / 3, 4 / 3, 8 / 2, 1 / 3]) / 4
    freedom = parts.sum() ** 2 / np.sum(parts**2 / [2, 2, 1, 2])
    assert found.difference.value == 0.5
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.5 / math.sqrt(parts.sum()), freedom))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(parts.sum())
    assert (found.difference.low, found.difference.high) == pytest.approx((0.5 - half, 0.5 + half))
    one, welch = welch_test_over_tasks([x[0]], [y[0]]), welch_test(x[0], y[0])
    assert one.p_value == pytest.approx(welch.p_value)
    assert one.difference.high == pytest.approx(welch.difference.high)
    assert math.isnan(welch_test_over_tasks([[1, 1]], [[2, 2]]).p_value)
    with pytest.raises(DataError, match="scores of 2 and of 1 tasks"):
        welch_test_over_tasks(x, [y[0]])
    with pytest.raises(DataError, match="1 seeds; at least 2"):
        welch_test_over_tasks([[1.0]], [[1.0, 2.0]])


def test_one_seed_has_no_spread() -> None:
    found = summarise([3.0])
    assert found.mean.value == 3.0
    assert np.isnan([found.std, found.mean.low, found.mean.high]).all()
    for estimate in (interquartile_mean([[1.0, 2.0]]), probability_of_improvement([[1.0]], [[0.0], [0.5]])):
        assert np.isnan([estimate.low, estimate.high]).all()
    assert np.isnan(performance_profile([[1.0]], [0.5]).low).all()
    with pytest.raises(DataError, match="1 seeds; at least 2 are needed"):
        welch_test([1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="1 and 3 seeds"):
        detectable_effect(1, 3)


def test_results_repeat_and_leave_the_global_stream_alone() -> None:
    scores = normal(7, 5, 3)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = (interquartile_mean(scores, seed=3, resamples=200) for _ in range(2))
    assert first == again
    assert first != interquartile_mean(scores, seed=4, resamples=200)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, math.nan]], "1 of 2 scores are not finite"),
        ([1.0, 2.0], r"scores of shape \[2\]; 2 non-empty dimensions"),
        (np.empty((0, 2)), r"scores of shape \[0, 2\]"),
    ],
)
def test_what_are_no_scores_is_named(values: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        interquartile_mean(values)


def test_arms_of_different_tasks_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="scores of 2 and of 1 tasks"):
        probability_of_improvement([[1.0, 2.0]], [[1.0]])


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(packages.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r'pip install "flow-pwm\[report\]"'):
        holm([0.1])
