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
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from pwm import components
from pwm.configuration.composition import ENV, compose_values
from pwm.configuration.general import General
from pwm.envs.disturbances import base as disturbances
from pwm.errors import ConfigError
from pwm.logging import wandb_logger
from pwm.parts import flat_hints, flat_values, nested, own_key
from pwm.training.trainer import DEFAULT, load_trainer

T = TypeVar("T")
_STRUCTURED: dict[type[Any], Any] = {}
# Unless told otherwise, a policy is evaluated after this many epochs and environment steps.
EVAL_EPOCHS, EVAL_STEPS = 20, 2000


@dataclass
class ExperimentConfig:
    """A validated configuration.

    Attributes:
        preset: name of the algorithm preset it started from.
        general: options of the run.
        env_name: environment component; empty where the trainer has no environment.
        env: its options; None where there is none.
        disturbance: what disturbs it.
        trainer: trainer component.
        alg: its options.
        chosen: options of the other components that it is composed of, by kind (``dynamics``, ``actor``).
        wandb: where the run appears on Weights & Biases.
    """

    preset: str
    general: General
    env_name: str
    env: Any
    disturbance: disturbances.Options
    trainer: str
    alg: Any
    chosen: dict[str, Any]
    wandb: wandb_logger.Options
    # What an experiment may change without becoming another experiment. Like device and threads, the choice
    # between equivalent kernels moves results by rounding only; simulation does not depend on its threads.
    operational: tuple[str, ...] = field(
        default=(
            "device",
            "threads",
            "deterministic",
            "compile",
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
            # What the data are is told by their digest, wherever they lie.
            "alg.data",
            "alg.max_model_error",
            "pretrain",
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
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read: {_one_line(error)}") from error
        if not isinstance(values, dict):
            raise ConfigError(
                f"{path} is not a configuration: it holds {type(values).__name__} instead of groups of keys"
            )
        try:
            return cls.from_dict(values)
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
        trainer = str(alg.pop("trainer", DEFAULT))
        component = load_trainer(trainer)
        parts = {kind: _section(alg, kind, "alg.") for kind in component.COMPONENTS if kind != ENV}
        env_name, env_options, disturbance = "", None, disturbances.Options()
        if ENV in component.COMPONENTS:
            env_name = str(env.pop("name", ""))
            own, keys = components.load(ENV, env_name).Options, flat_hints(disturbances.Options)
            _only_keys(env, [*flat_hints(own), *keys], f"{ENV}.")
            disturbed = {key: env.pop(key) for key in keys if key in env}
            env_options = build_options(own, env, ENV)
            disturbance = build_options(disturbances.Options, disturbed, ENV)
        elif env:
            raise ConfigError(f"alg.trainer={trainer} has no environment; leave out the group env")
        alg = {k: v for k, v in alg.items() if k not in parts}
        return cls(
            preset=str(values.get("preset", "custom")),
            general=build_options(General, _section(values, "general"), "general"),
            env_name=env_name,
            env=env_options,
            disturbance=disturbance,
            trainer=trainer,
            alg=build_options(component.Options, alg, "alg"),
            chosen={kind: _component_options(kind, values) for kind, values in parts.items()},
            wandb=build_options(wandb_logger.Options, _section(values, "wandb"), "wandb"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain values, complete with all defaults."""
        alg = {"trainer": self.trainer, **flat_values(self.alg)}
        alg |= {kind: dataclasses.asdict(options) for kind, options in self.chosen.items()}
        env = {}
        if self.env is not None:
            # Without a disturbance there is no word of it: that is the run it was before there were any.
            own = {**dataclasses.asdict(self.env), **self.disturbance.values}
            env = {ENV: {"name": self.env_name, **own}}
        return {
            "preset": self.preset,
            "general": dataclasses.asdict(self.general),
            **env,
            "alg": alg,
            "wandb": dataclasses.asdict(self.wandb),
        }

    @property
    def epochs(self) -> int:
        """Number of epochs of the run."""
        return self.general.epochs or self.alg.max_epochs

    @property
    def eval_every(self) -> int:
        """Epochs between evaluations."""
        # Epochs of few environments and short horizons are short, evaluations are not.
        return self.general.eval_every or max(EVAL_EPOCHS, math.ceil(EVAL_STEPS / self.alg.epoch_steps))

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
        text = yaml.safe_dump(self.to_dict(), allow_unicode=True, sort_keys=False)
        # These characters are read back as another line end unless they are escaped.
        if not {"\x85", "\u2028", "\u2029"}.isdisjoint(text):
            text = yaml.safe_dump(self.to_dict(), sort_keys=False)
        return text


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
        ConfigError: an override cannot be read, two contradict each other, or the result is not valid.
    """
    return ExperimentConfig.from_dict(compose_values(overrides))


def build_options(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Instance of options dataclass ``cls`` from ``values``, each key and type checked.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    _only_keys(values, list(flat_hints(cls)), f"{where}.")
    composed = nested(cls, _literal(values))
    try:
        return OmegaConf.to_object(OmegaConf.merge(_structured(cls), composed))  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        raise ConfigError(f"{where}.{own_key(cls, error.full_key)} must be given") from error
    except ConfigKeyError as error:
        owner = error.object_type if dataclasses.is_dataclass(error.object_type) else cls
        allowed = ", ".join(f.name for f in dataclasses.fields(owner))  # type: ignore[arg-type]
        key = own_key(cls, error.full_key)
        raise ConfigError(f"unknown key {where}.{key}; allowed here: {allowed}") from error
    except OmegaConfBaseException as error:
        key = f"{where}.{own_key(cls, error.full_key)}".rstrip(".")
        raise ConfigError(f"{key}: {str(error.msg or error).splitlines()[0]}") from error


def _structured(cls: type[Any]) -> Any:
    """OmegaConf's form of an options dataclass with its defaults, made once; not to be changed."""
    if cls not in _STRUCTURED:
        _STRUCTURED[cls] = OmegaConf.structured(cls)
    return _STRUCTURED[cls]


def _literal(value: Any) -> Any:
    """``value`` in which OmegaConf finds no references to other values, whatever text it holds."""
    if isinstance(value, dict):
        return {key: _literal(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_literal(part) for part in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)


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


def _one_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())
