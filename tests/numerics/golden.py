"""Golden vectors: numbers recorded from the reference implementations (``tests/golden/README.md``)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pwm import components
from pwm.interop.importers import load_world_model
from pwm.models.critic import CriticEnsemble
from pwm.models.world_model import WorldModel

FOLDER = Path(__file__).resolve().parents[1] / "golden"
CHECKED = ("out/", "mid/", "grad/")


class Golden:
    """One file: ``tensors`` by name, ``config`` with sizes and hyperparameters, ``tolerance``."""

    def __init__(self, name: str) -> None:
        self.name = name
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            metadata = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.config: dict[str, Any] = json.loads(metadata["config"])
        self.tolerance: dict[str, dict[str, float]] = self.config["tolerance"]

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name starts with ``prefix``, which is removed."""
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}

    def world_model(self, source: str, prefix: str = "param/") -> WorldModel:
        """The recorded world model, imported through the public importer."""
        config = self.config
        return load_world_model(
            self.below(prefix), source, config["simnorm_dim"], config.get("vmin"), config.get("vmax")
        )

    def check(self, computed: Mapping[str, Tensor | float]) -> None:
        """Compare every recorded result; a name that was not computed, or not recorded, fails."""
        recorded = {key for key in self.tensors if key.startswith(CHECKED)}
        assert not recorded - set(computed), f"not computed: {sorted(recorded - set(computed))}"
        assert not set(computed) - recorded, f"not recorded: {sorted(set(computed) - recorded)}"
        for key in sorted(recorded):
            kind = "grad" if key.startswith("grad/") else "out"
            value = torch.as_tensor(computed[key]).detach()
            assert_close(value, self.tensors[key], self.tolerance[kind], f"{self.name}: {key}")


def excess(x: Tensor, reference: Tensor, tolerance: Mapping[str, float]) -> float:
    """max|x - r| divided by what is allowed, atol + rtol * max|r|; entries of -inf must match exactly."""
    x, reference = x.double(), reference.double()
    finite = torch.isfinite(reference)
    if not torch.equal(x[~finite], reference[~finite]) or not torch.isfinite(x[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    allowed = tolerance["atol"] + tolerance["rtol"] * reference[finite].abs().max()
    return float((x[finite] - reference[finite]).abs().max() / allowed)


def assert_close(x: Tensor, reference: Tensor, tolerance: Mapping[str, float], label: str = "") -> None:
    """Assert equal shapes and max|x - r| <= atol + rtol * max|r|."""
    assert x.shape == reference.shape, f"{label}: shape {tuple(x.shape)}, recorded {tuple(reference.shape)}"
    ratio = excess(x, reference, tolerance)
    assert ratio <= 1.0, f"{label}: error is {ratio:.3g} times the tolerance"


def layers(net: Iterable[nn.Module]) -> list[tuple[str, nn.Module]]:
    """Reference suffix and module of every part of a stack: ``0.`` Linear, ``0.ln.`` LayerNorm, ..."""
    found: list[tuple[str, nn.Module]] = []
    for i, layer in enumerate(net):
        if isinstance(layer, nn.Linear):
            found.append((f"{i}.", layer))
        else:
            found += [(f"{i}.", layer.linear), (f"{i}.ln.", layer.norm)]
    return found


def world_model_grads(model: WorldModel, velocity: bool = False) -> dict[str, Tensor]:
    """Gradients of all parameters under the reference's key names, columns in the reference's order."""
    grads: dict[str, Tensor] = {}
    dynamics = "_velocity" if velocity else "_dynamics"
    for prefix, net in (
        ("_encoder", model.encoder),
        (dynamics, model.dynamics.net),
        ("_reward", model.reward_net),
    ):
        for suffix, module in layers(net):
            for name, parameter in module.named_parameters():
                assert parameter.grad is not None
                grads[f"{prefix}.{suffix}{name}"] = parameter.grad
    if model.task_embedding is not None:
        grads["_task_emb.weight"] = model.task_embedding.weight.grad
        if not velocity:
            # PWM reads [z, e, a], we read [z, a, e].
            task_dim = model.task_embedding.embedding_dim
            latent = model.dynamics.net[-1].linear.out_features
            for key in ("_dynamics.0.weight", "_reward.0.weight"):
                act = grads[key].shape[1] - latent - task_dim
                z, a, e = grads[key].split((latent, act, task_dim), dim=1)
                grads[key] = torch.cat((z, e, a), dim=1)
    return grads


def set_integrator(model: WorldModel, name: str, substeps: int, tau_sampling: str = "uniform") -> None:
    """Let the flow dynamics integrate, and sample training times, this way."""
    model.dynamics.options = replace(
        model.dynamics.options, integrator=name, substeps=substeps, tau_sampling=tau_sampling
    )
    model.dynamics.tableau = components.load("integrator", name).TABLEAU


def load_actor(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """Our actor with the reference's weights, and its parameters under the reference's key names."""
    module = components.load("actor", "gaussian")
    # Defect of the reference: activation before LayerNorm, unlike the world model.
    options = module.Options(
        units=config["actor_units"], activation_first=True, min_log_std=config["min_logstd"]
    )
    actor = module.build(options, config["latent_dim"], config["act_dim"])
    ours = {"logstd": actor.log_std}
    # The reference counts Linear, activation and LayerNorm as three entries of one Sequential.
    for suffix, part in layers(actor.net):
        index = 3 * int(suffix.split(".")[0]) + (2 if "ln" in suffix else 0)
        ours |= {f"mu_net.{index}.{name}": p for name, p in part.named_parameters()}
    assert set(ours) == set(state)
    with torch.no_grad():
        for key, parameter in ours.items():
            assert parameter.shape == state[key].shape
            parameter.copy_(state[key])
    return actor, ours


def load_critic(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[CriticEnsemble, dict[str, nn.Parameter]]:
    """Our critics with the reference's stacked weights, and the parameters under its key names."""
    critic = CriticEnsemble(
        config["latent_dim"], config["critic_units"], config["num_critics"], activation_first=True
    )
    order = [critic.first.weight, critic.first.bias]
    for norm, layer in zip(critic.norms, critic.layers, strict=True):
        order += [norm.weight, norm.bias, layer.weight, layer.bias]
    ours = {f"params.{k}": parameter for k, parameter in enumerate(order)}
    assert set(ours) == set(state)
    with torch.no_grad():
        for key, parameter in ours.items():
            assert parameter.shape == state[key].shape
            parameter.copy_(state[key])
    return critic, ours
