"""Options that are composed of parts, and the one level of keys under which people set them.

One trainer needs a world model, an objective and updates, another one some of these: each has an options
dataclass of its own, and the trainer's options hold them as parts. In files and on command lines the keys of
all parts stand beside the trainer's own (``alg.horizon=5``), so nobody has to know which part owns a key.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

# Metadata of a dataclass field that holds a part.
PART = {"part": True}
_HINTS: dict[type[Any], dict[str, Any]] = {}


def flat_hints(cls: type[Any]) -> dict[str, Any]:
    """Return the type of every key that a user of options ``cls`` can set, those of its parts included."""
    hints = _hints(cls)
    found: dict[str, Any] = {}
    for option in dataclasses.fields(cls):
        if _is_part(option):
            found |= flat_hints(hints[option.name])
        else:
            found[option.name] = hints[option.name]
    return found


def flat_values(options: Any) -> dict[str, Any]:
    """Return the values of all keys of ``options`` as plain dicts, lists and numbers."""
    return _flat(type(options), dataclasses.asdict(options))


def _flat(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    hints = _hints(cls)
    found: dict[str, Any] = {}
    for option in dataclasses.fields(cls):
        value = values[option.name]
        found |= _flat(hints[option.name], value) if _is_part(option) else {option.name: value}
    return found


def nested(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat ``values`` with those that belong to a part of ``cls`` moved into it."""
    hints, left = _hints(cls), dict(values)
    found: dict[str, Any] = {}
    for option in dataclasses.fields(cls):
        if _is_part(option):
            kind = hints[option.name]
            own = {key: left.pop(key) for key in flat_hints(kind) if key in left}
            found[option.name] = nested(kind, own)
    return found | left


def own_key(cls: type[Any], key: object) -> str:
    """Return the flat key of the dotted ``key`` of a composed value of options ``cls``."""
    first, _, rest = str(key or "").partition(".")
    hints = _hints(cls)
    inside = {option.name for option in dataclasses.fields(cls) if _is_part(option)}
    return own_key(hints[first], rest) if first in inside else str(key or "")


def _hints(cls: type[Any]) -> dict[str, Any]:
    """Types of the fields of ``cls``, read once; not to be changed."""
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _is_part(option: dataclasses.Field[Any]) -> bool:
    return PART.items() <= option.metadata.items()
