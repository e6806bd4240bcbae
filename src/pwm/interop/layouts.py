"""How each project names and orders what its world models consist of.

Networks are lists of layers ``<prefix>.<i>.{weight, bias, ln.weight, ln.bias}``; a layer with ``ln`` is a
normed layer. Our input order is [obs, e] for the encoder, [z, a, e] for dynamics and reward, [z, a, tau, e]
for the velocity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pwm.errors import CheckpointError

# Layers that are counted one by one.
ENTRY = re.compile(r"(_encoder\.state|_dynamics|_reward)\.((?:\d+\.)+)(weight|bias)")
TASK_EMBEDDING = "_task_emb.weight"
ACTION_MASKS = "_action_masks"


@dataclass(frozen=True)
class Source:
    """Layout of one project: everything in which it differs from the others.

    Attributes:
        encoder, dynamics: prefixes of the keys of these networks.
        flow: the dynamics is a velocity network, whose input has one entry more (flow time).
        task_first: dynamics and reward read [z, e, a] instead of [z, a, e].
        padded: without a task table, zeros may have been appended to every first layer's input.
        short_rows: rows of the task table are shortened to length 1 when they are looked up.
        obs_dim: width of observations, if it is the same for all tasks of the project.
        unused: keys that belong to the project's other networks, which need not have data.
    """

    encoder: str = "_encoder"
    dynamics: str = "_dynamics"
    flow: bool = False
    task_first: bool = False
    padded: bool = False
    short_rows: bool = True
    obs_dim: int | None = None
    unused: re.Pattern[str] | None = None


# Policy, value networks in all generations of their layout, the head that predicts terminations from a
# state, and the constants of the policy.
TDMPC2_REST = re.compile(
    rf"_(pi|termination|(target_|detach_)?Qs(_params)?)\..*|{ACTION_MASKS}|log_std_(min|dif)"
)
SOURCES = {
    "pwm": Source(task_first=True),
    "flow-mbpo": Source(dynamics="_velocity", flow=True, padded=True),
    "tdmpc2": Source(encoder="_encoder.state", task_first=True, unused=TDMPC2_REST),
    # Task embeddings come from a language model, of any length; with images their features follow them.
    "newt": Source(
        encoder="_encoder.state", task_first=True, short_rows=False, obs_dim=128, unused=TDMPC2_REST
    ),
}

# What stands beside a world model, and why it is left out; the first that fits counts.
REASONS = (
    (r"(actor|critic|world_model|wm|pi)_opt.*|.*optim.*", "state of an optimiser, a run starts a new one"),
    (r"_pi|.*actor.*|.*policy.*", "policy, a run starts with a new one"),
    (r".*critic.*|.*Qs.*|.*value.*", "value networks, a run starts with new ones"),
    (r"_termination", "predicts terminations from a state alone, ours from a transition"),
    (r"ret_rms", "statistics of the returns that the policy left out had"),
    (r"scale", "running scale of the values that are left out"),
    (r"log_std_.*", "bounds of the policy"),
    (ACTION_MASKS, "tells which actions a task has, used with --task"),
)


def reason(part: str) -> str:
    """Return the reason why the entry ``part`` is left out of an import."""
    return next((why for pattern, why in REASONS if re.fullmatch(pattern, part)), "no part of a world model")


def unfold(names: Mapping[str, Any]) -> dict[str, Any]:
    """Names of TD-MPC2's oldest single-task files as they would be today; all others stay as they are.

    Those count Linear, LayerNorm and activation one by one, the encoder after an entry without parameters,
    the dynamics in two levels: ``_dynamics.{0.0, 0.1, 0.3, 0.4, 0.6, 1}`` are the layers 0 to 2.

    Raises:
        CheckpointError: a LayerNorm does not stand right behind its Linear: the activation comes first.
    """
    entries = {name: m for name in names if (m := ENTRY.fullmatch(name))}
    places = sorted({_place(m) for m in entries.values()})
    norms = {place for place in places if getattr(names.get(_name(place)), "ndim", 2) == 1}
    if not norms:
        return dict(names)
    renamed: dict[tuple[str, tuple[int, ...]], str] = {}
    layers = {network: 0 for network, _ in places}
    for before, (network, index) in zip([("", ()), *places], places, strict=False):
        if (network, index) not in norms:
            layers[network] += 1
        elif before in norms or not _follows(before[1], index):
            raise CheckpointError(
                f"its activations stand before the LayerNorm {_name((network, index))}, ours behind"
            )
        suffix = ".ln" if (network, index) in norms else ""
        renamed[network, index] = f"{network}.{layers[network] - 1}{suffix}"
    found = {f"{renamed[_place(m)]}.{m[3]}": names[name] for name, m in entries.items()}
    return {name: value for name, value in names.items() if name not in entries} | found


def _place(entry: re.Match[str]) -> tuple[str, tuple[int, ...]]:
    return entry[1], tuple(int(i) for i in entry[2].split(".")[:-1])


def _name(place: tuple[str, tuple[int, ...]]) -> str:
    return ".".join([place[0], *map(str, place[1]), "weight"])


def _follows(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """True if nothing stands between two entries of nested lists of layers; ``before`` may lie deeper."""
    level = len(after) - 1
    return len(before) > level and before[:level] == after[:level] and before[level] + 1 == after[level]
