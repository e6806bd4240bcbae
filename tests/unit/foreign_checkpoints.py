"""World models as other projects save them, with random weights, and what their networks compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SIMNORM = 8


class RunningMeanStd:
    """Statistics as PWM keeps them: attributes of an object, which ``torch.save`` pickles with its class."""

    def __init__(self, mean: Any, var: Any, count: Any) -> None:
        self.shape = tuple(getattr(mean, "shape", ()))
        self.mean, self.var, self.count = mean, var, count


def statistics(width: int, seed: int = 0) -> RunningMeanStd:
    """Random statistics of ``width`` entries."""
    generator = torch.Generator().manual_seed(seed)
    mean, var = torch.randn(width, generator=generator), 1 + 3 * torch.rand(width, generator=generator)
    return RunningMeanStd(mean, var, 1234.0001)


def network(
    prefix: str, widths: list[int], normed_head: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    """Layers ``<prefix>.<i>`` between ``widths``; all but perhaps the last one have a LayerNorm."""
    state = {}
    for i in range(len(widths) - 1):
        shape = widths[i + 1], widths[i]
        state[f"{prefix}.{i}.weight"] = torch.randn(shape, generator=generator) / widths[i] ** 0.5
        state[f"{prefix}.{i}.bias"] = 0.3 * torch.randn(widths[i + 1], generator=generator)
        if normed_head or i < len(widths) - 2:
            state[f"{prefix}.{i}.ln.weight"] = 1 + 0.3 * torch.randn(widths[i + 1], generator=generator)
            state[f"{prefix}.{i}.ln.bias"] = 0.3 * torch.randn(widths[i + 1], generator=generator)
    return state


def world_model(
    source: str = "pwm",
    obs: int = 11,
    act: int = 3,
    latent: int = 16,
    width: int = 16,
    bins: int = 1,
    tasks: int = 0,
    task_dim: int = 0,
    padding: int = 0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """State dict of a world model of ``source``; TD-MPC2 and Newt bring policy and value networks.

    ``padding`` zeros are appended to the inputs of all first layers, as Flow-MBPO-PWM may do.
    """
    g = torch.Generator().manual_seed(seed)
    encoder = "_encoder.state" if source in ("tdmpc2", "newt") else "_encoder"
    extra = task_dim + padding
    read = latent + act + extra
    state = network(encoder, [obs + extra, width, latent], True, g)
    if source == "flow-mbpo":
        state |= network("_velocity", [read + 1, width, latent], False, g)
    else:
        state |= network("_dynamics", [read, width, latent], True, g)
    state |= network("_reward", [read, width, bins], False, g)
    if tasks:
        state["_task_emb.weight"] = torch.randn(tasks, task_dim, generator=g)
    if source not in ("tdmpc2", "newt"):
        return state
    state |= network("_pi", [latent + task_dim, width, 2 * act], False, g)
    state |= {"log_std_min": torch.tensor(-10), "log_std_dif": torch.tensor(12)}
    if tasks:
        state["_action_masks"] = (torch.arange(act) < 1 + torch.arange(tasks)[:, None] % act).float()
    heads = network("", [read, width, bins], False, g)
    for group in ("online", "target") if source == "newt" else ("_Qs.params", "_detach_Qs_params"):
        for name, value in heads.items():
            if source == "newt":
                state |= {f"_Qs.{group}._Qs.{i}{name}": value for i in range(2)}
            else:
                state[group + name] = torch.stack((value, value))
    return state


def unfolded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """TD-MPC2's oldest names of a model with two layers per network: every part of a layer is counted."""
    places = {
        "_encoder.state": {"0": "1", "0.ln": "2", "1": "4", "1.ln": "5"},
        "_dynamics": {"0": "0.0", "0.ln": "0.1", "1": "0.3", "1.ln": "1"},
        "_reward": {"0": "0", "0.ln": "1", "1": "3"},
        "_pi": {"0": "0", "0.ln": "1", "1": "3"},
    }
    renamed = {}
    for name, value in state.items():
        network = next((n for n in places if name.startswith(f"{n}.")), None)
        if network is not None:
            place, part = name.removeprefix(f"{network}.").rsplit(".", 1)
            name = f"{network}.{places[network][place]}.{part}"
        renamed[name] = value
    return renamed


def forward(state: Mapping[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    """What the network ``prefix`` makes of ``x`` [..., D]; a last layer with LayerNorm ends in SimNorm."""
    i = 0
    while (weight := state.get(f"{prefix}.{i}.weight")) is not None:
        x = F.linear(x, weight, state[f"{prefix}.{i}.bias"])
        norm = state.get(f"{prefix}.{i}.ln.weight")
        if norm is not None:
            x = F.layer_norm(x, (len(weight),), norm, state[f"{prefix}.{i}.ln.bias"])
            if f"{prefix}.{i + 1}.weight" in state:
                x = F.mish(x)
            else:
                x = torch.softmax(x.unflatten(-1, (-1, SIMNORM)), -1).flatten(-2)
        i += 1
    return x


def outputs(
    state: Mapping[str, Tensor], obs: Tensor, act: Tensor, task: int | None = None, shorten: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Latent, next latent and raw reward of PWM, TD-MPC2 or Newt for ``obs`` [B, O] and ``act`` [B, A]."""
    encoder = "_encoder.state" if "_encoder.state.0.weight" in state else "_encoder"
    e = obs[:, :0]
    if task is not None:
        row = state["_task_emb.weight"][task]
        e = (row / row.norm().clamp(min=1.0) if shorten else row).expand(len(obs), -1)
    z = forward(state, encoder, torch.cat((obs, e), -1))
    x = torch.cat((z, e, act), -1)
    return z, forward(state, "_dynamics", x), forward(state, "_reward", x)
