"""What the figures of a comparison show, read back from their lines, bars and bands."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from tests.unit.run_folders import configuration, write_run

from pwm.analysis.plots.style import COLOURS, save_figure
from pwm.analysis.statistics.curves import smooth
from pwm.analysis.statistics.estimates import summarise
from pwm.analysis.tables.run_measures import MEASURES
from pwm.errors import ConfigError, DataError
from pwm.study.comparison.arm_comparison import StudyComparison, compare_study
from pwm.study.comparison.arms import Arm, load_algorithms, load_arms
from pwm.study.comparison.plots import (
    gradient_norms,
    learning_curves,
    losses,
    performance_profiles,
    task_bars,
)

LQR, COUNTING = "analytic_lqr", "analytic_counting"
RETURNS = {
    "mlp": [[10.0, 20.0, 30.0, 40.0], [10.0, 24.0, 28.0, 46.0], [10.0, 16.0, 35.0, 37.0]],
    "flow": [[10.0, 40.0, 50.0, 70.0], [10.0, 44.0, 58.0, 80.0], [10.0, 36.0, 55.0, 75.0]],
}


def metrics(gain: float) -> dict[str, list[float | None]]:
    """Further metrics of the three epochs that train."""
    return {
        "wm/grad_norm": [2.0 * gain, 3.0 * gain, 40.0],
        "actor/grad_norm": [0.1, 0.5, None],
        "critic/grad_norm": [0.0, 1.0, 2.0],
        "wm/dynamics_loss": [3.0 * gain, 0.2 * gain, 0.1 * gain],
        "actor/loss": [1.0, -1.0, -2.0],
        "wm/latent_error_k1": [0.9, 0.8, 0.7],
        "wm/latent_error_k4": [0.8, 0.7, 0.6],
        "wm/latent_error_k16": [0.7, 0.6, 0.5],
    }


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two algorithms, two tasks, three seeds, not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    for algorithm, curves in RETURNS.items():
        for seed, returns in enumerate(curves, start=1):
            more = metrics(seed)
            write_run(folder, LQR, algorithm, seed, returns, seconds=60.0 * seed, more=more)
            write_run(
                folder, COUNTING, algorithm, seed, [r - 100 for r in returns], zero_action=-90.0, more=more
            )
    return folder


@pytest.fixture(scope="module")
def arms(logdir: Path) -> list[Arm]:
    return load_algorithms([logdir / "*" / "mlp", logdir])


def compared(arms: list[Arm], measure: str = "final") -> StudyComparison:
    """The arms compared by one of ``MEASURES``."""
    scores = {arm.label: arm.scores(measure) for arm in arms}
    return compare_study(arms, MEASURES[measure], scores, ["*"], {})


def panel(figure: Figure, title: str) -> Axes:
    """The panel of that title."""
    (found,) = (axes for axes in figure.axes if axes.get_title() == title)
    return found


def lines(axes: Axes, colour: str) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Data and width of the lines of a colour, in the order in which they were drawn."""
    return [
        (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), line.get_linewidth())
        for line in axes.lines
        if to_hex(line.get_color()).upper() == colour
    ]


def band(axes: Axes, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grid, lower and upper edge of a filled band."""
    vertices = axes.collections[number].get_paths()[0].vertices
    grid = np.unique(vertices[:, 0])
    edges = [vertices[vertices[:, 0] == x, 1] for x in grid]
    return grid, np.array([e.min() for e in edges]), np.array([e.max() for e in edges])


def caption(figure: Figure) -> str:
    """How to read the figure, as is written below it."""
    return figure.get_supxlabel()


# --- learning curves ------------------------------------------------------------------------------


def test_curves_show_every_run_their_mean_and_its_student_interval(arms: list[Arm]) -> None:
    axes = panel(learning_curves(arms), LQR)
    for number, (algorithm, curves) in enumerate(RETURNS.items()):
        *singles, mean = lines(axes, COLOURS[number])
        for (x, y, width), returns in zip(singles, curves, strict=True):
            np.testing.assert_array_equal(x, [0, 100, 200, 300])
            np.testing.assert_array_equal(y, returns)
            assert width < mean[2]
        np.testing.assert_allclose(mean[1], np.mean(curves, axis=0), err_msg=algorithm)
        grid, low, high = band(axes, number)
        np.testing.assert_array_equal(grid, [0, 100, 200, 300])
        wanted = [summarise(column).mean for column in zip(*curves)]
        np.testing.assert_allclose(low, [estimate.low for estimate in wanted])
        np.testing.assert_allclose(high, [estimate.high for estimate in wanted])


def test_figures_say_what_the_band_is_who_is_who_and_where_the_floor_is(arms: list[Arm]) -> None:
    figure = learning_curves(arms)
    assert "95 % Student interval" in caption(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["mlp (3 seeds)", "flow (3 seeds)"]
    assert [axes.get_title() for axes in figure.axes] == [COUNTING, LQR]
    for title, score in ((LQR, 10.0), (COUNTING, -90.0)):
        axes = panel(figure, title)
        assert [list(line.get_ydata()) for line in axes.lines if to_hex(line.get_color()) == "#000000"] == [
            [score, score]
        ]
        assert [text.get_text() for text in axes.texts] == [f"floor {str(score).replace('-', '−')}"]


def test_over_wall_time_the_mean_ends_with_the_fastest_run(arms: list[Arm]) -> None:
    axes = panel(learning_curves(arms, "wall_time"), LQR)
    assert axes.get_xlabel() == "wall time (minutes)"
    first, second, third, mean = lines(axes, COLOURS[0])
    assert [x[-1] for x, _, _ in (first, second, third)] == [3.0, 6.0, 9.0]
    assert (mean[0][0], mean[0][-1]) == (0.0, 3.0)
    # At minute 3: the last point of the first run, half-way through the second, a third of the third.
    assert mean[1][-1] == pytest.approx((40.0 + 26.0 + 16.0) / 3)


def test_smoothing_changes_means_and_bands_and_leaves_the_runs_raw(arms: list[Arm]) -> None:
    figure = learning_curves(arms, smoothing=0.6)
    axes = panel(figure, LQR)
    *singles, mean = lines(axes, COLOURS[0])
    for (_, y, _), returns in zip(singles, RETURNS["mlp"], strict=True):
        np.testing.assert_array_equal(y, returns)
    smoothed = [smooth(returns, 0.6) for returns in RETURNS["mlp"]]
    np.testing.assert_allclose(mean[1], np.mean(smoothed, axis=0))
    np.testing.assert_allclose(band(axes, 0)[1][-1], summarise([run[-1] for run in smoothed]).mean.low)
    assert "smoothed by 0.6" in caption(figure)
    for draw in (learning_curves, losses):
        with pytest.raises(ConfigError, match="smoothing=1 "):
            draw(arms, smoothing=1.0)


def test_one_seed_has_no_band(logdir: Path) -> None:
    arms = load_arms({"one": [logdir / LQR / "mlp" / "seed1"]})
    figure = learning_curves(arms)
    assert not panel(figure, LQR).collections
    assert "no band" in caption(figure)


def test_a_wide_band_does_not_flatten_the_curves(tmp_path: Path) -> None:
    write_run(tmp_path, LQR, "mlp", 1, [0.0, 0.0])
    write_run(tmp_path, LQR, "mlp", 2, [0.0, 100.0])
    axes = panel(learning_curves(load_algorithms([tmp_path])), LQR)
    assert band(axes, 0)[2].max() > 600
    assert axes.get_ylim()[1] <= 140


def test_nothing_to_draw_is_refused() -> None:
    for draw in (learning_curves, gradient_norms, losses):
        with pytest.raises(DataError, match="no arms"):
            draw([])


# --- bars -----------------------------------------------------------------------------------------


def test_bars_reach_from_the_floor_to_the_mean(arms: list[Arm]) -> None:
    figure = task_bars(compared(arms, "best"))
    assert figure.legends[0].get_title().get_text() == "return of the best evaluation"
    axes = panel(figure, COUNTING)
    for bar, curves in zip(axes.patches, RETURNS.values(), strict=True):
        wanted = summarise([max(returns) - 100 for returns in curves]).mean
        assert (bar.get_y(), bar.get_y() + bar.get_height()) == (-90.0, pytest.approx(wanted.value))
    for whisker, curves in zip(axes.containers[1::2], RETURNS.values(), strict=True):
        wanted = summarise([max(returns) - 100 for returns in curves]).mean
        (segment,) = whisker.lines[2][0].get_segments()
        np.testing.assert_allclose(segment[:, 1], [wanted.low, wanted.high])


def test_an_arm_without_a_run_of_a_task_is_named_there(logdir: Path) -> None:
    arms = load_arms({"mlp": [logdir / "*" / "mlp"], "flow": [logdir / LQR / "flow"]})
    figure = task_bars(compared(arms))
    assert [text.get_text() for text in panel(figure, COUNTING).texts] == ["no run", "floor −90.0"]
    assert [text.get_text() for text in panel(figure, LQR).texts] == ["floor 10.0"]
    assert performance_profiles(compared(arms)) is None
    assert len(lines(panel(learning_curves(arms), COUNTING), COLOURS[1])) == 0


# --- gradient norms and losses --------------------------------------------------------------------


def test_histograms_count_epochs_and_mark_the_clips(arms: list[Arm]) -> None:
    figure = gradient_norms(arms)
    alg = configuration(LQR).alg
    # Two arms with three seeds; a norm of zero is no training.
    wanted = {
        "world model": (alg.model_learning.wm_grad_norm, [2.0, 4.0, 6.0, 3.0, 6.0, 9.0, 40.0, 40.0, 40.0]),
        "actor (6 not finite)": (alg.actor_critic.actor_grad_norm, [0.1, 0.1, 0.1, 0.5, 0.5, 0.5]),
        "critic": (alg.actor_critic.critic_grad_norm, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]),
    }
    for name, (clip, norms) in wanted.items():
        axes = panel(figure, f"{LQR}\n{name}")
        assert [line.get_xdata()[0] for line in axes.lines] == [clip]
        assert axes.get_xlim()[0] < clip <= axes.get_xlim()[1]
        # Each arm is filled, and drawn again as a line.
        assert len(axes.patches) == 4
        shares, edges, _ = axes.patches[1].get_data()
        np.testing.assert_allclose(shares, 100 * np.histogram(norms, edges)[0] / len(norms))
        assert shares.sum() == pytest.approx(100)


def test_loss_panels_of_what_was_logged(arms: list[Arm]) -> None:
    figure = losses(arms)
    names = ["dynamics loss", "actor loss", "latent error, 1 step", "latent error, 16 steps"]
    assert [axes.get_title() for axes in figure.axes] == [
        f"{task}: {n}" for task in (COUNTING, LQR) for n in names
    ]
    axes = panel(figure, f"{LQR}: dynamics loss")
    *singles, mean = lines(axes, COLOURS[0])
    assert len(singles) == 3
    np.testing.assert_array_equal(mean[0], [100, 200, 300])
    np.testing.assert_allclose(mean[1], [6.0, 0.4, 0.2])
    assert axes.get_yscale() == "log"
    assert panel(figure, f"{LQR}: actor loss").get_yscale() == "linear"


def test_what_comes_after_the_common_step_is_not_drawn(logdir: Path, tmp_path: Path) -> None:
    write_run(tmp_path, LQR, "late", 1, [1.0, 2.0], state="running", more={"wm/dynamics_loss": [1.0]})
    paths = {"mlp": [logdir / LQR / "mlp"], "late": [tmp_path]}
    arms = load_arms(paths, up_to_common_step=True)
    assert lines(panel(losses(arms), f"{LQR}: dynamics loss"), COLOURS[0])[-1][0] == [100]
    assert lines(panel(learning_curves(arms), LQR), COLOURS[0])[-1][0][-1] == 100


def test_runs_cut_before_any_training_have_figures(logdir: Path, tmp_path: Path) -> None:
    write_run(tmp_path, LQR, "late", 1, [1.0, 2.0], state="running")
    (tmp_path / LQR / "late" / "seed1" / "metrics.jsonl").write_text(
        '{"epoch": 0, "env_steps": 0, "wall_time": 0.5, "eval/episode_return": 1.0}\n'
    )
    arms = load_arms({"mlp": [logdir / LQR / "mlp"], "late": [tmp_path]}, up_to_common_step=True)
    for number, figure in enumerate(
        [
            learning_curves(arms),
            learning_curves(arms, "wall_time"),
            task_bars(compared(arms)),
            gradient_norms(arms),
            losses(arms),
        ]
    ):
        assert save_figure(figure, tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
    assert [text.get_text() for text in losses(arms).axes[0].texts] == ["not logged"]


# --- performance profiles -------------------------------------------------------------------------


def test_profiles_are_shares_of_runs_above_normalised_scores(arms: list[Arm]) -> None:
    pytest.importorskip("rliable")
    figure = performance_profiles(compared(arms[:1]))
    assert figure is not None
    (axes,) = figure.axes
    ((x, y, _),) = lines(axes, COLOURS[0])
    # On both tasks the floor is the first return, and the mean of the last ones is 31 more.
    scores = np.tile([(returns[-1] - 10) / 31 for returns in RETURNS["mlp"]], 2)
    np.testing.assert_allclose(y, [(scores > threshold).mean() for threshold in x])
    assert "bootstrap" in caption(figure)


def test_there_is_no_profile_of_one_task_or_without_a_scale(logdir: Path, tmp_path: Path) -> None:
    assert performance_profiles(compared(load_algorithms([logdir / LQR]))) is None
    for task in (LQR, COUNTING):
        write_run(tmp_path, task, "mlp", 1, [1.0, 2.0], zero_action=None)
    assert performance_profiles(compared(load_algorithms([tmp_path]))) is None


# --- all figures ----------------------------------------------------------------------------------


def test_no_global_figure_is_opened(arms: list[Arm]) -> None:
    before = plt.get_fignums()
    for draw in (learning_curves, gradient_norms, losses):
        draw(arms)
    task_bars(compared(arms))
    assert plt.get_fignums() == before


def test_any_label_can_be_drawn(logdir: Path, tmp_path: Path) -> None:
    labels = ["_mlp", "a $b_", r"$\frac$ of x^{"]
    arms = load_arms({label: [logdir / LQR / "mlp"] for label in labels})
    figure = learning_curves(arms)
    save_figure(figure, tmp_path / "figure.png")
    assert len(figure.legends[0].get_texts()) == 3
    assert learning_curves(arms[2:]).legends[0].get_texts()[0].get_text() == r"\$\frac\$ of x^{ (3 seeds)"
