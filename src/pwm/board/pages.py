"""The pages of ``pwm board``: one of all runs below a folder, and one of every run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from pwm import packages
from pwm.analysis.plots.style import colour
from pwm.analysis.tables.records import REFERENCES, load_records, load_reference, series
from pwm.board.charts import Line, chart
from pwm.checkpoints.run_search import run_folders
from pwm.cluster.overview import RunOverview, overview
from pwm.errors import DataError
from pwm.files import write_atomically, write_text
from pwm.numbers import readable
from pwm.runs.provenance import read_manifest
from pwm.training.work import ENV_STEPS, UPDATES, in_words

# What a page shows of the files that lie in a run folder.
PICTURES, FILMS = (".png", ".svg", ".gif"), (".mp4", ".webm")
# Title of a chart, and the metrics in it.
CHARTS = {
    "return": ("eval/episode_return", "train/episode_return"),
    "value, and what was earned": ("eval/value", "eval/realised_value"),
    "error of the model, relative": ("eval/latent_error_k1", "eval/latent_error_k4", "eval/latent_error_k16"),
    "losses of the model": ("wm/dynamics_loss", "wm/reward_loss"),
    "gradient norms": ("wm/grad_norm", "actor/grad_norm", "critic/grad_norm"),
    "signal to noise of the gradients (dB)": ("wm/esnr_db", "actor/esnr_db"),
    "held-out fit": ("heldout/fit",),
    "seconds per epoch": ("time/sim", "time/actor", "time/critic", "time/wm"),
}
LOGARITHMIC = ("error of the model, relative", "gradient norms")
RETURN = "eval/episode_return"
SCORES = (RETURN, "heldout/fit")
FACTS = ("task", "epochs", "git_commit", "command", "device", "threads", "python")


@dataclass(frozen=True)
class RunPage:
    """A run and where its page is.

    Attributes:
        folder: the run folder.
        name: its path below the folder that the board shows.
        key: names its page and its files.
        row: what it is doing.
    """

    folder: Path
    name: str
    key: str
    row: RunOverview


class Board:
    """Pages of all runs in or below a folder, made anew from the files whenever they are asked for.

    Args:
        top: the folder.
        live: pages that a server shows load themselves again.
    """

    def __init__(self, top: Path, live: bool = False) -> None:
        self.top, self.live = top, live

    def runs(self) -> list[RunPage]:
        """Return every run.

        Raises:
            DataError: there is none.
        """
        return [self._page_of(Path(row.run), row) for row in overview(self.top)]

    def find(self, key: str) -> RunPage | None:
        """Return the run with this key, of which alone the files are read; None if there is none."""
        for folder in run_folders(self.top):
            if self._named(folder)[1] == key:
                return self._page_of(folder, overview(folder)[0])
        # It may have been submitted and not have begun.
        return next((run for run in self.runs() if run.key == key), None)

    def _named(self, folder: Path) -> tuple[str, str]:
        """Name and key of the run in ``folder``."""
        name = str(folder.relative_to(self.top)) if folder != self.top else folder.name
        return name, hashlib.sha256(name.encode()).hexdigest()[:12]

    def _page_of(self, folder: Path, row: RunOverview) -> RunPage:
        return RunPage(folder, *self._named(folder), row)

    def index(self) -> str:
        """Return the page of all runs."""
        runs = self.runs()
        tasks: dict[str, list[RunPage]] = {}
        for run in runs:
            tasks.setdefault(_task(run), []).append(run)
        charts = [_curves_of(task, members) for task, members in sorted(tasks.items())]
        return self._page("index.html.j2", runs=runs, charts=charts, reports=self.reports(), top=self.top)

    def reports(self) -> list[Path]:
        """Return the reports of experiments below the folder, relative to it."""
        return sorted(path.relative_to(self.top) for path in self.top.rglob("report.html"))

    def run(self, run: RunPage) -> str:
        """Return the page of one run."""
        try:
            records = load_records(run.folder)
        except DataError:
            records = []
        charts, progress = [], _progress(records)
        for title, names in CHARTS.items():
            lines = [
                Line(name, colour(number), *series(records, progress, name), name)
                for number, name in enumerate(names)
            ]
            if any(line.xs for line in lines):
                charts.append(chart(title, in_words(progress), lines, title in LOGARITHMIC))
        return self._page(
            "run.html.j2",
            run=run,
            charts=charts,
            facts=_facts(run.folder),
            pictures=[path for path in self.files(run) if path.suffix in PICTURES],
            films=[path for path in self.files(run) if path.suffix in FILMS],
            diagnosis=_text(run.folder / "diagnosis.json"),
            config=_text(run.folder / "config.yaml"),
        )

    def files(self, run: RunPage) -> list[Path]:
        """Return the pictures and films in the run's folder."""
        return sorted(path for path in run.folder.glob("*") if path.suffix in PICTURES + FILMS)

    def write(self, output: Path) -> Path:
        """Write all pages, pictures and films below ``output``; returns the first page."""
        for run in self.runs():
            write_text(output / "runs" / f"{run.key}.html", self.run(run))
            for path in self.files(run):
                _copy(path, output / "runs" / run.key / path.name)
        for report in self.reports():
            _copy(self.top / report, output / "reports" / report)
        first = output / "index.html"
        write_text(first, self.index())
        return first

    def _page(self, template: str, **content: Any) -> str:
        page: str = _templates().get_template(template).render(live=self.live, **content)
        return page


@cache
def _templates() -> Any:
    jinja = packages.optional("jinja2", "pwm board", "report")
    folder = str(resources.files("pwm.board"))
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["readable"] = readable
    environment.filters["duration"] = _duration
    return environment


def _copy(source: Path, target: Path) -> None:
    content = source.read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: file.write(content))


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes} min"


def _task(run: RunPage) -> str:
    """The run's task; the folder above its algorithm where no file says it."""
    try:
        found = read_manifest(run.folder).get("task")
    except DataError:
        found = None
    return str(found or run.folder.parent.parent.name)


def _curves_of(task: str, runs: Sequence[RunPage]) -> str:
    """Learning curves of all runs of a task, a colour for each algorithm."""
    algorithms = sorted({run.folder.parent.name for run in runs})
    lines = list(_scores(runs, algorithms))
    return chart(task, " or ".join(dict.fromkeys(steps for steps, _ in lines)), [line for _, line in lines])


def _progress(records: Sequence[Mapping[str, float]]) -> str:
    """What the steps of a run are: those of the environment, where it has one."""
    return ENV_STEPS if any(record.get(ENV_STEPS) for record in records) else UPDATES


def _scores(runs: Sequence[RunPage], algorithms: Sequence[str]) -> Iterator[tuple[str, Line]]:
    """Yield what the steps of every run are, and its curve."""
    for run in runs:
        file = run.folder / "metrics.jsonl"
        if not file.is_file():
            continue
        stamp = file.stat()
        if (found := _score(run.folder, stamp.st_mtime_ns, stamp.st_size)) is not None:
            progress, xs, ys = found
            algorithm = run.folder.parent.name
            yield progress, Line(run.name, colour(algorithms.index(algorithm)), xs, ys, algorithm)


# Most runs that a board shows have ended, and a page that loads itself again need not read them again.
@lru_cache(maxsize=4096)
def _score(folder: Path, _changed: int, _size: int) -> tuple[str, list[float], list[float]] | None:
    """What the steps of a run are, those of its evaluations and their results; None without any."""
    try:
        records = load_records(folder)
    except DataError:
        return None
    progress = _progress(records)
    for name in SCORES:
        xs, ys = series(records, progress, name)
        if xs:
            return in_words(progress), xs, ys
    return None


def _facts(folder: Path) -> dict[str, str]:
    try:
        manifest, reference = read_manifest(folder), load_reference(folder)
    except DataError as error:
        return {"damaged": str(error)}
    facts = {name.replace("_", " "): str(manifest[name]) for name in FACTS if name in manifest}
    facts |= {f"{name} parameters": f"{count:,}" for name, count in manifest.get("parameters", {}).items()}
    return facts | {REFERENCES[name]: readable(score) for name, score in reference.items()}


def _text(path: Path) -> str:
    """Content of a small text file for reading; empty without it."""
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".json":
        return text
    try:
        return json.dumps(json.loads(text), indent=2)
    except ValueError:
        return text
