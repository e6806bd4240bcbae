"""One run as a job of the pool: trained, then its policies, if it has any, are evaluated."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from pwm.checkpoints.policy_evaluation import held_out_returns
from pwm.checkpoints.policy_files import CHECKPOINTS
from pwm.configuration.config import ExperimentConfig
from pwm.errors import PwmError
from pwm.numbers import readable
from pwm.runs.status import FINISHED, StatusFile
from pwm.study.plan import RunState
from pwm.study.run_pool import FAILED, NOT_STARTED, JobOutcome
from pwm.study.run_progress import RunProgress


class TrainingRun(Protocol):
    """A run that is planned, whoever planned it."""

    @property
    def key(self) -> tuple[str, str, int]:
        """Task, arm and seed."""
        ...

    @property
    def title(self) -> str:
        """Task, arm and seed in words."""
        ...

    @property
    def overrides(self) -> list[str]:
        """Overrides of ``pwm train``."""
        ...

    @property
    def config(self) -> ExperimentConfig:
        """What they compose to."""
        ...

    @property
    def folder(self) -> Path:
        """Its run folder."""
        ...

    def state(self) -> RunState:
        """Return the state of its folder."""
        ...


class RunJob:
    """One run: it is trained, then its best and its final policy are evaluated, if there is an environment.

    Args:
        run: the run.
        output: folder that the output of its processes goes to.
        episodes: held-out episodes of every policy.
        show: whether training has a bar.
    """

    def __init__(self, run: TrainingRun, output: Path, episodes: int, show: bool) -> None:
        self.run = run
        self.title = run.title
        self.log = output / f"{'_'.join(run.folder.parts[-3:])}.txt"
        self._episodes, self._show = episodes, show
        self._policies = CHECKPOINTS if run.config.env is not None else ()

    def commands(self) -> Iterator[list[str]]:
        """Arguments of ``pwm`` for what is left to do.

        Raises:
            CheckpointError: a policy that training should have left is missing.
        """
        run = self.run
        if run.state().state != FINISHED:
            yield ["train", *run.overrides]
        for which in self._policies:
            if held_out_returns(run.folder, which, self._episodes) is None:
                options = {
                    "--checkpoint": which,
                    "--episodes": str(self._episodes),
                    "--device": run.config.general.device,
                }
                yield ["evaluate", str(run.folder), *(word for pair in options.items() for word in pair)]

    def done(self) -> bool:
        """True if nothing is left to do."""
        try:
            return next(self.commands(), None) is None
        except PwmError:
            # Whoever does the work will say what is wrong.
            return False

    def progress(self, command: Sequence[str]) -> RunProgress | None:
        """A bar while the run is trained."""
        if command[0] != "train":
            return None
        metrics = self.run.folder / "metrics.jsonl"
        return RunProgress(metrics, self.run.config.epochs, self.title, self._show)

    def result(self) -> str:
        """Return the held-out scores of its policies in words; without any the best one of training."""
        if not self._policies:
            return (
                f"best score {readable(StatusFile(self.run.folder).read().get('best_return', float('nan')))}"
            )
        means = []
        for which in self._policies:
            returns = held_out_returns(self.run.folder, which, self._episodes) or [float("nan")]
            means.append(f"{which} policy {readable(sum(returns) / len(returns))}")
        return ", ".join(means)


def jobs_left(jobs: Sequence[RunJob], after: Mapping[RunJob, RunJob]) -> list[RunJob]:
    """Return the jobs with something left to do.

    What others begin from is only to be done where one of these is, or where none of them is asked for.

    Args:
        jobs: all that are asked for.
        after: by job the one that it begins from.
    """
    left = [job for job in jobs if not job.done()]
    needed, begun = {after[job] for job in left if job in after}, set(after.values())
    return [job for job in left if job in needed or job not in begun]


class EndedRuns:
    """Tells the user of every run that has ended.

    Args:
        total: number of runs.
        before: how many of them were done before.
    """

    def __init__(self, total: int, before: int) -> None:
        self.total, self.ended = total, before

    def __call__(self, job: RunJob, outcome: JobOutcome) -> None:
        """One more run has ended."""
        if outcome.state == NOT_STARTED:
            return
        self.ended += 1
        said = {FINISHED: job.result, FAILED: lambda: f"FAILED: {outcome.reason}"}
        text = said[outcome.state]() if outcome.state in said else outcome.state
        took = tqdm.format_interval(round(outcome.seconds))
        # Through tqdm, so that the line does not land inside a bar.
        tqdm.write(f"[{self.ended}/{self.total}] {job.title}: {text} ({took})", file=sys.stdout)
        sys.stdout.flush()
