"""Compose, validate, hash and compare experiment configurations.

Values come from the options dataclasses of each component (defaults), then the YAML presets in
``pwm/configs`` (overrides only), then the command line. Every key and type is checked before anything
else happens.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from pwm import components
from pwm.errors import ConfigError
from pwm.experiment import wandb_logger
from pwm.training import options

# Override names of the predecessors' documentation, and where the value lives here.
ALIASES = {
    "alg.flow_integrator": "alg.dynamics.integrator",
    "alg.flow_substeps": "alg.dynamics.substeps",
    "alg.flow_tau_sampling": "alg.dynamics.tau_sampling",
    "alg.flow_source": "alg.dynamics.flow_source",
    "alg.velocity_head": "alg.dynamics.velocity_head",
    "dynamics": "dynamics@alg.dynamics",
    "actor": "actor@alg.actor",
}
GROUPS = ("env", "alg", "dynamics@alg.dynamics", "actor@alg.actor")

T = TypeVar("T")


@dataclass
class General:
    """Options of a run that do not belong to the algorithm.

    Attributes:
        seed: seed of every random stream of the run.
        epochs: number of epochs; null takes ``alg.max_epochs``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        threads: CPU threads of PyTorch; 0 keeps its default.
        deterministic: let PyTorch use deterministic kernels only, which may be slower.
        logdir: parent of all run folders.
        name: run folder under ``logdir/<task>/``; null takes the name of the algorithm preset.
        resume: ``auto`` continues an unfinished run of the same configuration, ``never`` refuses to touch
            an existing run folder, ``force`` continues even though the configuration changed.
        checkpoint: policy, or world model of ``pwm convert``, to start from; null starts from scratch.
        eval_every: epochs between evaluations.
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
    logdir: str = "logs"
    name: str | None = None
    resume: str = "auto"
    checkpoint: str | None = None
    eval_every: int = 20
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
        if self.name is not None and not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ConfigError(
                f"general.name={self.name!r}; use letters, digits, '_', '-' and '.', and start with a letter"
            )
        if self.save_interval < 0:
            raise ConfigError(f"general.save_interval={self.save_interval}; it must not be negative")
        for key in ("eval_every", "eval_runs", "keep_checkpoints"):
            if getattr(self, key) < 1:
                raise ConfigError(f"general.{key}={getattr(self, key)}; it must be at least 1")
        for key in ("epochs", "patience", "checkpoint_every"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ConfigError(f"general.{key}={value}; it must be at least 1, or null")
        if self.esnr_every < 0:
            raise ConfigError(f"general.esnr_every={self.esnr_every}; it must not be negative (0: never)")
        if self.seed < 0 or self.threads < 0:
            raise ConfigError(
                f"general.seed={self.seed} and general.threads={self.threads} must not be negative"
            )
        if self.seed >= 2**64:
            raise ConfigError(f"general.seed={self.seed}; it must be below 2**64")


@dataclass
class ExperimentConfig:
    """A validated configuration.

    Attributes:
        preset: name of the algorithm preset it started from.
        general: options of the run.
        env_name: environment component.
        env: its options.
        alg: the training rule.
        dynamics, actor: options of the chosen components.
        wandb: where the run appears on Weights & Biases.
    """

    preset: str
    general: General
    env_name: str
    env: Any
    alg: options.Options
    dynamics: Any
    actor: Any
    wandb: wandb_logger.Options
    # What an experiment may change without becoming another experiment. Like device and threads, the choice
    # between equivalent kernels moves results by rounding only; simulation does not depend on its threads.
    operational: tuple[str, ...] = field(
        default=(
            "device",
            "threads",
            "deterministic",
            "logdir",
            "name",
            "resume",
            "save_interval",
            "checkpoint_every",
            "keep_checkpoints",
            "esnr_every",
            "progress",
            "run_wandb",
            "tensorboard",
            "env.num_threads",
        ),
        repr=False,
    )

    @classmethod
    def load(cls, path: Path) -> ExperimentConfig:
        """Validate the configuration stored as YAML in ``path``, as ``to_yaml`` makes it.

        Raises:
            ConfigError: the file cannot be read, or holds what ``from_dict`` refuses.
        """
        try:
            values = OmegaConf.to_container(OmegaConf.load(path))
        except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"{path} cannot be read: {_one_line(error)}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} is not a configuration: it holds a list instead of groups of keys")
        try:
            return cls.from_dict(values)  # type: ignore[arg-type]
        except ConfigError as error:
            raise ConfigError(f"{path} is not a configuration of this release: {error}") from error

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ExperimentConfig:
        """Validate a nested dict as ``to_dict`` makes it.

        Raises:
            ConfigError: unknown key, wrong type, value that is not allowed, or unknown component.
        """
        _only_keys(values, ("preset", "general", "env", "alg", "wandb"), "")
        env, alg = _section(values, "env"), _section(values, "alg")
        env_name = str(env.pop("name", ""))
        dynamics, actor = _section(alg, "dynamics", "alg."), _section(alg, "actor", "alg.")
        alg = {k: v for k, v in alg.items() if k not in ("dynamics", "actor")}
        return cls(
            preset=str(values.get("preset", "custom")),
            general=build_options(General, _section(values, "general"), "general"),
            env_name=env_name,
            env=build_options(components.load("env", env_name).Options, env, "env"),
            alg=build_options(options.Options, alg, "alg"),
            dynamics=_component_options("dynamics", dynamics),
            actor=_component_options("actor", actor),
            wandb=build_options(wandb_logger.Options, _section(values, "wandb"), "wandb"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain values, complete with all defaults."""
        alg = dataclasses.asdict(self.alg)
        alg["dynamics"] = dataclasses.asdict(self.dynamics)
        alg["actor"] = dataclasses.asdict(self.actor)
        return {
            "preset": self.preset,
            "general": dataclasses.asdict(self.general),
            "env": {"name": self.env_name, **dataclasses.asdict(self.env)},
            "alg": alg,
            "wandb": dataclasses.asdict(self.wandb),
        }

    @property
    def epochs(self) -> int:
        """Number of epochs of the run."""
        return self.general.epochs or self.alg.max_epochs

    @property
    def run_name(self) -> str:
        """Name of the run folder under ``logdir/<task>/``."""
        return self.general.name or self.preset

    def identity(self) -> dict[str, Any]:
        """The part of the configuration that decides the numbers a run produces, flattened."""
        flat = flatten({section: v for section, v in self.to_dict().items() if section != "wandb"})
        return {k: v for k, v in flat.items() if k.removeprefix("general.") not in self.operational}

    def hash(self) -> str:
        """SHA-256 of ``identity``."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The complete configuration as YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(self.to_dict()))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict to ``{"alg.dynamics.name": ...}``; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def diff(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Lines ``key: value in a -> value in b`` for every key in which two flat dicts differ."""
    absent = "(absent)"
    return [
        f"{key}: {a.get(key, absent)} -> {b.get(key, absent)}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, absent) != b.get(key, absent)
    ]


def compose_config(overrides: Sequence[str]) -> ExperimentConfig:
    """Configuration of the presets and ``key=value`` overrides, as typed on the command line.

    Raises:
        ConfigError: an override cannot be parsed, or the result is not valid.
    """
    parsed = [_normalize(o) for o in overrides]
    try:
        with initialize_config_module("pwm.configs", version_base="1.3"):
            composed = compose("config", overrides=parsed, return_hydra_config=True)
        choices = composed.hydra.runtime.choices
        own = [str(key) for key in composed if key != "hydra"]
        values = OmegaConf.to_container(OmegaConf.masked_copy(composed, own), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error)) from error
    assert isinstance(values, dict)
    values["preset"] = str(choices["alg"])
    return ExperimentConfig.from_dict(values)  # type: ignore[arg-type]


def build_options(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Instance of options dataclass ``cls`` from ``values``, each key and type checked.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    _only_keys(values, [f.name for f in dataclasses.fields(cls)], f"{where}.")  # type: ignore[arg-type]
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        raise ConfigError(f"{where}.{error.full_key} must be given") from error
    except ConfigKeyError as error:
        owner = error.object_type if dataclasses.is_dataclass(error.object_type) else cls
        allowed = ", ".join(f.name for f in dataclasses.fields(owner))  # type: ignore[arg-type]
        raise ConfigError(f"unknown key {where}.{error.full_key}; allowed here: {allowed}") from error
    except OmegaConfBaseException as error:
        key = f"{where}.{error.full_key}".rstrip(".")
        raise ConfigError(f"{key}: {str(error.msg or error).splitlines()[0]}") from error


def _section(values: dict[str, Any], key: str, prefix: str = "") -> dict[str, Any]:
    """A copy of the mapping ``values[key]`` (empty if absent)."""
    section = values.get(key) or {}
    if not isinstance(section, dict):
        raise ConfigError(
            f"{prefix}{key}={section!r} is a group of keys; set one of them, {prefix}{key}.<key>=..."
        )
    return dict(section)


def _component_options(kind: str, values: dict[str, Any]) -> Any:
    module = components.load(kind, str(values.get("name", "")))
    return build_options(module.Options, values, f"alg.{kind}")


def _only_keys(values: dict[str, Any], allowed: Sequence[str], prefix: str) -> None:
    for key in values:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1)
            hint = f" (did you mean {prefix}{close[0]}?)" if close else ""
            raise ConfigError(f"unknown key {prefix}{key}{hint}; allowed here: {', '.join(allowed)}")


def split_override(override: str) -> tuple[str, str]:
    """Key and value of ``key=value``; names of the predecessors become ours.

    Raises:
        ConfigError: there is no ``=``.
    """
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is not an override; write key=value, e.g. general.seed=1")
    key = key.lstrip("+")
    return ALIASES.get(key, key), value


def _normalize(override: str) -> str:
    """Let values of keys that no preset mentions be set."""
    key, value = split_override(override)
    return f"{key}={value}" if key in GROUPS else f"++{key}={value}"


def _one_line(error: Exception) -> str:
    """Hydra's message on one line, without the search path it ends with."""
    message = str(error).split("Config search path")[0]
    return " ".join(line.strip() for line in message.splitlines() if line.strip())
