"""A report on a comparison of arms: one HTML file that needs nothing else, and the same in Markdown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from pwm.analysis.cost.parameter_parity import Parities
from pwm.analysis.cost.training_cost import RunCost, measure_cost
from pwm.analysis.tables.runs import Key, write_table
from pwm.errors import StorageError
from pwm.files import write_atomically, write_json, write_text
from pwm.study.comparison.arm_comparison import StudyComparison, compare_study
from pwm.study.comparison.arms import Arm
from pwm.study.comparison.fairness import stated_origin
from pwm.study.comparison.verdict import Criterion, criteria, verdict
from pwm.study.report import background, gradients
from pwm.study.report import results as result
from pwm.study.report.document import FIGURES, Document, to_html, to_markdown
from pwm.study.report.figures import FIGURE_NAMES, draw_figures
from pwm.study.report.held_out import POLICIES, check_reportable, half_way, held_out_scores
from pwm.study.report.models import SharedModel, pretrained_models
from pwm.study.report.paths import ReportPaths
from pwm.study.report.scores import normalised_scores

MEASURE = "held-out return of the final policy"

# By arm's label, one per run.
Costs = Mapping[str, list[RunCost]]


@dataclass(frozen=True)
class Findings:
    """Everything a report is made of.

    Attributes:
        title: of the report.
        arms: what is compared; the first is the baseline.
        declared: configuration keys, groups or patterns in which the arms may differ, as in
            ``find_differences``.
        commands: exact shell commands that reproduce the runs and the report.
        held_out: by task, algorithm and seed the episode returns of the ``best`` and the ``final`` policy on
            held-out seeds.
        parity: study of ``check_parity`` with the first arm, by label of the other one and by task.
        thresholds: returns by task that count as solved; a task without one gets half of what the best arm
            gained over the floor.
        compute_matched: by label of an arm that of the arm it was made as costly as.
        full_returns: by task the return of a perfect episode, where it is known; a task without one is scored
            by the share of episodes that end in success.
        task_scores: by task, algorithm and seed the score of the final policy between 0 and 1, where the
            task has one.
        models: world models that the runs began from.
    """

    title: str
    arms: list[Arm]
    declared: list[str]
    commands: list[str]
    held_out: dict[Key, dict[str, list[float]]]
    parity: Parities
    thresholds: dict[str, float] = field(default_factory=dict)
    compute_matched: dict[str, str] = field(default_factory=dict)
    full_returns: dict[str, float] = field(default_factory=dict)
    task_scores: dict[Key, float] = field(default_factory=dict)
    models: list[SharedModel] = field(default_factory=list)


def write_report(findings: Findings, folder: Path) -> tuple[Path, Path]:
    """Write ``report.html``, ``report.md``, ``figures/``, ``results.csv`` and ``results.json``.

    Everything is computed before the first file is written, and each file is replaced as a whole.

    Returns:
        The HTML and the Markdown file.

    Raises:
        DataError: fewer than two arms, arms of the same name or without a common task, runs without held-out
            returns, or run folders that cannot be read.
        ConfigError: a library of the extra ``report`` is not installed.
        StorageError: a file cannot be written.
    """
    check_reportable(findings.arms, findings.held_out, findings.thresholds)
    try:
        # A wrong folder must not cost the work on the report.
        folder.mkdir(parents=True, exist_ok=True)
        _write_files(findings, folder)
    except OSError as error:
        raise StorageError(f"report {folder} cannot be written: {error}") from error
    return folder / "report.html", folder / "report.md"


def _write_files(findings: Findings, folder: Path) -> None:
    final, best = (held_out_scores(findings.arms, findings.held_out, which) for which in POLICIES)
    thresholds = half_way(findings.arms) | findings.thresholds
    study = compare_study(findings.arms, MEASURE, final, findings.declared, thresholds, best)
    sizes: dict[str, tuple[int, int] | None] = {}
    costs = {arm.label: [measure_cost(run, sizes) for run in arm.table.runs] for arm in findings.arms}
    paths = ReportPaths(_folders(findings.arms))
    judged = criteria(study, costs, findings.parity)
    signals = gradients.signals(findings.arms)
    document = _document(findings, study, costs, signals, judged, paths)
    html, markdown = to_html(document), to_markdown(document)
    rows, data = _rows(findings, study, paths), _data(findings, study, costs, judged, paths)
    data["gradient_quality"] = _plain(gradients.comparisons(study, signals), paths)
    for picture in document.pictures:
        write_atomically(folder / picture.file, partial(_write, picture.content))
    _remove_others(folder, [picture.file for picture in document.pictures])
    write_table(folder / "results.csv", rows)
    write_json(folder / "results.json", data)
    write_text(folder / "report.md", markdown)
    write_text(folder / "report.html", html)


def _document(
    findings: Findings,
    study: StudyComparison,
    costs: Costs,
    signals: gradients.Signals,
    judged: list[Criterion],
    paths: ReportPaths,
) -> Document:
    figures = draw_figures(study)
    return Document(
        findings.title,
        [verdict(pair) for pair in study.candidates],
        [
            result.acceptance(judged),
            result.results(study, findings.held_out, figures),
            *normalised_scores(study, findings.task_scores, findings.full_returns),
            result.over_all_tasks(study, figures),
            result.limits(study),
            result.learning(study, findings.thresholds, figures),
            result.stability(study, figures),
            *pretrained_models(findings.models),
            *gradients.gradient_quality(study, signals),
            background.cost(study, costs, findings.compute_matched),
            background.parity(study, findings.parity),
            background.differences(study, findings.declared, paths),
            background.runs(study, costs, findings.held_out, paths),
            background.environment(study),
            background.reproduce(findings.commands, paths),
        ],
    )


def _folders(arms: list[Arm]) -> list[Path]:
    runs = [run.path for arm in arms for run in arm.table.runs]
    return runs + [p.path for arm in arms for p in arm.table.problems if p.path is not None]


def _rows(findings: Findings, study: StudyComparison, paths: ReportPaths) -> list[dict[str, Any]]:
    """One row per run: all its measures and its held-out returns."""
    rows = []
    for arm in findings.arms:
        for run, row in zip(arm.table.runs, study.rows[arm.label], strict=True):
            returns = findings.held_out[run.key]
            held_out = {f"held_out_{which}": float(np.mean(returns[which])) for which in POLICIES}
            episodes = {f"held_out_{which}_episodes": len(returns[which]) for which in POLICIES}
            named = {"arm": arm.label, **row, **held_out, **episodes}
            rows.append(named | {"path": paths.show(run.path)})
    return rows


def _data(
    findings: Findings, study: StudyComparison, costs: Costs, judged: list[Criterion], paths: ReportPaths
) -> dict[str, Any]:
    """Every number of the report by name, and the configurations; unknown ones are null."""
    runs = [(arm.label, run) for arm in findings.arms for run in arm.table.runs]
    data = {
        "title": findings.title,
        "verdicts": {pair.candidate.label: verdict(pair) for pair in study.candidates},
        "criteria": judged,
        "scale": study.scale,
        "references": study.references,
        "comparisons": {
            pair.candidate.label: {
                "final": pair.comparison,
                "best": pair.best,
                "mean_difference": pair.overall,
                "tasks_of_mean_difference": pair.scaled,
                "differences": pair.differences,
            }
            for pair in study.candidates
        },
        "interquartile_means": study.iqm,
        "parity": findings.parity,
        "declared": findings.declared,
        "models": findings.models,
        "runs": [
            {
                "arm": label,
                "task": run.key[0],
                "algorithm": run.key[1],
                "seed": run.key[2],
                "path": paths.show(run.path),
                "held_out": findings.held_out[run.key],
                "score": findings.task_scores.get(run.key),
                "cost": cost,
                "made_with": stated_origin(run.path),
                "configuration": run.config.identity(),
            }
            for (label, run), cost in zip(runs, chain.from_iterable(costs.values()), strict=True)
        ],
        "problems": background.problems_in_words(findings.arms, paths),
    }
    plain: dict[str, Any] = _plain(data, paths)
    return plain | {"commands": [paths.from_here(command) for command in findings.commands]}


def _plain(value: Any, paths: ReportPaths) -> Any:
    """``value`` as what JSON knows; numbers that are not finite become null, paths are shortened."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, paths)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, paths) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, paths) for item in value]
    if isinstance(value, Path):
        return paths.show(value)
    if isinstance(value, str):
        return paths.clean(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _remove_others(folder: Path, kept: Iterable[str]) -> None:
    """Remove figures of an earlier report that this one does not have."""
    for name in FIGURE_NAMES:
        for suffix in ("svg", "png"):
            if (old := f"{FIGURES}/{name}.{suffix}") not in kept:
                (folder / old).unlink(missing_ok=True)
