"""TensorBoard event files in the run folder; failures never stop training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pwm import packages
from pwm.logging.gradients import Histogram, gradient_histograms, histograms_due
from pwm.logging.loggers import Fuse

SUBFOLDER = "tensorboard"


def load_tensorboard() -> tuple[Any, Any]:
    """The class that writes event files, and the message type for the values of one step.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    messages, writers = (
        packages.optional(module, "general.tensorboard=true", "tensorboard")
        for module in ("tensorboard.compat.proto.summary_pb2", "torch.utils.tensorboard")
    )
    return writers.SummaryWriter, messages.Summary


class TensorBoardLogger:
    """Writes every record over ``env_steps``, and histograms of the gradients when they are due.

    Args:
        folder: run folder; event files go to ``tensorboard/`` in it.
        done: environment steps a resumed run has behind it, -1 for a new run: later events of an earlier
            sitting are hidden, because they are computed again.
        networks: modules whose gradients are stored, by name.
    """

    def __init__(
        self, folder: str | Path, done: int = -1, networks: Mapping[str, nn.Module] | None = None
    ) -> None:
        writer, self._message = load_tensorboard()
        self._networks = {} if networks is None else networks
        self._fuse = Fuse("TensorBoard")
        with self._fuse:
            self._writer = writer(str(Path(folder) / SUBFOLDER), purge_step=done + 1)

    def write(self, record: Mapping[str, float]) -> None:
        """Write ``record``, which holds ``epoch`` and ``env_steps``."""
        if self._fuse.blown:
            return
        step, message = int(record["env_steps"]), self._message
        with self._fuse:
            # One message for all values: add_scalar would send one each, at four times the price.
            values = [message.Value(tag=k, simple_value=v) for k, v in record.items() if math.isfinite(v)]
            self._writer.file_writer.add_summary(message(value=values), step)
            if histograms_due(int(record["epoch"])):
                for name, found in gradient_histograms(self._networks).items():
                    self._add_histogram(name, found, step)
            # What is in memory when a process is killed is lost, and a resumed run does not repeat all of it.
            self._writer.flush()

    def _add_histogram(self, name: str, found: Histogram, step: int) -> None:
        self._writer.add_histogram_raw(
            name,
            min=found.edges[0],
            max=found.edges[-1],
            num=found.counts.sum(),
            sum=found.total,
            sum_squares=found.total_squares,
            bucket_limits=found.edges[1:].tolist(),
            bucket_counts=found.counts.tolist(),
            global_step=step,
        )

    def close(self) -> None:
        """Finish the event file."""
        if self._fuse.blown:
            return
        with self._fuse:
            self._writer.close()
