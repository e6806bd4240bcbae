"""Everything a comparison of arms leaves behind: figures, tables and text in one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pwm.analysis.plots.style import save_figure
from pwm.analysis.statistics.curves import check_smoothing
from pwm.analysis.tables.run_measures import MEASURES
from pwm.analysis.tables.runs import write_table
from pwm.checkpoints.run_search import MARKS
from pwm.errors import ConfigError, StorageError
from pwm.files import write_text
from pwm.study.comparison.arm_comparison import StudyComparison, compare_study
from pwm.study.comparison.arms import Arm, steps_in_words
from pwm.study.comparison.fairness import DECLARED
from pwm.study.comparison.plots import draw_study
from pwm.study.comparison.tables import comparison_rows, comparison_text, difference_rows
from pwm.study.comparison.wording import count, mean_and_std, minutes

# File of each figure.
PICTURES = {
    "returns_by_steps": "learning_curves_{steps}.png",
    "returns_by_time": "learning_curves_wall_time.png",
    "final_returns": "task_bars.png",
    "gradient_norms": "gradient_norms.png",
    "losses": "losses.png",
    "performance_profile": "performance_profiles.png",
}


def write_comparison(
    arms: Sequence[Arm],
    folder: Path,
    measure: str = "final",
    smoothing: float = 0.0,
    thresholds: Mapping[str, float] | None = None,
    declared: Sequence[str] = DECLARED,
) -> tuple[str, list[Path]]:
    """Compare arms with the first of them and write everything into ``folder``.

    Args:
        arms: at least one; one alone is drawn and compared with nothing.
        folder: is made where it does not exist; files of the same names are replaced.
        measure: one of ``MEASURES``.
        smoothing: of learning curves and losses, see ``smooth``.
        thresholds: returns by task that count as solved; ``runs.csv`` and the text say when each was reached.
        declared: what the arms may differ in, see ``find_differences``.

    Returns:
        The text of the comparison (also in ``comparison.txt``) and the files written.

    Raises:
        ConfigError: impossible smoothing, or the folder is a run folder, whose pictures would be lost.
        DataError: the arms cannot be compared, a run has no value for the measure, or a threshold is of a
            task that no arm has.
        StorageError: a file cannot be written.
    """
    check_smoothing(smoothing)
    if any((folder / mark).exists() for mark in MARKS):
        raise ConfigError(f"--output-dir {folder} is a run folder; choose one that is not")
    scores = {arm.label: arm.scores(measure) for arm in arms}
    study = compare_study(arms, MEASURES[measure], scores, declared, thresholds or {})
    text = comparison_text(study, declared) + _efficiency_text(study, thresholds or {})
    tables = {
        "runs.csv": _labelled(arms, lambda arm: study.rows[arm.label]),
        "evaluations.csv": _labelled(arms, lambda arm: arm.table.evaluations()),
        "comparison.csv": comparison_rows(study, measure),
        "differences.csv": difference_rows(study.differences),
    }
    figures = draw_study(study, smoothing)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A picture of an earlier comparison must not pass for one of this.
        (folder / PICTURES["performance_profile"]).unlink(missing_ok=True)
        write_text(folder / "comparison.txt", text)
        for name, rows in tables.items():
            write_table(folder / name, rows)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error
    steps = "_or_".join(dict.fromkeys(run.progress for arm in arms for run in arm.table.runs))
    drawn = [
        save_figure(figure, folder / PICTURES[name].format(steps=steps)) for name, figure in figures.items()
    ]
    return text, [folder / "comparison.txt", *(folder / name for name in tables), *drawn]


def _efficiency_text(study: StudyComparison, thresholds: Mapping[str, float]) -> str:
    """Return how many seeds reach each threshold, after how many steps and minutes."""
    lines, counted = [], steps_in_words(study.arms).removeprefix("environment ")
    for task, threshold in sorted(thresholds.items()):
        lines += ["", f"{task}: first evaluation that returns {threshold:g} or more"]
        for arm in study.arms:
            steps, seconds = (
                study.column(arm.label, task, f"{what}_to_threshold") for what in ("steps", "seconds")
            )
            when = f", after {mean_and_std(steps)} {counted} and {minutes(seconds)} minutes" if steps else ""
            lines.append(f"  {arm.label}: {len(steps)} of {count(len(arm.runs(task)), 'seed')}{when}")
    return "\n".join([*lines, ""]) if lines else ""


def _labelled(arms: Sequence[Arm], rows_of: Callable[[Arm], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{"label": arm.label, **row} for arm in arms for row in rows_of(arm)]
