"""Options of a run that do not belong to the algorithm."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pwm.errors import ConfigError

# Far above the cores of any machine; OpenMP ends the process without a word where threads cannot be made.
MOST_THREADS = 1024
COMPILE_MODES = ("off", "auto", "on")
PRECISIONS = ("float32", "bfloat16")
FOLDER_NAME = re.compile(r"\w[\w.-]*")
FOLDER_NAME_RULE = "use letters, digits, '_', '-' and '.', and start with a letter, a digit or '_'"


@dataclass
class General:
    """Options of a run that do not belong to the algorithm.

    Attributes:
        seed: seed of every random stream of the run.
        epochs: number of epochs; null takes ``alg.max_epochs``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        threads: CPU threads of PyTorch; 0 takes one for networks of less than a million parameters, which
            gain next to nothing from more, and PyTorch's own choice for larger ones.
        deterministic: let PyTorch use deterministic kernels only, which may be slower.
        compile: compiled kernels for training on a CPU, whose results differ by rounding: ``auto`` uses them
            where there is a C compiler and ``deterministic`` is not asked for, ``on`` insists, or ``off``.
        precision: of the matrix products of training, ``float32``, or ``bfloat16`` with sums in float32 where
            the processor has instructions for it; a GPU then uses TF32. Evaluations are always in float32.
        logdir: parent of all run folders.
        name: run folder under ``logdir/<task>/``; empty takes the name of the algorithm preset.
        resume: ``auto`` continues an unfinished run of the same configuration, ``never`` refuses to touch
            an existing run folder, ``force`` continues even though the configuration changed.
        checkpoint: what to start from: a policy, a world model of ``pwm convert`` or ``pwm pretrain``, or the
            folder of a run; empty starts from scratch.
        pretrain: data set that the world model is fitted to before it meets the environment; empty begins
            without.
        pretrain_steps: updates of the world model for that.
        eval_every: epochs between evaluations; null takes 20, or as many as make 2000 environment steps.
        eval_runs: episodes per evaluation.
        patience: stop after this many evaluations without a new best return; null trains to the end.
        save_interval: seconds between saves of the resumable state.
        checkpoint_every: epochs between policies that are kept beside the best and the final one; null
            keeps none.
        keep_checkpoints: how many of those to keep, the latest ones.
        esnr_every: epochs between measurements of the gradients' signal-to-noise ratio; 0 measures none.
        progress: show a progress bar, or lines in a log file.
        run_wandb: log to Weights & Biases, see the group ``wandb``.
        tensorboard: write TensorBoard event files into the run folder.
    """

    seed: int = 42
    epochs: int | None = None
    device: str = "cpu"
    threads: int = 0
    deterministic: bool = False
    compile: str = "auto"
    precision: str = "float32"
    logdir: str = "logs"
    name: str | None = None
    resume: str = "auto"
    checkpoint: str | None = None
    pretrain: str | None = None
    pretrain_steps: int = 10_000
    eval_every: int | None = None
    eval_runs: int = 16
    patience: int | None = None
    save_interval: float = 300.0
    checkpoint_every: int | None = None
    keep_checkpoints: int = 3
    esnr_every: int = 100
    progress: bool = True
    run_wandb: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.resume not in ("auto", "never", "force"):
            raise ConfigError(f"general.resume={self.resume!r}; choose one of: auto, never, force")
        if self.compile not in COMPILE_MODES:
            allowed = ", ".join(COMPILE_MODES)
            raise ConfigError(f"general.compile={self.compile!r}; choose one of: {allowed}")
        if self.precision not in PRECISIONS:
            allowed = ", ".join(PRECISIONS)
            raise ConfigError(f"general.precision={self.precision!r}; choose one of: {allowed}")
        if self.deterministic and self.compile == "on":
            raise ConfigError("general.compile=on does not go with general.deterministic=true; set it to off")
        if self.name is not None and not FOLDER_NAME.fullmatch(self.name):
            raise ConfigError(f"general.name={self.name!r}; {FOLDER_NAME_RULE}")
        if not self.logdir:
            raise ConfigError("general.logdir is empty; name a folder, or . for the working folder")
        if not self.save_interval >= 0:
            raise ConfigError(
                f"general.save_interval={self.save_interval}; it must not be negative (inf: only at the end)"
            )
        for key in ("eval_runs", "keep_checkpoints", "pretrain_steps"):
            if getattr(self, key) < 1:
                raise ConfigError(f"general.{key}={getattr(self, key)}; it must be at least 1")
        for key in ("epochs", "eval_every", "patience", "checkpoint_every"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ConfigError(f"general.{key}={value}; it must be at least 1, or null")
        if self.esnr_every < 0:
            raise ConfigError(f"general.esnr_every={self.esnr_every}; it must not be negative (0: never)")
        if not 0 <= self.seed < 2**64:
            raise ConfigError(f"general.seed={self.seed}; it must be at least 0 and below 2**64")
        if not 0 <= self.threads <= MOST_THREADS:
            raise ConfigError(
                f"general.threads={self.threads}; it must be at least 0 and at most {MOST_THREADS}"
            )

    @property
    def kernels(self) -> str:
        """What ``compile`` amounts to: ``off`` where determinism is asked for."""
        return "off" if self.deterministic else self.compile
