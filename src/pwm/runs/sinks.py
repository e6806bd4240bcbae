"""All places the metrics of one run go to, opened and closed together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pwm.configuration.config import ExperimentConfig
from pwm.files import read_object
from pwm.logging.loggers import JSONLLogger, export_csv, read_metrics
from pwm.logging.wandb_logger import WandBLogger, load_wandb
from pwm.runs.status import ending
from pwm.training.hooks import MetricSink
from pwm.training.loop import LoopState
from pwm.training.trainer import Trainer


def wandb_wanted(config: ExperimentConfig) -> bool:
    """True if the run is to appear on Weights & Biases."""
    return config.general.run_wandb and config.wandb.mode != "disabled"


def require_services(config: ExperimentConfig) -> None:
    """Check that the packages of all services switched on are installed.

    Raises:
        ConfigError: names the package and how to install it.
    """
    if wandb_wanted(config):
        load_wandb()
    if config.general.tensorboard:
        from pwm.logging.tensorboard_logger import load_tensorboard

        load_tensorboard()


class Sinks:
    """Hands every record to several sinks in their order."""

    def __init__(self, sinks: Sequence[MetricSink]) -> None:
        self._sinks = sinks

    def write(self, record: dict[str, float]) -> None:
        """Store ``record`` everywhere."""
        for sink in self._sinks:
            sink.write(record)


@contextlib.contextmanager
def open_sinks(folder: Path, config: ExperimentConfig, trainer: Trainer, state: LoopState) -> Iterator[Sinks]:
    """Open the sinks of the run in ``folder``: ``metrics.jsonl`` first, then the services switched on.

    However the block ends, ``metrics.csv`` is written and the services are closed; they are told how it
    ended.

    Args:
        folder: run folder with ``manifest.json``.
        config: the run's configuration.
        trainer: where the run stands; its networks' gradients are stored by the services.
        state: progress of the loop, updated while the block runs. What the folder holds beyond it is
            dropped, because it will be computed again.
    """
    metrics = folder / "metrics.jsonl"
    how_it_ended = RunEnding(state)
    with contextlib.ExitStack() as stack:
        written = trainer.epoch if state.pending is None else trainer.epoch - 1
        sinks: list[MetricSink] = [stack.enter_context(contextlib.closing(JSONLLogger(metrics, written)))]
        if config.general.tensorboard:
            from pwm.logging.tensorboard_logger import TensorBoardLogger

            done = max((int(record["env_steps"]) for record in read_metrics(metrics)), default=-1)
            board = TensorBoardLogger(folder, done, trainer.networks)
            sinks.append(stack.enter_context(contextlib.closing(board)))
        if wandb_wanted(config):
            name = f"{trainer.spec.name} {config.run_name} seed{config.general.seed}"
            stored = config.to_dict() | {"manifest": read_object(folder / "manifest.json")}
            remote = WandBLogger(folder, name, config.wandb, stored, trainer.networks, how_it_ended.summary)
            sinks.append(stack.enter_context(contextlib.closing(remote)))
        stack.callback(export_csv, metrics, folder / "metrics.csv")
        try:
            yield Sinks(sinks)
        except BaseException as error:
            how_it_ended.error = error
            raise


class RunEnding:
    """End of a run, for its summary.

    Args:
        state: progress of the loop.

    Attributes:
        error: what ended the run before its end, if anything did.
    """

    def __init__(self, state: LoopState) -> None:
        self._state = state
        self.error: BaseException | None = None

    def summary(self) -> dict[str, Any]:
        """State and reason as ``status.json`` has them, with the best evaluation if there was one."""
        found: dict[str, Any] = dict(zip(("state", "reason"), ending(self.error), strict=True))
        if math.isfinite(self._state.best_return):
            found |= {"best_return": self._state.best_return, "best_epoch": self._state.best_epoch}
        return found
