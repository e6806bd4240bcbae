"""From the presets in ``pwm/configs`` and typed overrides to one nested dict of values.

Hydra composes the presets. Overrides are then put into what they compose to, each read as the type that its
option has, so that text stays text.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pwm import components
from pwm.configuration.general import General
from pwm.configuration.override_values import as_typed, looks_like_sweep, members, parse_value
from pwm.configuration.overrides import (
    NAMES,
    PLACES,
    SEEDS,
    Override,
    contradiction,
    parse_overrides,
    preset_names,
)
from pwm.configuration.predecessor_keys import successor
from pwm.envs.disturbances import base as disturbances
from pwm.errors import ConfigError
from pwm.logging import wandb_logger
from pwm.parts import flat_hints
from pwm.training.trainer import DEFAULT, TrainerComponent, load_trainer

Path = tuple[str, ...]


TRAINER = "alg.trainer"
# The kind of components whose options are a group of their own, beside ``alg``.
ENV = "env"


class Unknown:
    """Stands for the type of an option that does not exist."""


def compose_values(typed: Sequence[str]) -> dict[str, Any]:
    """Values of the presets with the overrides in their places; neither complete nor checked.

    Raises:
        ConfigError: an override cannot be read, contradicts another one, or names a preset or a key that is
            not there.
    """
    overrides = parse_overrides(typed)
    presets = [override for override in overrides if override.group]
    values = _compose_presets(presets)
    single = [override for override in overrides if not override.group]
    _choose_components(values, presets, single)
    classes = _classes(values)
    assign(values, single, lambda path: _type_of(path, classes), lambda: _known_keys(classes))
    return values


def assign(
    values: dict[str, Any],
    overrides: Iterable[Override],
    type_of: Callable[[Path], Any],
    known_keys: Callable[[], Iterable[str]],
) -> None:
    """Put every override into ``values``.

    Args:
        values: nested; changed in place.
        overrides: their order does not matter.
        type_of: type of the option at a path; ``Unknown`` where there is none.
        known_keys: dotted keys of all options, asked for only to help with one that is unknown.

    Raises:
        ConfigError: a key is not there, text cannot be read, or two overrides contradict each other.
    """
    given: dict[Path, tuple[Any, str]] = {}
    for override in overrides:
        path = tuple(override.key.split("."))
        hint = type_of(path)
        if hint is Unknown:
            for length in range(1, len(path)):
                if not _can_be_group(type_of(path[:length])):
                    raise ConfigError(f"{override.typed}: {'.'.join(path[:length])} is a value, not a group")
            _refuse_known_names(override, known_keys)
        elif looks_like_sweep(override.text, hint):
            raise ConfigError(f"{override.typed}: {_several(override.key)}")
        elif {str, type(None)} <= set(members(hint)) and override.text.lower() in ("null", "none"):
            warnings.warn(
                f"{override.typed} is the text {override.text!r}; {override.key}= leaves it out",
                RuntimeWarning,
                stacklevel=4,
            )
        try:
            value = parse_value(override.text, Any if hint is Unknown else hint)
        except ConfigError as error:
            raise ConfigError(f"{override.typed}: {error}") from error
        if dataclasses.is_dataclass(hint) and not isinstance(value, dict):
            raise ConfigError(
                f"{override.key}={value!r} is a group of keys; set one of them, {override.key}.<key>=..."
            )
        for leaf, part in _leaves(path, value):
            for other, (there, typed) in given.items():
                if _exclude(leaf, part, other, there):
                    raise ConfigError(contradiction(typed, override.typed))
            given[leaf] = part, override.typed
            _put(values, leaf, part)


def type_at(hint: Any, path: Sequence[str]) -> Any:
    """Type of what lies at ``path`` inside a value of type ``hint``; ``Unknown`` if nothing can."""
    for part in path:
        kind = next((member for member in members(hint) if member is not type(None)), Any)
        if dataclasses.is_dataclass(kind):
            hint = flat_hints(kind).get(part, Unknown)
        elif typing.get_origin(kind) is dict:
            hint = typing.get_args(kind)[1]
        elif kind is not Any:
            return Unknown
    return hint


def _can_be_group(hint: Any) -> bool:
    kinds = members(hint)
    groups = any(kind in (Any, Unknown) or dataclasses.is_dataclass(kind) for kind in kinds)
    return groups or any(typing.get_origin(kind) is dict for kind in kinds)


def _compose_presets(presets: Sequence[Override]) -> dict[str, Any]:
    chosen = []
    for preset in presets:
        group, name = str(preset.group), as_typed(preset.text)
        if name not in (names := preset_names(group)):
            place = preset.typed.partition("=")[0].strip(" +")
            single = f"single keys are set by {place}.<key>=..."
            if name.startswith("{"):
                raise ConfigError(f"{preset.typed}: {group}=NAME chooses a preset; {single}")
            if "," in name or name.startswith("["):
                raise ConfigError(f"{preset.typed}: {_several(group)}")
            close = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean {close[0]}?)" if close else _task_hint(group, name)
            also = f"; {single}" if place in PLACES else ""
            raise ConfigError(
                f"{preset.typed}: there is no {group}/{name}{hint}; choose from: {', '.join(names)}{also}"
            )
        chosen.append(f"{preset.key}={name}")
    return copy.deepcopy(_composed(tuple(chosen)))


def _task_hint(group: str, name: str) -> str:
    """What helps with a task's name, such as ``gym_Pendulum-v1``, where a preset is expected."""
    suite, _, rest = name.partition("_")
    if group != "env" or not rest or suite not in preset_names(group):
        return ""
    return f" (a task of {suite} is written env={suite} and its env.id or env.task)"


@functools.cache
def _composed(chosen: tuple[str, ...]) -> dict[str, Any]:
    """Values of the presets that Hydra's overrides ``chosen`` name; not to be changed.

    Experiments compose many configurations of few presets, and Hydra takes a tenth of a second for each.
    """
    try:
        with initialize_config_module("pwm.configs", version_base="1.3"):
            composed = compose("config", overrides=list(chosen), return_hydra_config=True)
        own = [str(key) for key in composed if key != "hydra"]
        values = OmegaConf.to_container(OmegaConf.masked_copy(composed, own), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        for key, _, name in (preset.partition("=") for preset in chosen):
            # A preset of an algorithm without a component of this kind.
            if f"Could not override '{key}'" in str(error):
                kind = key.partition("@")[0]
                raise ConfigError(f"{kind}={name}: the preset of alg= has no {kind}") from error
        raise ConfigError(_one_line(error)) from error
    assert isinstance(values, dict)
    return {**values, "preset": str(composed.hydra.runtime.choices["alg"])}


def _choose_components(
    values: dict[str, Any], presets: Sequence[Override], overrides: Sequence[Override]
) -> None:
    """Put the names of components in place, and drop what presets say of others.

    The names come before all other keys because they decide which there are. A preset may thus say what any
    dynamics that are combined with it should have, although its own have no such option.
    """
    by_preset = {preset.group: preset for preset in presets}
    chosen = set(_choose_trainer(values, overrides))
    _refuse_others(values["alg"]["trainer"], chosen, [*presets, *overrides])
    if ENV not in chosen:
        values.pop(ENV, None)
    for override in overrides:
        if (kind := NAMES.get(override.key)) is None or kind not in chosen:
            continue
        options, name = _group_of(values, kind)[kind], as_typed(override.text)
        if kind in by_preset and options["name"] != name:
            raise ConfigError(contradiction(by_preset[kind].typed, override.typed))
        if kind == ENV and options["name"] != name:
            # Presets of environments speak of theirs alone.
            values[ENV] = options = {}
        options["name"] = name
    for kind in chosen:
        group = _group_of(values, kind)
        known = {"name", *_option_names(kind, group[kind]["name"])}
        group[kind] = {key: value for key, value in group[kind].items() if key in known}


def _choose_trainer(values: dict[str, Any], overrides: Sequence[Override]) -> Sequence[str]:
    """Put the trainer's name in place, drop what presets say for other trainers, return its components."""
    alg = values["alg"]
    typed = [as_typed(override.text) for override in overrides if override.key == TRAINER]
    alg["trainer"] = typed[0] if typed else str(alg.get("trainer", DEFAULT))
    component = load_trainer(alg["trainer"])
    own = {"trainer", *_trainer_keys(component)}
    if alg.keys() - own:
        # Only then is it worth reading the other trainers.
        others = {key for name in components.names("trainer") for key in _trainer_keys(load_trainer(name))}
        values["alg"] = {key: value for key, value in alg.items() if key in own or key not in others}
    return component.COMPONENTS


def _trainer_keys(component: TrainerComponent) -> set[str]:
    return {*flat_hints(component.Options), *component.COMPONENTS}


def _refuse_others(trainer: str, chosen: set[str], overrides: Iterable[Override]) -> None:
    """Raise ConfigError for a component of a kind that the trainer has no use for."""
    for override in overrides:
        inside = ENV if override.key.partition(".")[0] == ENV else None
        kind = override.group or NAMES.get(override.key) or inside
        if kind in {ENV, *NAMES.values()} - chosen:
            raise ConfigError(f"{override.typed}: alg.trainer={trainer} has no {kind}")


def _group_of(values: dict[str, Any], kind: str) -> dict[str, Any]:
    """The group in which the options of a component are."""
    return values if kind == ENV else values["alg"]


def _option_names(kind: str, name: str) -> set[str]:
    known = {option.name for option in dataclasses.fields(components.load(kind, name).Options)}
    return known | set(flat_hints(disturbances.Options)) if kind == ENV else known


def _classes(values: dict[str, Any]) -> list[tuple[Path, Any]]:
    """The options dataclasses at each place, the innermost ones first."""
    alg = values.get("alg") or {}
    trainer = load_trainer(str(alg.get("trainer", DEFAULT)))
    found: list[tuple[Path, Any]] = []
    for kind in trainer.COMPONENTS:
        place, group = ((ENV,), values) if kind == ENV else (("alg", kind), alg)
        found.append((place, components.load(kind, str((group.get(kind) or {}).get("name", ""))).Options))
        if kind == ENV:
            found.append((place, disturbances.Options))
    return [*found, (("general",), General), (("alg",), trainer.Options), (("wandb",), wandb_logger.Options)]


def _type_of(path: Path, classes: list[tuple[Path, Any]]) -> Any:
    if ".".join(path) in {TRAINER, *NAMES}:
        return str
    places = [place for place, _ in classes if path[: len(place)] == place][:1]
    hints = (type_at(cls, path[len(place) :]) for place, cls in classes if place in places)
    return next((hint for hint in hints if hint is not Unknown), Unknown)


def _known_keys(classes: list[tuple[Path, Any]]) -> Iterator[str]:
    def below(cls: Any, prefix: str) -> Iterator[str]:
        for name, hint in flat_hints(cls).items():
            if dataclasses.is_dataclass(hint):
                yield from below(hint, f"{prefix}{name}.")
            else:
                yield prefix + name

    yield TRAINER
    for place, cls in classes:
        yield from below(cls, ".".join(place) + ".")


def _refuse_known_names(override: Override, known_keys: Callable[[], Iterable[str]]) -> None:
    """Refuse a key of the predecessors, one of a component that is not chosen, and one without its group.

    All others are refused later.
    """
    if advice := successor(override.key):
        raise ConfigError(f"unknown key {override.key}, a name of the original PWM; here: {advice}")
    for place, kind in NAMES.items():
        group, _, option = override.key.rpartition(".")
        if group == place.removesuffix(".name") and (owners := _owners(kind, option)):
            raise ConfigError(
                f"{override.typed}: {override.key} is there for {' and '.join(owners)} only; "
                f"{kind}=NAME chooses another {kind}"
            )
    last = override.key.rpartition(".")[2]
    if same := [key for key in known_keys() if key.rpartition(".")[2] == last]:
        raise ConfigError(f"unknown key {override.key}; did you mean {' or '.join(same)}?")


def _owners(kind: str, option: str) -> list[str]:
    """Components of ``kind`` that have ``option``."""
    return [name for name in components.names(kind) if option in _option_names(kind, name)]


def _exclude(a: Path, value: Any, b: Path, other: Any) -> bool:
    """True if ``value`` at ``a`` leaves no room for ``other`` at ``b``: another value, or a key below one."""
    if a == b:
        # By their text, because 1 == True.
        return repr(value) != repr(other)
    if len(a) > len(b):
        a, value, b = b, other, a
    return b[: len(a)] == a and value != {}


def _several(key: str) -> str:
    """Return advice about a key that was given several values."""
    if key == "general.seed":
        how = SEEDS
    elif key == "env":
        how = "pwm experiment experiment=flow_vs_mlp 'tasks=[dflex_ant, dflex_hopper]'"
    else:
        how = f"pwm experiment with 'arms.a=[{key}=A]' 'arms.b=[{key}=B]', see docs/comparison.md"
    return f"a run has one value of each key; several of them are an experiment: {how}"


def _leaves(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for key, part in value.items():
        yield from _leaves((*path, key), part)


def _put(values: dict[str, Any], path: Path, value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    if not (value == {} and isinstance(values.get(path[-1]), dict)):
        values[path[-1]] = value


def _one_line(error: Exception) -> str:
    """Hydra's message on one line, without the search path it ends with."""
    message = str(error).split("Config search path")[0]
    return " ".join(line.strip() for line in message.splitlines() if line.strip())
