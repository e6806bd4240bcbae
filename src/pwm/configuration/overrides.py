"""Overrides as they are typed: ``key=value``, for ``pwm train``, ``experiment`` and ``parity`` alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from pwm.configuration.override_values import WORDS, as_typed
from pwm.configuration.predecessor_keys import ALIASES, USE_FLOW, hydra_advice
from pwm.errors import ConfigError

GROUPS = ("env", "alg", "dynamics@alg.dynamics", "actor@alg.actor")
# Groups of keys that also take a preset's name, which chooses it.
PLACES = {"general": "env", "alg.dynamics": "dynamics", "alg.actor": "actor"}
# Names of components. They choose the preset of that name, where there is one.
NAMES = {"env.name": "env", "alg.dynamics.name": "dynamics", "alg.actor.name": "actor"}
SEEDS = "pwm experiment experiment=flow_vs_mlp seeds=[1,2,3]"
# Options of Hydra's own command line, and what does their work here.
HYDRA_OPTIONS = {
    ("-m", "--multirun"): f"several seeds, tasks or algorithms are an experiment: {SEEDS}",
    ("-cn", "--config-name", "-cp", "--config-path", "-cd", "--config-dir"): (
        "presets are chosen by env=NAME and alg=NAME; their files are in pwm/configs"
    ),
    ("-c", "--cfg", "--resolve", "-i", "--info"): "`pwm train --print-config ...` prints the configuration",
}


@dataclass(frozen=True)
class Override:
    """One ``key=value``.

    Attributes:
        key: dotted, ours.
        text: value as typed.
        typed: the whole as typed.
    """

    key: str
    text: str
    typed: str

    def __str__(self) -> str:
        return f"{self.key}={self.text}"

    @property
    def group(self) -> str | None:
        """Name of the group whose preset it chooses: ``env``, ``alg``, ``dynamics`` or ``actor``."""
        return self.key.partition("@")[0] if self.key in GROUPS else None


def parse_override(typed: str, following: Sequence[str] = ()) -> Override:
    """Key and value of ``key=value``; names of the predecessors become ours.

    Args:
        typed: the override.
        following: what was typed after it, in case the value stands there.

    Raises:
        ConfigError: it is something else, or a setting of Hydra's own.
    """
    if typed.startswith("-"):
        raise ConfigError(option_advice(typed, following))
    key, equals, text = typed.partition("=")
    key = key.strip().lstrip("+")
    if not equals or "" in key.split("."):
        value = next((word for word in following if word != "="), "")
        example = f"{key}={value}" if key and value and "=" not in value else "key=value, e.g. general.seed=1"
        raise ConfigError(f"{typed!r} is not an override; write {example}")
    try:
        typed.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{typed!r} holds bytes that are no text (UTF-8)") from error
    if key.startswith("~"):
        raise ConfigError(f"{typed}: no key can be taken away; give it another value, or null")
    if key.split(".")[0].split("/")[0] == "hydra":
        raise ConfigError(f"{typed}: {hydra_advice(key)}")
    if key == USE_FLOW:
        return Override("dynamics@alg.dynamics", _dynamics(typed, text), typed)
    named = NAMES.get(key, "")
    if key in PLACES and not text.lstrip().startswith("{"):
        key = PLACES[key]
    elif named and as_typed(text) in preset_names(named):
        key = named
    return Override(ALIASES.get(key, key), text, typed)


def parse_overrides(typed: Iterable[str]) -> list[Override]:
    """All of them, in their order.

    Raises:
        ConfigError: one is no override, or two of them give one key two values.
    """
    found: dict[str, Override] = {}
    words = list(typed)
    for number, word in enumerate(words, start=1):
        override = parse_override(word, words[number:])
        before = found.setdefault(override.key, override)
        if as_typed(before.text) != as_typed(override.text):
            raise ConfigError(contradiction(before.typed, override.typed))
    return list(found.values())


def last_of_each(typed: Iterable[str]) -> list[str]:
    """The overrides that count where later ones replace earlier ones: of one key the last, at its place."""
    kept: dict[str, str] = {}
    for override in typed:
        key = parse_override(override).key
        kept.pop(key, None)
        kept[key] = override
    return list(kept.values())


def contradiction(one: str, other: str) -> str:
    """Message about two overrides, as typed, of which only one can count."""
    return f"{one} and {other} contradict each other; give one of them"


def preset_names(group: str) -> list[str]:
    """Names that ``group=NAME`` can choose."""
    folder = resources.files("pwm.configs").joinpath(group)
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def option_advice(option: str, following: Sequence[str] = ()) -> str:
    """Return advice on ``option``, which begins with ``-`` and is none of the command's own.

    Args:
        option: as typed.
        following: what was typed after it.
    """
    name, equals, value = option.partition("=")
    for names, advice in HYDRA_OPTIONS.items():
        if name in names:
            return f"{option} is an option of Hydra; {advice}"
    key = name.lstrip("-")
    if not equals and following and not following[0].startswith("-") and "=" not in following[0]:
        equals, value = "=", following[0]
        option = f"{option} {value}"
    example = f"{key}={value}" if equals and key else "key=value"
    return f"{option}: overrides are written without dashes: {example}"


def _dynamics(typed: str, text: str) -> str:
    chosen = WORDS.get(as_typed(text).strip().lower())
    if chosen is None:
        raise ConfigError(f"{typed}; write true for flow dynamics or false for an MLP")
    return "flow" if chosen else "mlp"
