"""From named weights to our sizes and our state dict; every name is accounted for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pwm import components
from pwm.checkpoints.world_model_file import Sizes
from pwm.errors import CheckpointError, ConfigError
from pwm.interop.layouts import ACTION_MASKS, SOURCES, TASK_EMBEDDING, Source
from pwm.models import scalar_heads
from pwm.models.world_model import Options


class KnownSizes(NamedTuple):
    """Sizes that no shape shows: group size of SimNorm, and the range of the reward bins."""

    simnorm_dim: int
    vmin: float | None
    vmax: float | None


@dataclass
class Network:
    """A list of layers found in a state dict.

    Attributes:
        layers: keys of each layer, from our suffix (``linear.weight``, ..., the weight first) to theirs.
        widths: input width and the output width of every layer; 0 where the weight is unusable.
        normed_head: the last layer is a normed layer.
    """

    layers: list[dict[str, str]] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    normed_head: bool = False


def translate(names: Mapping[str, Any], source: str, given: KnownSizes) -> tuple[Sizes, dict[str, Tensor]]:
    """Sizes and our state dict of the world model ``names`` that ``source`` wrote.

    Raises:
        CheckpointError: keys are missing, unexpected, of a wrong shape or not finite; it lists all of them.
        ConfigError: ``given`` does not fit the model.
    """
    layout = SOURCES[source]
    problems: list[str] = []
    state = _weights(names, layout, problems)
    networks = {
        "encoder": _network(state, layout.encoder, True, problems),
        "dynamics.net": _network(state, layout.dynamics, None if layout.flow else True, problems),
        "reward_net": _network(state, "_reward", False, problems),
    }
    keys = {
        f"{prefix}.{i}.{suffix}": key
        for prefix, net in networks.items()
        for i, layer in enumerate(net.layers)
        for suffix, key in layer.items()
    }
    n_tasks, task_dim = 0, 0
    if TASK_EMBEDDING in state:
        keys["task_embedding.weight"] = TASK_EMBEDDING
        if state[TASK_EMBEDDING].dim() == 2 and state[TASK_EMBEDDING].numel():
            n_tasks, task_dim = state[TASK_EMBEDDING].shape
        else:
            problems.append(f"wrong shape: {TASK_EMBEDDING}, expected [n_tasks, task_dim]")
    elif ACTION_MASKS in names and source == "tdmpc2":  # Only multi-task models have them.
        problems.append(f"missing: {TASK_EMBEDDING}")
    problems += [f"missing: {key}" for key in keys.values() if key not in names]
    problems += [f"unexpected: {key}" for key in sorted(set(state) - set(keys.values()))]
    problems += _disagreements(layout, task_dim, networks.values())
    if problems:
        raise CheckpointError(f"not a complete {source} world model: {'; '.join(problems)}")
    sizes = _sizes(layout, n_tasks, task_dim, given, networks.values())
    ours = {key: state[foreign].float() for key, foreign in keys.items()}
    if layout.task_first and task_dim:
        for prefix in ("dynamics.net", "reward_net"):
            key = f"{prefix}.0.{next(iter(networks[prefix].layers[0]))}"
            z, e, a = ours[key].split((sizes.world_model.latent_dim, task_dim, sizes.act_dim), dim=1)
            ours[key] = torch.cat((z, a, e), dim=1)
    return sizes, ours


def is_metadata(name: str, value: Any) -> bool:
    """True if a leaf among weights is none of them: a plain value whose name has no leading underscore."""
    return not name.startswith("_") and not (isinstance(value, Tensor) and value.ndim)


def _weights(names: Mapping[str, Any], layout: Source, problems: list[str]) -> dict[str, Tensor]:
    """Return those of ``names`` that can be weights of the world model."""
    state = {}
    for key, value in names.items():
        if (layout.unused is not None and layout.unused.fullmatch(key)) or is_metadata(key, value):
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_meta:
            problems.append(f"not a floating-point tensor with data: {key}")
        elif not torch.isfinite(value).all():
            problems.append(f"not finite: {key}")
            # Its shape still tells the sizes, so that no further problem is made of it.
            state[key] = value
        else:
            state[key] = value
    return state


def _network(state: Mapping[str, Tensor], prefix: str, normed: bool | None, problems: list[str]) -> Network:
    """Find the layers below ``prefix``; ``normed`` says whether the last one is (None: as found)."""
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.(ln\.)?(weight|bias)")
    found = {(int(m[1]), bool(m[2])) for m in map(pattern.fullmatch, state) if m}
    count = max(len({index for index, _ in found}), 1)
    if normed is None:
        normed = (count - 1, True) in found
    elif not normed and (count - 1, True) in found:
        count += 1  # The head itself is missing.
    net = Network(normed_head=normed)
    width = 0
    for i in range(count):
        suffixes = {"weight": "weight", "bias": "bias"}
        if normed or i < count - 1:
            suffixes = {"linear.weight": "weight", "linear.bias": "bias"}
            suffixes |= {"norm.weight": "ln.weight", "norm.bias": "ln.bias"}
        layer = {ours: f"{prefix}.{i}.{suffix}" for ours, suffix in suffixes.items()}
        net.layers.append(layer)
        weight, *vectors = layer.values()
        shape = state[weight].shape if weight in state else torch.Size((0, 0))
        if weight in state and (len(shape) != 2 or 0 in shape or (width and shape[1] != width)):
            problems.append(f"wrong shape: {weight} {list(shape)}, expected [out, {width or 'in'}]")
            shape = torch.Size((0, 0))
        if i == 0:
            net.widths.append(shape[1])
        width = shape[0]
        net.widths.append(width)
        for key in vectors:
            if width and key in state and state[key].shape != (width,):
                problems.append(f"wrong shape: {key} {list(state[key].shape)}, expected [{width}]")
    return net


def _disagreements(layout: Source, task_dim: int, networks: Iterable[Network]) -> list[str]:
    """Return the contradictions between the known widths of the networks, one sentence each."""
    encoder, dynamics, reward = networks
    ends = (encoder.widths[0], encoder.widths[-1], dynamics.widths[0], dynamics.widths[-1], reward.widths[0])
    if 0 in ends:
        return []
    observed, latent, read, given, rewarded = ends
    found = []
    if observed <= task_dim:
        found.append(f"wrong shape: {layout.encoder} reads {observed}, no more than task_dim {task_dim}")
    if layout.obs_dim is not None and observed - task_dim > layout.obs_dim:
        found.append(
            f"{layout.encoder} reads {observed - task_dim} values beside the task, more than the "
            f"{layout.obs_dim} of states: it was trained on images"
        )
    if given != latent:
        found.append(f"wrong shape: {layout.dynamics} gives {given}, but the latent has {latent}")
    if read - latent - task_dim - layout.flow < 1:
        found.append(f"wrong shape: {layout.dynamics} reads {read}, which leaves no action")
    if rewarded != read - layout.flow:
        found.append(f"wrong shape: _reward reads {rewarded}, expected {read - layout.flow}")
    return found


def _sizes(
    layout: Source, n_tasks: int, task_dim: int, given: KnownSizes, networks: Iterable[Network]
) -> Sizes:
    encoder, dynamics, reward = networks
    latent, bins = encoder.widths[-1], reward.widths[-1]
    if given.simnorm_dim < 2 or latent % given.simnorm_dim:
        raise ConfigError(
            f"the latent of width {latent} cannot be cut into groups of simnorm_dim={given.simnorm_dim}; "
            "give the group size of SimNorm that the model was trained with"
        )
    head = scalar_heads.Options("regression")
    if bins > 1:
        if given.vmin is None or given.vmax is None:
            raise ConfigError(f"the reward head has {bins} bins: pass their range as vmin and vmax")
        head = scalar_heads.Options("two_hot", bins, given.vmin, given.vmax)
    units, widths = encoder.widths[1:-1], reward.widths[1:-1]
    options = components.load("dynamics", "flow" if layout.flow else "mlp").Options(
        units=dynamics.widths[1:-1]
    )
    if layout.flow:
        options.velocity_head = "simnorm" if dynamics.normed_head else "linear"
        options.integrator = "heun"  # the fork's default, with one substep
    no_extras: dict[str, Any] = {"obs_rms": False, "predict_termination": False}
    return Sizes(
        world_model=Options(
            latent, given.simnorm_dim, units, widths, task_dim, reward_head=head, **no_extras
        ),
        dynamics=options,
        obs_dim=encoder.widths[0] - task_dim,
        act_dim=dynamics.widths[0] - latent - task_dim - layout.flow,
        n_tasks=n_tasks,
        padded=layout.padded and n_tasks == 0,
    )
