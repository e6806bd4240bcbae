"""The part of a report on the world models that runs began from: what they cost, and how well they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pwm.analysis.tables.model_fits import Fit, ModelFit
from pwm.study.comparison.wording import DASH, count, listing, mean_and_std, number
from pwm.study.report.document import Row, Section, Table


@dataclass(frozen=True)
class SharedModel:
    """A world model that runs of several tasks began from.

    Attributes:
        arm: label of the arm that pretrained it.
        seed: of its pretraining.
        runs: number of runs in the report that began from it.
        path: its run folder.
        fit: what is known of it; None where its folder is gone, cannot be read, or holds
            another model by now.
    """

    arm: str
    seed: int
    runs: int
    path: Path
    fit: ModelFit | None


def pretrained_models(models: Sequence[SharedModel]) -> list[Section]:
    """Return the section of models that runs began from; empty where they began from none."""
    known = [model.fit for model in models if model.fit is not None]
    if not models:
        return []
    tables = [Table("World models that the runs began from.", [_model(m) for m in models], _notes(models), 2)]
    if known:
        tasks = list(dict.fromkeys(task for fit in known for task in fit.tasks))
        arms = list(dict.fromkeys(model.arm for model in models))
        caption = (
            "Fit of the world models on held-out episodes, by task: mean ± standard deviation over seeds."
        )
        rows = [_task(task, arm, models) for task in tasks for arm in arms]
        tables.append(Table(caption, rows, names=2))
    return [Section("Pretrained models", tables)]


def _notes(models: Sequence[SharedModel]) -> list[str]:
    horizons = sorted({model.fit.horizon for model in models if model.fit is not None})
    steps = f" {listing(count(horizon, 'step') for horizon in horizons)} ahead" if horizons else ""
    notes = [
        f"Latent error:{steps} along recorded actions, relative to the change of the latents, so that 1 is "
        "predicting no change. Reward error: root mean squared error of the rewards on the way, in the unit "
        "of each task. Both on episodes that no model learned from, of the model that the runs began from; "
        "their means count every task the same.",
        "Minutes: wall clock of the pretraining, evaluations included. Those of the runs that began from a "
        "model come on top, see the cost of training.",
    ]
    if lost := [f"{m.arm} seed {m.seed}" for m in models if m.fit is None]:
        notes.append(
            f"Nothing is known of the pretraining of {listing(lost)}: its folder is gone or damaged, or the "
            "model was trained again."
        )
    return notes


def _model(model: SharedModel) -> Row:
    fit = model.fit
    parameters = None if fit is None else fit.parameters
    return [
        ("Arm", model.arm),
        ("Seed", str(model.seed)),
        ("Updates", DASH if fit is None else f"{fit.updates:,}"),
        ("Minutes", number(None if fit is None else fit.minutes)),
        ("Parameters", DASH if parameters is None else f"{parameters:,}"),
        ("Latent error", number(None if fit is None else fit.mean.latent)),
        ("Reward error", number(None if fit is None else fit.mean.reward)),
        ("Runs", str(model.runs)),
    ]


def _task(task: str, arm: str, models: Sequence[SharedModel]) -> Row:
    fits: list[Fit] = [
        model.fit.tasks[task]
        for model in models
        if model.arm == arm and model.fit is not None and task in model.fit.tasks
    ]
    return [
        ("Task", task),
        ("Arm", arm),
        ("Latent error", mean_and_std([fit.latent for fit in fits])),
        ("Reward error", mean_and_std([fit.reward for fit in fits])),
    ]
