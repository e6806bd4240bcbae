"""Where runs are trained: ``pwm/configs/launch/NAME.yaml``, the user's own file, and the command line.

``launch=NAME`` chooses a profile, ``launch.KEY=VALUE`` changes one of its keys. Between the two come the
values of a site (account, partition, mail), which belong to no repository: the file of ``user_file`` holds
them below the name of the profile.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from pwm.configuration.composition import assign, type_at
from pwm.configuration.config import build_options
from pwm.configuration.override_values import as_typed
from pwm.configuration.overrides import Override, parse_override, preset_names
from pwm.errors import ConfigError

GROUP = "launch"
LOCAL = "local"
TIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")
MISSING = "???"


@dataclass
class LocalProfile:
    """Budget of runs on this machine.

    Attributes:
        cores: processor cores to use; null takes all that this process may use.
        memory: gigabytes to use; null sets no limit.
        memory_per_run: gigabytes of one run, which ``memory`` is divided by.
        gpus: GPUs to use; null takes all that are visible.
        runs_per_gpu: runs that share a GPU at the same time.
    """

    cores: int | None = None
    memory: float | None = None
    memory_per_run: float | None = None
    gpus: int | None = None
    runs_per_gpu: int = 1

    def __post_init__(self) -> None:
        _positive(self, "cores", "memory", "memory_per_run", "gpus", "runs_per_gpu")
        if (self.memory is None) != (self.memory_per_run is None):
            raise ConfigError(
                "give launch.memory and launch.memory_per_run together: one divided by the other"
            )


@dataclass
class SlurmProfile:
    """What the jobs of a cluster ask for.

    Attributes:
        account, partition, qos: as `sbatch` takes them; null leaves them to the cluster.
        report_partition: of the job that writes the report, which needs no GPU; null is ``partition``.
        gpus: GPUs of one job; 0 for none.
        gpu_type: kind of GPU; null takes any.
        runs_per_job: runs that one job trains at the same time; they share its GPUs in turn.
        memory_per_run: gigabytes of main memory; null takes the cluster's default.
        time: limit of one attempt, ``HH:MM:SS`` or ``D-HH:MM:SS``.
        report_time: limit of the report.
        max_running: jobs of an array that run at the same time; null sets no limit.
        attempts: how often a job may begin, the first time included.
        warning: seconds before the limit at which runs are asked to save and end.
        requeue_timeout: seconds after which an answer to `scontrol` is no longer waited for.
        mail_user: address that SLURM writes to; null for none.
        mail_type: events of which it does.
        modules: environment modules to load.
        setup: shell lines that come before the runs, such as the activation of an environment.
        container: image in which runs are trained, with Apptainer; null for none.
        scratch: folder on fast storage, exported as PWM_SCRATCH; null for none.
        stage: folders that are copied into ``scratch`` before the runs begin.
        options: further options of `sbatch`, such as ``--constraint=a100-80gb``.
    """

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    report_partition: str | None = None
    gpus: int = 0
    gpu_type: str | None = None
    runs_per_job: int = 1
    memory_per_run: float | None = None
    time: str = "24:00:00"
    report_time: str = "01:00:00"
    max_running: int | None = None
    attempts: int = 10
    warning: int = 300
    requeue_timeout: int = 60
    mail_user: str | None = None
    mail_type: list[str] = field(default_factory=lambda: ["END", "FAIL"])
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    scratch: str | None = None
    stage: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _positive(self, "runs_per_job", "memory_per_run", "max_running", "attempts", "requeue_timeout")
        if self.gpus < 0:
            raise ConfigError(f"launch.gpus={self.gpus}; it must not be negative (0: none)")
        if self.gpu_type and not self.gpus:
            raise ConfigError(f"launch.gpu_type={self.gpu_type}, but launch.gpus=0 asks for no GPU")
        if self.gpus > self.runs_per_job:
            raise ConfigError(
                f"launch.gpus={self.gpus}, but launch.runs_per_job={self.runs_per_job}: a run uses one GPU, "
                f"so {self.gpus - self.runs_per_job} would be idle; give each GPU at least one run"
            )
        if self.stage and not self.scratch:
            raise ConfigError(f"launch.stage={self.stage} is copied into launch.scratch, which is not given")
        limits = {key: time_seconds(key, getattr(self, key)) for key in ("time", "report_time")}
        if not 0 < self.warning < limits["time"]:
            raise ConfigError(
                f"launch.warning={self.warning} seconds before the limit; it must lie between 0 and "
                f"launch.time={self.time}"
            )

    @property
    def seconds(self) -> int:
        """Limit of one attempt in seconds."""
        return time_seconds("time", self.time)

    def for_runs(self, runs: int) -> SlurmProfile:
        """The same for so many runs in all, which may be too few to fill one job and its GPUs."""
        return dataclasses.replace(self, runs_per_job=min(self.runs_per_job, runs), gpus=min(self.gpus, runs))


Profile: TypeAlias = LocalProfile | SlurmProfile
SCHEDULERS: dict[str, type[LocalProfile] | type[SlurmProfile]] = {
    "local": LocalProfile,
    "slurm": SlurmProfile,
}


def time_seconds(key: str, text: str) -> int:
    """Seconds of ``HH:MM:SS`` or ``D-HH:MM:SS``.

    Raises:
        ConfigError: it is written otherwise. YAML reads such a time without quotes as a number.
    """
    if not (found := TIME.fullmatch(text)) or not any(int(part or 0) for part in found.groups()):
        raise ConfigError(
            f"launch.{key}={text!r}; write HH:MM:SS or D-HH:MM:SS, in a YAML file in quotes, and not zero"
        )
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def user_file() -> Path:
    """File with the values of a site: ``~/.config/pwm/launch.yaml``, or below XDG_CONFIG_HOME."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "pwm" / "launch.yaml"


def split_launch(typed: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the profile, and all others."""
    own = [word for word in typed if parse_override(word).key.partition(".")[0] == GROUP]
    return own, [word for word in typed if word not in own]


def load_profile(typed: Sequence[str]) -> Profile:
    """The profile that ``launch=NAME`` and ``launch.KEY=VALUE`` describe, with the values of the site.

    Args:
        typed: overrides of the profile alone; without ``launch=NAME`` it is the one of this machine.

    Raises:
        ConfigError: there is no such profile or key, a value is not allowed, or one that only the user knows
            is not given.
    """
    overrides = [parse_override(word) for word in typed]
    chosen = [as_typed(override.text) for override in overrides if override.key == GROUP]
    name = chosen[-1] if chosen else LOCAL
    if name not in (names := preset_names(GROUP)):
        raise ConfigError(f"launch={name}: there is no such profile; choose from: {', '.join(names)}")
    shipped = resources.files("pwm.configs").joinpath(GROUP, f"{name}.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(shipped)
    kind = SCHEDULERS[values.pop("scheduler")]
    values |= _of_user(name)
    return _with_overrides(kind, values, [o for o in overrides if o.key != GROUP], name)


def _with_overrides(kind: Any, values: dict[str, Any], overrides: list[Override], name: str) -> Profile:
    nested = {GROUP: values}
    assign(nested, overrides, lambda path: type_at(kind, path[1:]), lambda: ())
    if missing := [key for key, value in values.items() if value == MISSING]:
        raise ConfigError(
            f"launch={name} needs {', '.join(f'launch.{key}' for key in missing)}; write "
            f"launch.{missing[0]}=..., or once and for all into {user_file()}:\n  {name}:\n"
            + "\n".join(f"    {key}: ..." for key in missing)
        )
    return build_options(kind, values, GROUP)


def _of_user(name: str) -> dict[str, Any]:
    path = user_file()
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        raise ConfigError(f"{path}: write the name of a profile, and below it its keys")
    if strange := sorted(set(map(str, content)) - set(preset_names(GROUP))):
        raise ConfigError(
            f"{path}: there is no profile {strange[0]}; choose from: {', '.join(preset_names(GROUP))}"
        )
    return dict(content.get(name, {}))


def _positive(profile: Any, *keys: str) -> None:
    for key in keys:
        if (value := getattr(profile, key)) is not None and not value > 0:
            raise ConfigError(f"launch.{key}={value}; it must be positive")
