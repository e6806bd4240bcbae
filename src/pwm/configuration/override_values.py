"""Values of ``key=value`` overrides: what was typed, read as the type that the option has.

Text stays as it was typed where an option takes text, whatever it looks like: ``2024_05_01``, ``007``,
``1e5``, ``null``, paths with any character. Everywhere else this is a small language::

    true, 3, -0.5, 1e-3, null      plain values
    [a, b], {a: 1, b: [2, 3]}      lists and mappings; entries are separated by commas
    'a, b', "it's"                 quoted text, which is always text; a backslash makes a quote part of it
    ~/runs                         text that begins with ~ names a home folder, as in a shell

Quotes around a whole text value are removed, too, so that a value can be typed in both ways.
"""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Callable
from typing import Any

from pwm.errors import ConfigError

PLAIN = (bool, int, float)
NOTHING = type(None)
QUOTES = "'\""
CLOSING = {"[": "]", "{": "}"}
# Characters after which a quote opens; elsewhere it is an apostrophe.
BEFORE_QUOTE = " \t\n=:,[{"
INT = re.compile(r"[+-]?(0|[1-9]\d*)")
FLOAT = re.compile(r"[+-]?((0|[1-9]\d*)?\.\d+|(0|[1-9]\d*)\.|(0|[1-9]\d*)(?=[eE]))([eE][+-]?\d+)?")
WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "none": None}
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
# Several values at once, as Hydra's sweeps write them.
SWEEP = re.compile(r"(range|choice|interval|glob|shuffle|sort|tag)\(.*\)|.*,.*", re.DOTALL)


def parse_value(text: str, hint: Any = Any) -> Any:
    """The value of ``text`` for an option of type ``hint``.

    Numbers and truth values come back as they look or as text, which the option's own check converts or
    refuses.

    Raises:
        ConfigError: a list, a mapping or a quote is not complete; the message shows the right form.
    """
    kinds = members(hint)
    if str in kinds:
        # Nothing at all is the only text that cannot be meant as a name.
        return as_typed(text) or (None if NOTHING in kinds else "")
    kind = next((member for member in kinds if member is not NOTHING), Any)
    stripped = text.strip()
    if NOTHING in kinds and stripped.lower() in ("", "null", "none"):
        return None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return [parse_value(entry, arguments[0]) for entry in _entries(stripped, "[")]
    if origin is dict:
        return _mapping(stripped, arguments[1])
    if kind in PLAIN and stripped.lower() not in WORDS:
        return _unquote(stripped) if QUOTED.fullmatch(stripped) else stripped
    return _plain(stripped)


def members(hint: Any) -> tuple[Any, ...]:
    """The types that ``hint`` is a union of; itself where it is none."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def looks_like_sweep(text: str, hint: Any) -> bool:
    """True if ``text`` gives several values to an option of type ``hint``, which takes a single one."""
    return set(members(hint)) <= {*PLAIN, NOTHING} and SWEEP.fullmatch(text) is not None


def as_typed(text: str) -> str:
    """Text as it was typed, without quotes around the whole of it and with ``~`` as the home folder."""
    if QUOTED.fullmatch(text):
        return _unquote(text)
    return os.path.expanduser(text) if text.startswith("~") else text


def quote(text: str) -> str:
    """``text`` in quotes, which ``as_typed`` and the entries of lists and tasks are read back from."""
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text) + '"'


def split_words(text: str) -> list[str]:
    """The words of ``text``; spaces in quotes, lists and mappings separate none.

    Raises:
        ConfigError: a quote, a list or a mapping is not closed.
    """
    words = [word for word in _split(text, str.isspace) if word]
    return [_unquote(word) if QUOTED.fullmatch(word) else word for word in words]


def _unquote(text: str) -> str:
    """Without the quotes, and without half of the backslashes before a quote and at the end."""
    return re.sub(rf"(\\+)({text[0]}|$)", lambda m: m[1][: len(m[1]) // 2] + m[2], text[1:-1])


def _plain(text: str) -> Any:
    if QUOTED.fullmatch(text):
        return _unquote(text)
    if _closes_at_end(text, "["):
        return [_plain(entry) for entry in _entries(text, "[")]
    if _closes_at_end(text, "{"):
        return _mapping(text, Any)
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if INT.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else as_typed(text)


def _mapping(text: str, hint: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in _entries(text, "{"):
        key, *value = _split(entry, lambda character: character == ":", limit=1)
        if not value:
            raise ConfigError(f"{entry!r} in {text} has no value; write {_pair(entry)}")
        name = as_typed(key.strip())
        if not name:
            raise ConfigError(f"{entry!r} in {text} has no key; write {{key: value}}")
        if name in found:
            raise ConfigError(f"{name!r} is there twice in {text}")
        found[name] = parse_value(value[0].strip(), hint)
    return found


def _entries(text: str, opening: str) -> list[str]:
    """Return the text between the brackets of ``text``."""
    closing = CLOSING[opening]
    if len(text) < 2 or text[0] != opening or text[-1] != closing:
        inner = "" if text.lower() in ("", "null", "none") else text.strip(opening + closing)
        if opening == "{":
            raise ConfigError(f"{text!r} is no mapping; write {_pair(inner) if inner else '{}'}")
        if inner.startswith("(") and inner.endswith(")"):
            inner = inner[1:-1]
        raise ConfigError(f"{text!r} is no list; write [{inner}]")
    entries = [entry.strip() for entry in _split(text[1:-1], lambda character: character == ",")]
    if entries[-1] == "":
        entries.pop()
    if "" in entries:
        raise ConfigError(f"an entry of {text} is empty")
    return entries


def _pair(text: str) -> str:
    """Return ``text``, which may be ``key=value``, written as a mapping."""
    if ":" in text:
        return f"{{{text}}}"
    key, _, value = (part.strip() for part in text.partition("="))
    return f"{{{key if key.isidentifier() else 'key'}: {value or 'value'}}}"


def _closes_at_end(text: str, opening: str) -> bool:
    """True if ``text`` is one list or mapping from its first to its last character."""
    if len(text) < 2 or not text.startswith(opening) or not text.endswith(CLOSING[opening]):
        return False
    try:
        _split(text[1:-1], lambda _: False)
    except ConfigError:
        return False
    return True


def _split(text: str, separates: Callable[[str], bool], limit: int = -1) -> list[str]:
    """Parts of ``text`` between separators, at most ``limit``, outside of quotes, lists and mappings.

    A quote opens where a value can begin; an apostrophe inside a word is text.

    Raises:
        ConfigError: a quote or a bracket is not closed, or closes nothing.
    """
    parts, start, position, missing = [], 0, 0, ""
    while position < len(text):
        character = text[position]
        if character in QUOTES and (position == 0 or text[position - 1] in BEFORE_QUOTE):
            quoted = QUOTED.match(text, position)
            if quoted is None:
                raise ConfigError(f"the quote in {text[position:]!r} is not closed")
            position = quoted.end()
            continue
        if character in CLOSING:
            missing = CLOSING[character] + missing
        elif character in CLOSING.values():
            if not missing.startswith(character):
                raise ConfigError(f"{text!r}: {character!r} closes nothing; put text that holds it in quotes")
            missing = missing[1:]
        elif not missing and limit and separates(character):
            parts.append(text[start:position])
            start, limit = position + 1, limit - 1
        position += 1
    if missing:
        raise ConfigError(f"{text!r}: {missing!r} is missing; put text with brackets in quotes")
    return [*parts, text[start:]]
