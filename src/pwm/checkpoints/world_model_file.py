"""World models in files of their own: weights, sizes, and the statistics of the rewards they were trained on.

``pwm convert`` writes them; a run starts from one with ``general.checkpoint``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pwm import components
from pwm.checkpoints import storage
from pwm.errors import CheckpointError, ConfigError
from pwm.models import scalar_heads
from pwm.models.world_model import Options, WorldModel, build_world_model

FORMAT = "flow-pwm/world-model"
# Options of dynamics that say how they are trained or integrated, not what their weights mean.
FREE = {"name", "tau_sampling", "flow_source", "integrator", "substeps"}


@dataclass
class Sizes:
    """Everything that ``build`` needs.

    Attributes:
        world_model: sizes of encoder, reward network and task embedding.
        dynamics: ``Options`` of a dynamics component.
        obs_dim, act_dim: widths of observations and actions; of a padded model including the padding.
        n_tasks: rows of the task table; 0 without one.
        tasks: their names, where the file says so.
        padded: first layers accept narrower inputs and append the same number of zeros to each.
        padded_obs, padded_act: the last entries of observations or actions may have been 0 throughout
            training, to fill them up to the width of the widest task.
    """

    world_model: Options
    dynamics: Any
    obs_dim: int
    act_dim: int
    n_tasks: int = 0
    tasks: tuple[str, ...] = ()
    padded: bool = False
    padded_obs: bool = False
    padded_act: bool = False

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

    def action_columns(self) -> dict[str, int]:
        """First column that reads actions in the first layers that do, by network (see ``first_layers``)."""
        with torch.device("meta"):
            model = build_world_model(
                self.world_model, self.dynamics, self.obs_dim, self.act_dim, self.n_tasks
            )
        behind_latents = dict.fromkeys(("reward_net", "termination_net"), model.latent_dim)
        return {"dynamics": model.dynamics.action_column} | behind_latents

    def of_one_task(self) -> Options:
        """Sizes of the model of one task: without a table; observations as latents keep the width of all."""
        model = replace(self.world_model, task_dim=0)
        if self.n_tasks and model.latents == "observations":
            model = replace(model, padded_obs_dim=self.obs_dim)
        return model

    def settings(self) -> dict[str, Any]:
        """Configuration keys of a run of one task whose world model is one like this, and their values."""
        skipped = {"reward_head", "task_dim", "predict_termination", "termination_units"}
        found = {k: v for k, v in asdict(self.of_one_task()).items() if k not in skipped}
        if self.world_model.predict_termination:
            found |= {
                "predict_termination": True,
                "termination_units": self.world_model.termination_units,
            }
        head = asdict(self.world_model.reward_head)
        if head["name"] == "regression":
            head = {"name": "regression"}
        found |= {f"reward_head.{k}": v for k, v in head.items()}
        found["dynamics.name"] = self.dynamics.name
        found |= {f"dynamics.{k}": v for k, v in asdict(self.dynamics).items() if k not in FREE}
        return {f"alg.{k}": v for k, v in found.items()}


@dataclass(frozen=True)
class RewardStatistics:
    """Of the rewards r that the model was trained on as (r - mean) / sqrt(var + 1e-5).

    Attributes:
        mean, var: float32 [1], or [n_tasks] where every task has its own.
        count: number of rewards behind them, float64 [], or [n_tasks].
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    @property
    def std(self) -> Tensor:
        """sqrt(var + 1e-5), float32 [1]."""
        return torch.sqrt(self.var + 1e-5)


@dataclass(frozen=True)
class StoredWorldModel:
    """Content of a file: ``reward`` is None if the model predicts rewards as the environment gives them."""

    sizes: Sizes
    state: Mapping[str, Tensor]
    reward: RewardStatistics | None = None

    def build(self) -> WorldModel:
        """The world model itself, in evaluation mode.

        Raises:
            CheckpointError: weights are missing, unexpected or of a wrong shape.
        """
        model = self.sizes.build()
        problems = differences(model.state_dict(), self.state)
        if problems:
            raise CheckpointError(f"not a complete world model: {'; '.join(problems)}")
        model.load_state_dict(self.state)
        return model


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


def save(path: Path, stored: StoredWorldModel) -> None:
    """Write ``stored`` to ``path``, which appears complete or not at all."""
    reward = None if stored.reward is None else asdict(stored.reward)
    content = {"sizes": asdict(stored.sizes), "state_dict": dict(stored.state), "reward": reward}
    storage.save(path, FORMAT, content)


def load(path: Path, device: torch.device | str = "cpu") -> StoredWorldModel:
    """Read a file written by ``save``; errors as ``storage.load`` and ``parse``."""
    return parse(storage.load(path, FORMAT, device))


def overrides(settings: Mapping[str, Any]) -> str:
    """Configuration keys and values as one types them behind ``pwm train``."""
    typed = []
    for key, value in settings.items():
        # The options of the dynamics follow from its name, which is therefore chosen as a group.
        name = "dynamics" if key == "alg.dynamics.name" else key
        text = str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
        typed.append(f"{name}={text}")
    return " ".join(typed)


def parse(content: Mapping[str, Any]) -> StoredWorldModel:
    """The world model in the content of a file of this format.

    Raises:
        CheckpointError: sizes or statistics are damaged.
    """
    try:
        sizes = dict(content["sizes"])
        model, dynamics = dict(sizes["world_model"]), sizes["dynamics"]
        model["reward_head"] = scalar_heads.Options(**model["reward_head"])
        sizes["world_model"] = Options(**model)
        sizes["tasks"] = tuple(sizes.get("tasks", ()))
        sizes["dynamics"] = components.load("dynamics", dynamics["name"]).Options(**dynamics)
        # Files of earlier releases have no reward statistics.
        reward = content.get("reward")
        statistics = None if reward is None else RewardStatistics(**reward)
        return StoredWorldModel(Sizes(**sizes), content["state_dict"], statistics)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"damaged sizes in the world-model file: {error!r}") from error


def first_layers(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Keys of the weights [out, in] that read the inputs of the networks that a world model has."""
    found = {}
    for name in ("encoder", "dynamics", "reward_net", "termination_net"):
        net = "dynamics.net" if name == "dynamics" else name
        key = next((k for k in (f"{net}.0.linear.weight", f"{net}.0.weight") if k in state), None)
        if key is not None:
            found[name] = key
    return found


def narrowed(stored: StoredWorldModel, obs_dim: int, act_dim: int) -> StoredWorldModel:
    """``stored`` for observations and actions of these widths: columns that only ever read zeros are cut.

    Raises:
        CheckpointError: it has other widths, and the rest cannot be padding.
    """
    sizes, state = stored.sizes, dict(stored.state)
    obs, act = sizes.obs_dim - obs_dim, sizes.act_dim - act_dim
    fits = (
        obs == act >= 0
        if sizes.padded
        else ((obs == 0 or (sizes.padded_obs and obs > 0)) and (act == 0 or (sizes.padded_act and act > 0)))
    )
    if not fits:
        raise CheckpointError(
            f"reads observations of width {sizes.obs_dim} and actions of width {sizes.act_dim}, "
            f"the task has {obs_dim} and {act_dim}"
        )
    first = first_layers(state)
    columns = sizes.action_columns()
    for name, key in first.items():
        weight = state[key]
        if sizes.padded:
            state[key] = weight[:, : weight.shape[1] - obs]
        elif name == "encoder":
            state[key] = weight[:, :obs_dim]
        else:
            start = columns[name]
            state[key] = torch.cat((weight[:, : start + act_dim], weight[:, start + sizes.act_dim :]), dim=1)
    if obs and not sizes.padded:
        state |= {k: state[k][..., :obs_dim] for k in ("obs_rms.mean", "obs_rms.var") if k in state}
    values = {f.name: getattr(sizes, f.name) for f in fields(sizes)}
    values |= {
        "obs_dim": obs_dim,
        "act_dim": act_dim,
        "padded": False,
        "padded_obs": False,
        "padded_act": False,
    }
    return StoredWorldModel(Sizes(**values), state, stored.reward)


def differences(expected: Mapping[str, Tensor], given: Mapping[str, Any]) -> list[str]:
    """Missing, unexpected and mis-shaped keys of ``given``."""
    found = [f"missing: {key}" for key in sorted(set(expected) - set(given))]
    found += [f"unexpected: {key}" for key in sorted(set(given) - set(expected))]
    for key in sorted(set(expected) & set(given)):
        if not isinstance(given[key], Tensor) or given[key].shape != expected[key].shape:
            shape = list(getattr(given[key], "shape", ["no tensor"]))
            found.append(f"wrong shape: {key} {shape}, expected {list(expected[key].shape)}")
    return found
