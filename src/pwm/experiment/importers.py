"""World models of other projects, read into ours.

Networks of the references are lists of layers ``<prefix>.<i>.{weight, bias, ln.weight, ln.bias}``; a
layer with ``ln`` is a normed layer. Sizes follow from the shapes. Our input order is [obs, e] for the
encoder, [z, a, e] for dynamics and reward, [z, a, tau, e] for the velocity.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pwm import components
from pwm.errors import CheckpointError, ConfigError
from pwm.experiment import checkpoints
from pwm.models import scalar_heads
from pwm.models.flow_world_model import FlowWorldModel
from pwm.models.world_model import Options, WorldModel, build_world_model

FORMAT = "flow-pwm/world-model"
OWN = "flow-pwm"
TASK_EMBEDDING = "_task_emb.weight"


@dataclass(frozen=True)
class Source:
    """What differs between the projects.

    Attributes:
        encoder, dynamics: prefixes of the keys of these networks.
        flow: the dynamics is a velocity network, whose input has one entry more (flow time).
        task_first: dynamics and reward read [z, e, a] instead of [z, a, e].
        padded: without a task table, zeros may have been appended to every first layer's input.
        unused: keys that belong to the project's other networks.
    """

    encoder: str = "_encoder"
    dynamics: str = "_dynamics"
    flow: bool = False
    task_first: bool = False
    padded: bool = False
    unused: re.Pattern[str] | None = None


SOURCES = {
    "pwm": Source(task_first=True),
    "flow-mbpo": Source(dynamics="_velocity", flow=True, padded=True),
    "tdmpc2": Source(
        encoder="_encoder.state",
        task_first=True,
        # Policy, Q ensembles in three generations of layout (their size and device entries are no
        # tensors, their `module` entries have no data), and the constants of the policy.
        unused=re.compile(
            r"_pi\.\d+\.(ln\.)?(weight|bias)"
            r"|_(target_|detach_)?Qs(\.params|_params|\.module)\."
            r"(\d+(\.(ln\.)?(weight|bias))?|__batch_size|__device)"
            r"|_action_masks|log_std_min|log_std_dif"
        ),
    ),
}


class Given(NamedTuple):
    """What no shape shows: group size of SimNorm, and the range of the reward bins."""

    simnorm_dim: int
    vmin: float | None
    vmax: float | None


@dataclass
class Sizes:
    """Everything that ``build`` needs.

    Attributes:
        world_model: sizes of encoder, reward network and task embedding.
        dynamics: ``Options`` of a dynamics component.
        obs_dim, act_dim: widths of observations and actions; of a padded model including the padding.
        n_tasks: rows of the task table; 0 without one.
        padded: first layers accept narrower inputs and append zeros.
    """

    world_model: Options
    dynamics: Any
    obs_dim: int
    act_dim: int
    n_tasks: int = 0
    padded: bool = False

    def build(self) -> WorldModel:
        """Return a model of these sizes in evaluation mode; leaves torch's random state as it was."""
        with torch.random.fork_rng(devices=[]):
            model = build_world_model(
                self.world_model, self.dynamics, self.obs_dim, self.act_dim, self.n_tasks
            )
        if self.padded:
            padding = ZeroPadding()
            for net in (model.encoder, model.dynamics, model.reward_net):
                first = next(m for m in net.modules() if isinstance(m, nn.Linear))
                first.register_forward_pre_hook(padding)
        return model.eval()


class ZeroPadding:
    """Forward pre-hook of Linear layers: appends zeros until the input is as wide as the layer.

    How many is not recorded in the weights. The first input decides; since every first layer was widened
    by the same number, an input that would need another one is an error.
    """

    def __init__(self) -> None:
        self.width: int | None = None

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Pad ``args[0]`` [..., D]; ValueError where D does not fit."""
        assert isinstance(layer, nn.Linear)
        (x,) = args
        width = layer.in_features - x.shape[-1]
        if width < 0 or self.width not in (None, width):
            raise ValueError(
                f"input of width {x.shape[-1]} for a layer of width {layer.in_features}, "
                f"of which {'any' if self.width is None else self.width} may be padding"
            )
        self.width = width
        return (nn.functional.pad(x, (0, width)),)


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


def load_world_model(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    source: str = "pwm",
    simnorm_dim: int = 8,
    vmin: float | None = -10.0,
    vmax: float | None = 10.0,
) -> WorldModel | FlowWorldModel:
    """Return a world model in evaluation mode that holds foreign weights.

    Args:
        path_or_state_dict: a state dict, or a ``.pt`` or ``.safetensors`` file with one; TD-MPC2's
            ``{"model": state_dict}`` is unwrapped. For ``flow-pwm`` a file written by ``convert``.
        source: ``pwm``, ``flow-mbpo``, ``tdmpc2`` or ``flow-pwm``.
        simnorm_dim: group size of SimNorm, which no shape shows.
        vmin, vmax: range of the reward bins in symlog space; not read by models without bins.
            ``flow-pwm`` files record all three, so that they are not read here.

    A missing task table cannot be told from a single-task model with wider inputs, unless TD-MPC2's
    action masks are there.

    Raises:
        CheckpointError: the file is missing or unreadable, or keys are missing, unexpected or of a wrong
            shape; the message lists all of them.
        ConfigError: unknown source, or ``simnorm_dim``, ``vmin``, ``vmax`` do not fit the model.
    """
    return _load(_content(path_or_state_dict, source), source, Given(simnorm_dim, vmin, vmax))[1]


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    source: str,
    simnorm_dim: int = 8,
    vmin: float | None = -10.0,
    vmax: float | None = 10.0,
) -> None:
    """Write the foreign world model ``src`` to ``dst`` in our own format; arguments as ``load_world_model``.

    ``dst`` appears complete or not at all.

    Raises:
        CheckpointError: ``dst`` exists already, or ``src`` cannot be loaded.
    """
    target = Path(dst)
    if target.exists():
        raise CheckpointError(f"{target} exists already")
    sizes, model = _load(_content(src, source), source, Given(simnorm_dim, vmin, vmax))
    checkpoints.save(target, FORMAT, {"sizes": asdict(sizes), "state_dict": dict(model.state_dict())})


def _load(content: Mapping[str, Any], source: str, given: Given) -> tuple[Sizes, WorldModel]:
    if source == OWN:
        sizes, state = _parse_own(content)
    elif source in SOURCES:
        sizes, state = _parse_foreign(content, source, given)
    else:
        raise ConfigError(f"unknown source {source!r}; choose one of: {', '.join((*SOURCES, OWN))}")
    model = sizes.build()
    problems = _differences(model.state_dict(), state)
    if problems:
        raise CheckpointError(f"not a complete {source} world model: {'; '.join(problems)}")
    model.load_state_dict(state)
    if source != OWN:
        # The references rescale rows of the task table when they look them up; ours are kept short
        # instead. Files of our own are short already, and rounding must not move them a second time.
        model.project()
    return sizes, model


def _content(origin: str | os.PathLike[str] | Mapping[str, Any], source: str) -> Mapping[str, Any]:
    if isinstance(origin, Mapping):
        return origin
    path = Path(origin)
    if source == OWN:
        return checkpoints.load(path, FORMAT)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is no file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        EOFError,
        KeyError,
        RuntimeError,
        ValueError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def _parse_own(content: Mapping[str, Any]) -> tuple[Sizes, Mapping[str, Tensor]]:
    try:
        sizes = dict(content["sizes"])
        model, dynamics = dict(sizes["world_model"]), sizes["dynamics"]
        model["reward_head"] = scalar_heads.Options(**model["reward_head"])
        sizes["world_model"] = Options(**model)
        sizes["dynamics"] = components.load("dynamics", dynamics["name"]).Options(**dynamics)
        return Sizes(**sizes), content["state_dict"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"damaged sizes in the world-model file: {error!r}") from error


def _parse_foreign(content: Mapping[str, Any], source: str, given: Given) -> tuple[Sizes, dict[str, Tensor]]:
    """Sizes and our state dict, or CheckpointError with everything that is wrong."""
    layout = SOURCES[source]
    if list(content) == ["model"] and isinstance(content["model"], Mapping):
        content = content["model"]
    problems: list[str] = []
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if layout.unused is not None and layout.unused.fullmatch(str(key)):
            continue
        if isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta:
            state[str(key)] = value
        else:
            problems.append(f"not a floating-point tensor with data: {key}")
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
    elif "_action_masks" in content:  # Only multi-task models have them.
        problems.append(f"missing: {TASK_EMBEDDING}")
    problems += [f"missing: {key}" for key in keys.values() if key not in content]
    problems += [f"unexpected: {key}" for key in sorted(set(state) - set(keys.values()))]
    problems += _disagreements(layout, task_dim, networks.values())
    if problems:
        raise CheckpointError(f"not a complete {source} world model: {'; '.join(problems)}")
    sizes = _sizes(layout, n_tasks, task_dim, given, networks.values())
    ours = {key: state[foreign] for key, foreign in keys.items()}
    if layout.task_first and task_dim:
        for prefix in ("dynamics.net", "reward_net"):
            key = f"{prefix}.0.{next(iter(networks[prefix].layers[0]))}"
            z, e, a = ours[key].split((sizes.world_model.latent_dim, task_dim, sizes.act_dim), dim=1)
            ours[key] = torch.cat((z, a, e), dim=1)
    return sizes, ours


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
    """What the widths of the networks contradict each other in, as far as they are known."""
    encoder, dynamics, reward = networks
    ends = (encoder.widths[0], encoder.widths[-1], dynamics.widths[0], dynamics.widths[-1], reward.widths[0])
    if 0 in ends:
        return []
    observed, latent, read, given, rewarded = ends
    found = []
    if observed <= task_dim:
        found.append(f"wrong shape: {layout.encoder} reads {observed}, no more than task_dim {task_dim}")
    if given != latent:
        found.append(f"wrong shape: {layout.dynamics} gives {given}, but the latent has {latent}")
    if read - latent - task_dim - layout.flow < 1:
        found.append(f"wrong shape: {layout.dynamics} reads {read}, which leaves no action")
    if rewarded != read - layout.flow:
        found.append(f"wrong shape: _reward reads {rewarded}, expected {read - layout.flow}")
    return found


def _sizes(layout: Source, n_tasks: int, task_dim: int, given: Given, networks: Iterable[Network]) -> Sizes:
    encoder, dynamics, reward = networks
    latent, bins = encoder.widths[-1], reward.widths[-1]
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


def _differences(expected: Mapping[str, Tensor], given: Mapping[str, Any]) -> list[str]:
    """Missing, unexpected and mis-shaped keys of ``given``."""
    found = [f"missing: {key}" for key in sorted(set(expected) - set(given))]
    found += [f"unexpected: {key}" for key in sorted(set(given) - set(expected))]
    for key in sorted(set(expected) & set(given)):
        if not isinstance(given[key], Tensor) or given[key].shape != expected[key].shape:
            shape = list(getattr(given[key], "shape", ["no tensor"]))
            found.append(f"wrong shape: {key} {shape}, expected {list(expected[key].shape)}")
    return found
