"""Policies extracted from one world model: the run of every task, and the table of what they earn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from pwm.analysis.tables.records import load_records, load_reference
from pwm.analysis.tables.runs import write_table
from pwm.checkpoints import world_model_file
from pwm.checkpoints.policy_evaluation import evaluate_policies
from pwm.checkpoints.pretrained import load_world_model
from pwm.checkpoints.single_task import task_names
from pwm.checkpoints.world_model_file import FREE, Sizes, StoredWorldModel
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.data.offline.manifest import StoreFiles
from pwm.data.offline.verification import returns_by_task
from pwm.envs.task_table import TaskRow, all_tasks, table_name, task_row
from pwm.errors import ConfigError
from pwm.files import write_json
from pwm.numbers import aligned, readable
from pwm.runs.run_folder import run_path
from pwm.runs.status import is_finished
from pwm.study.run_progress import RunProgress

PRESET = "pwm_extract"
# Best return of an episode of the suite, and so what a score of 1 is.
FULL_RETURN = {"dm_control": 1000.0}
ALL = "all"


@dataclass(frozen=True)
class Source:
    """What policies are extracted from.

    Attributes:
        checkpoint: file of the world model, or the folder of the run that pretrained it.
        stored: what is in it.
        data: data set with observations of the tasks.
    """

    checkpoint: Path
    stored: StoredWorldModel
    data: Path

    @classmethod
    def read(cls, checkpoint: Path, data: Path) -> Source:
        """Read the world model; errors as ``load_world_model``."""
        return cls(checkpoint, load_world_model(checkpoint), data)

    @property
    def name(self) -> str:
        """Name of runs that start from it: that of the run that pretrained it, or of the file."""
        folder = self.checkpoint if self.checkpoint.is_dir() else self.checkpoint.parent
        if (folder / "config.yaml").is_file():
            return f"extract_{ExperimentConfig.load(folder / 'config.yaml').run_name}"
        return f"extract_{self.checkpoint.stem}"

    def tasks(self, asked: str) -> list[TaskRow]:
        """Return the tasks that are asked for: names with commas, or all of the model that there are data of.

        Raises:
            ConfigError: there is none.
        """
        if asked != ALL:
            return [task_row(name.strip()) for name in asked.split(",")]
        recorded = StoreFiles(self.data).content["counts"]
        known = task_names(self.stored.sizes) if self.stored.sizes.n_tasks else tuple(recorded)
        table = {row.name: row for row in all_tasks()}
        if not (found := [table[name] for name in known if name in recorded and name in table]):
            raise ConfigError(f"{self.data} has no data of the world model's tasks")
        return found

    def overrides(self, env: Sequence[str], typed: Sequence[str]) -> list[str]:
        """Return overrides of ``pwm train`` for an extraction.

        Args:
            env: those that choose the environment.
            typed: any others; sizes follow from the world model.
        """
        defaults = {"alg": PRESET, "general.name": self.name}
        keys = {word.partition("=")[0].strip() for word in typed}
        return [
            *env,
            *(f"{key}={value}" for key, value in defaults.items() if key not in keys),
            *fitting(self.stored.sizes, self.stored.reward is not None),
            *typed,
            *("alg.trainer=extraction", f"alg.data={self.data}", f"general.checkpoint={self.checkpoint}"),
        ]


def fitting(sizes: Sizes, rewards: bool) -> list[str]:
    """Return the overrides that make an agent's world model one of these sizes.

    Args:
        sizes: of the world model.
        rewards: whether it was trained on rewards divided by a scale.
    """
    dynamics = vars(sizes.dynamics)
    settings = sizes.settings() | {"alg.rew_rms": rewards}
    free = sorted((FREE - {"name"}) & dynamics.keys())
    settings |= {f"alg.dynamics.{key}": dynamics[key] for key in free}
    return world_model_file.overrides(settings).split()


def score(env_name: str, result: Mapping[str, Any]) -> float | None:
    """Return what an evaluation amounts to between 0 and 1; None where that is not defined.

    Args:
        env_name: ``EnvSpec.name``, for example ``dmc_walker-walk``.
        result: as ``evaluate_policy`` returns it. Of tasks whose best return is known the score is the share
            of it that was earned, of others that judge success the share of episodes that ended in it.
    """
    best = full_return(env_name)
    return result.get("success") if best is None else float(result["mean"]) / best


def full_return(env_name: str) -> float | None:
    """Return what an episode of a task earns at best; None where it is unknown."""
    suites = {row.name: row.suite for row in all_tasks()}
    return FULL_RETURN.get(suites.get(table_name(env_name), ""))


def environment(row: TaskRow) -> list[str]:
    """Return the overrides that choose the environment of a task."""
    return [f"env={row.component}", f"env.task={row.name}"]


class ExtractionJob:
    """One task of several, in a process of its own.

    Args:
        row: the task.
        overrides: of ``pwm train``.
        logs: folder of what its process prints.
    """

    def __init__(self, row: TaskRow, overrides: Sequence[str], logs: Path) -> None:
        self.row, self.title = row, row.name
        self.log = logs / f"{row.name}.txt"
        self._overrides = list(overrides)
        self.config = compose_config(overrides)
        self.folder = run_path(self.config, self.config.env.task_name + self.config.disturbance.suffix)

    def commands(self) -> Iterator[list[str]]:
        """Arguments of ``pwm`` for what is left to do."""
        if not is_finished(self.folder, self.config):
            yield ["train", *self._overrides, "general.progress=false"]

    def progress(self, command: Sequence[str]) -> RunProgress:
        """Return a bar while the run is trained."""
        return RunProgress(self.folder / "metrics.jsonl", self.config.epochs, self.title, True)


def evaluate_runs(
    jobs: Sequence[ExtractionJob], source: Source, episodes: int, planner: str
) -> list[dict[str, Any]]:
    """Evaluate every final policy on held-out episodes; return it beside what else is known of the task."""
    recorded = StoreFiles(source.data)
    returns, task_set = returns_by_task(recorded), recorded.layout.task_set
    return [
        _evaluate(job, returns.get(job.row.name, np.empty(0)), task_set, episodes, planner) for job in jobs
    ]


def _evaluate(
    job: ExtractionJob, behaviour: np.ndarray, task_set: str, episodes: int, planner: str
) -> dict[str, Any]:
    row, run = job.row, job.folder
    device = job.config.general.device
    (result,) = evaluate_policies([run / "final_policy.pt"], episodes, None, device, None, planner)
    published = _published(row, task_set)
    return {
        "task": row.name,
        "return": result["mean"],
        "std": result["std"],
        "episodes": episodes,
        "planner": planner,
        "score": score(result["task"], result),
        "random": load_reference(run).get("random_action"),
        "behaviour": float(behaviour.mean()) if len(behaviour) else None,
        "behaviour_best": float(behaviour.max()) if len(behaviour) else None,
        "minutes": load_records(run)[-1]["wall_time"] / 60,
        "published_pwm": published.get("pwm"),
        "published_tdmpc2": published.get("tdmpc2"),
        "published_caveat": published.get("caveat"),
        "run": str(run),
    }


def _published(row: TaskRow, task_set: str) -> dict[str, Any]:
    """Published scores of a task by the models of a set, and a caveat where they are doubtful."""
    text = resources.files("pwm.envs").joinpath("published_scores.json").read_text(encoding="utf-8")
    content = json.loads(text)
    found = content["tasks"].get(row.name, {}).get(task_set, {})
    doubt = content["suites"].get(row.suite)
    return {"caveat": doubt, **found} if found and doubt else dict(found)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return results as text, the mean of the scores there are, and what is doubtful in published ones."""
    measured = ("return", "std", "score", "random", "behaviour", "minutes")
    columns = (*measured, "published_pwm", "published_tdmpc2")
    header = ["task", *(name.replace("published_", "").replace("std", "+-") for name in columns)]
    doubts: dict[str, list[str]] = {}
    for result in results:
        if result["published_caveat"] is not None:
            doubts.setdefault(result["published_caveat"], []).append(result["task"])
    marks = {task: "*" * number for number, tasks in enumerate(doubts.values(), 1) for task in tasks}
    rows = [[r["task"] + marks.get(r["task"], ""), *(_cell(r[name]) for name in columns)] for r in results]
    scores = [r["score"] for r in results if r["score"] is not None]
    lines = [aligned(header, rows, words=("task",))]
    if scores:
        lines.append(f"mean score of {len(scores)} tasks {sum(scores) / len(scores):.3f}")
    lines.append(
        "pwm and tdmpc2 are published scores of 48M models on the full MT30 or MT80 data, one run a task; "
        "they are no measurement of this project (docs/guides/multitask-guide.md)"
    )
    lines += [f"{'*' * number} {text}" for number, text in enumerate(doubts, 1)]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else readable(value)


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write ``path`` (JSON), and the same as CSV beside it."""
    write_json(path, {"results": list(results)})
    write_table(path.with_suffix(".csv"), results)
