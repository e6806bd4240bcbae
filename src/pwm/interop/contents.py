"""What a checkpoint holds: named leaves, the world model among them, and words for the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pwm.errors import CheckpointError
from pwm.interop.pickles import Record, array

# Names that torch.compile, DistributedDataParallel, FSDP and activation checkpointing put between the parts
# of a name, wherever the wrapped module stands.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
NESTED = (Mapping, Record, list, tuple)
# Attributes of a network that was pickled whole.
NETWORK = {"_modules", "_parameters"}


@dataclass(frozen=True)
class Kind:
    """A kind of world model that names can show.

    Attributes:
        name: what it is called, in words.
        source: the value of ``--from`` that reads it; None if none does.
        mark: a name below the world model that only this kind has.
    """

    name: str
    source: str | None
    mark: re.Pattern[str]


# The first that fits counts: later ones are marked by less.
KINDS = (
    Kind("a checkpoint with spectral normalisation", None, re.compile(r".*\.parametrizations\.")),
    Kind("a Newt checkpoint", "newt", re.compile(r"_Qs\.(online|target)\._Qs\.")),
    Kind("a checkpoint of TD-MPC, the predecessor of TD-MPC2", None, re.compile(r"_Q[12]\.")),
    Kind("a TD-MPC2 checkpoint trained on images", None, re.compile(r"_encoder\.(rgb|pixels?)\.")),
    Kind("a TD-MPC2 checkpoint", "tdmpc2", re.compile(r"_encoder\.state\.")),
    Kind("a Flow-MBPO-PWM checkpoint", "flow-mbpo", re.compile(r"_velocity\.")),
    Kind("a PWM checkpoint", "pwm", re.compile(r"_encoder\.\d+\.")),
)
CORE = re.compile(r"((?:[^.]+\.)*?)(?:_encoder|_dynamics|_velocity)\.")


def flatten(content: Any) -> dict[str, Any]:
    """Leaves of nested containers by dotted name, without what wrappers put into the names.

    Attributes of records count as entries, except those of networks, which stay whole. A container that
    appears twice is listed once.

    Raises:
        CheckpointError: two leaves that differ have the same name.
    """
    leaves: dict[str, Any] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        name, value = waiting.pop()
        children = _children(value)
        if children is None:
            if name in leaves and not _equal(leaves[name], value):
                raise CheckpointError(f"it holds {name} twice, with and without the prefix of a wrapper")
            leaves[name] = value
        elif id(value) not in seen:
            seen.add(id(value))
            below = [(_join(name, key), child) for key, child in children]
            waiting += reversed(below)
    return leaves


def _children(value: Any) -> Iterator[tuple[str, Any]] | None:
    """Names and values of the entries of a container; None for a leaf."""
    if isinstance(value, Mapping):
        return ((str(k), _leaf(v)) for k, v in value.items())
    if isinstance(value, Record):
        if value.entries:
            return ((str(k), _leaf(v)) for k, v in value.entries.items())
        if value.attributes and not NETWORK & value.attributes.keys():
            return ((k, _leaf(v)) for k, v in value.attributes.items())
    elif isinstance(value, (list, tuple)) and any(isinstance(v, NESTED) for v in value):
        return ((str(i), _leaf(v)) for i, v in enumerate(value))
    return None


def _equal(a: Any, b: Any) -> bool:
    """True if two leaves are the same plain value, or tensors of the same values."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.shape == b.shape and a.device == b.device
        return same and (a.is_meta or torch.equal(a, b))
    return a is b or (isinstance(a, (int, float, str)) and a == b)


def _leaf(value: Any) -> Any:
    """A NumPy array or scalar as a tensor, everything else as it is."""
    values = array(value) if isinstance(value, Record) else None
    return value if values is None else values


def _join(name: str, key: str) -> str:
    parts = [part for part in key.split(".") if part not in WRAPPERS]
    return ".".join([name, *parts] if name else parts)


def below(leaves: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Leaves whose name begins with ``prefix``, which is removed."""
    return {name[len(prefix) :]: value for name, value in leaves.items() if name.startswith(prefix)}


def find_world_model(leaves: Mapping[str, Any], source: str, key: str | None, content: Any) -> str:
    """Prefix of the names of the world model that ``source`` wrote, with its last dot.

    Args:
        leaves: of the whole file.
        source: project, a key of ``layouts.SOURCES``.
        key: where to look, for files with several world models.
        content: the file before it was flattened, to say what it is if there is none.

    Raises:
        CheckpointError: there is none, or several, or one of another project; the message says which.
    """
    kinds: dict[str, Kind] = {}
    for prefix in dict.fromkeys(m[1] for m in map(CORE.match, leaves) if m):
        names = below(leaves, prefix)
        kind = next((kind for kind in KINDS if any(map(kind.mark.match, names))), None)
        if kind is not None:
            kinds[prefix] = kind
    if key is not None:
        chosen = {prefix: kind for prefix, kind in kinds.items() if prefix == f"{key.rstrip('.')}."}
        if not chosen:
            raise CheckpointError(
                f"it holds no world model called {key!r}; {_found(kinds) or 'there is none'}"
            )
        kinds = chosen
    fitting = [prefix for prefix, kind in kinds.items() if kind.source == source]
    if len(fitting) > 1:
        raise CheckpointError(f"it holds several world models; {_found(kinds)}: choose one with --key NAME")
    if fitting:
        return fitting[0]
    if not kinds:
        raise CheckpointError(f"it is no world model, but {describe(content, leaves)}")
    other = next(iter(kinds.values()))
    advice = f"; use --from {other.source}" if other.source else ", which cannot be imported"
    raise CheckpointError(f"it is {other.name}{advice}")


def _found(kinds: Mapping[str, Kind]) -> str:
    return ", ".join(
        f"{prefix.rstrip('.') or 'the file itself'} is {kind.name}" for prefix, kind in kinds.items()
    )


def describe(content: Any, leaves: Mapping[str, Any] | None = None) -> str:
    """Describe a value read from a file by a phrase that completes "it is ..."."""
    if isinstance(content, Tensor):
        return f"a single tensor of shape {list(content.shape)}"
    if isinstance(content, Record):
        return f"a pickled object of class {content.origin}"
    if isinstance(content, type) and issubclass(content, Record):
        return f"a reference to {content.origin}"
    if isinstance(content, (list, tuple, set, frozenset)):
        kinds = sorted(
            {describe(value) if isinstance(value, Record) else type(value).__name__ for value in content}
        )
        return f"a list of {len(content)} values ({', '.join(kinds[:3]) or 'empty'})"
    if not isinstance(content, Mapping):
        return f"a single value of type {type(content).__name__}"
    return _describe_mapping(content, flatten(content) if leaves is None else leaves)


def _describe_mapping(content: Mapping[Any, Any], leaves: Mapping[str, Any]) -> str:
    keys = {str(key) for key in content}
    if "format" in keys and str(content["format"]).startswith("flow-pwm/"):
        return f"a file of this project ({content['format']}), which needs no conversion"
    if keys >= {"state", "param_groups"}:
        return "the state of an optimiser"
    networks = [f"{name} ({v.origin})" for name, v in leaves.items() if _is_network(v)]
    if networks:
        return f"a file of networks pickled as objects, {', '.join(networks[:3])}; save their state_dict()"
    parts = {name.split(".")[0] for name in leaves}
    if "logstd" in parts or "mu_net" in parts:
        return "the state dict of a PWM actor"
    if keys and keys <= {f"params.{i}" for i in range(len(keys))}:
        return "the state dict of PWM's critics"
    tensors = [name for name, value in leaves.items() if isinstance(value, Tensor)]
    objects = [f"{name} is {describe(value)}" for name, value in leaves.items() if isinstance(value, Record)]
    shown = ", ".join(tensors[:3] or objects[:3] or sorted(keys)[:5]) or "empty"
    return (
        f"a file of {len(tensors)} tensors ({shown})"
        if tensors
        else f"a dictionary without tensors ({shown})"
    )


def _is_network(value: Any) -> bool:
    return isinstance(value, Record) and bool(NETWORK & value.attributes.keys())
