"""Weights & Biases: one W&B run per run folder, online or offline; its failures never stop training."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pwm import packages
from pwm.errors import ConfigError
from pwm.files import write_text
from pwm.logging.gradients import gradient_histograms, histograms_due
from pwm.logging.loggers import Fuse

MODES = ("online", "offline", "disabled")
# As WANDB_MODE may say it.
LOCAL_MODES = ("offline", "dryrun", "disabled")
# Characters that W&B refuses in a project's name.
FORBIDDEN = r"/\#?%:"
ID_FILE = "wandb_id.txt"
# Seconds; together with saving they must fit into the 20 in which a run gives way. Without a network, wandb's
# login looks for the user for about 5 seconds before this time starts.
INIT_TIMEOUT = 8.0
FINISH_TIMEOUT = 8.0


@dataclass
class Options:
    """Place of a run on Weights & Biases; ``general.run_wandb`` switches it on.

    Attributes:
        project: project the run belongs to.
        entity: user or team that owns the project; null takes the account's default.
        group: runs of one group are shown together; null for none.
        mode: ``online`` uploads while training (the environment variable WANDB_MODE can still say otherwise),
            ``offline`` writes files for ``wandb sync``, ``disabled`` does nothing.
    """

    project: str = "flow-pwm"
    entity: str | None = None
    group: str | None = None
    mode: str = "online"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"wandb.mode={self.mode!r}; choose one of: {', '.join(MODES)}")
        if not self.project or set(self.project) & set(FORBIDDEN):
            raise ConfigError(
                f"wandb.project={self.project!r}; it must not be empty, nor hold any of {' '.join(FORBIDDEN)}"
            )


def load_wandb() -> Any:
    """The wandb package.

    Raises:
        ConfigError: it is not installed.
    """
    # A folder called wandb in the working directory can be imported too, but it has no such module.
    packages.optional("wandb.sdk", "general.run_wandb=true", "wandb")
    return importlib.import_module("wandb")


class WandBLogger:
    """Sends every record to the W&B run of a run folder, and histograms of the gradients when they are due.

    The W&B run's id is made once and kept in the folder, so that a resumed run continues it; epochs that
    the server already holds are not sent again. The first failure of W&B is reported and switches the logger
    off.

    Args:
        folder: run folder; everything W&B writes goes below it.
        name: shown on W&B.
        options: project, owner, group and mode.
        config: nested dict of plain values, stored as the run's configuration.
        networks: modules whose gradients are stored, by name.
        summary: called by ``close``; its values go into the run's summary, and a ``state`` other than
            ``finished`` marks the run as failed.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        options: Options | None = None,
        config: Mapping[str, Any] | None = None,
        networks: Mapping[str, nn.Module] | None = None,
        summary: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._wandb = load_wandb()
        self._networks = {} if networks is None else networks
        self._summary = summary
        self._run: Any = None
        self._next_epoch = 0
        self._fuse = Fuse("Weights & Biases")
        with self._fuse:
            self._run = self._open(Path(folder), name, options or Options(), dict(config or {}))
            self._run.define_metric("*", step_metric="env_steps")
            # Past what a resumed run already holds.
            self._next_epoch = self._run.step

    def _open(self, folder: Path, name: str, options: Options, config: dict[str, Any]) -> Any:
        wandb = self._wandb
        mode = wandb.setup().settings.mode if options.mode == "online" else options.mode
        # Logging in first keeps wandb.init from asking for a key, for which a batch job would wait forever.
        if mode not in LOCAL_MODES and not wandb.login(prompt=False, verify=False):
            raise ConfigError("there is no API key; run `wandb login`, or use wandb.mode=offline")
        return wandb.init(
            project=options.project,
            entity=options.entity,
            group=options.group,
            name=name,
            id=run_id(folder),
            resume="allow",
            # Another run of the same process stays what it is.
            reinit="create_new",
            mode=mode,
            dir=folder,
            config=config,
            settings=wandb.Settings(
                init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT, console="off", quiet=True
            ),
        )

    def write(self, record: Mapping[str, float]) -> None:
        """Send ``record``, which holds ``epoch`` and ``env_steps``."""
        epoch = int(record["epoch"])
        if self._fuse.blown or epoch < self._next_epoch:
            return
        with self._fuse:
            row: dict[str, Any] = dict(record)
            if histograms_due(epoch):
                row |= self._histograms(self._networks)
            self._run.log(row, step=epoch, commit=True)

    def log_gradient_histogram(self, name: str, network: nn.Module, epoch: int) -> None:
        """Send histograms of the present gradients of ``network`` with the next record, that of ``epoch``.

        They are called ``gradients/<name>/<parameter>``. Networks given to the logger need no call: theirs
        are sent when they are due.
        """
        if self._fuse.blown or epoch < self._next_epoch:
            return
        with self._fuse:
            self._run.log(self._histograms({name: network}), step=epoch, commit=False)

    def _histograms(self, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
        return {
            name: self._wandb.Histogram(np_histogram=(found.counts, found.edges))
            for name, found in gradient_histograms(networks).items()
        }

    def close(self) -> None:
        """Store the summary and wait, at most ``FINISH_TIMEOUT`` seconds, until everything is uploaded."""
        if self._fuse.blown:
            return
        with self._fuse:
            summary = self._summary()
            self._run.summary.update(summary)
            self._run.finish(exit_code=0 if summary.get("state", "finished") == "finished" else 1)


def run_id(folder: Path) -> str:
    """Id of the W&B run that belongs to ``folder``; made and stored at the first call."""
    path = folder / ID_FILE
    if not path.exists():
        # From the system, not from a seeded stream: two runs of one seed are two W&B runs.
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()
