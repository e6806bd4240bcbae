"""What every policy provides."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pwm import components
from pwm.models.layers import mlp


class Decision(NamedTuple):
    """Decision of a policy at latents [..., L].

    Attributes:
        action: [..., act_dim] in [-1, 1].
        location: [..., act_dim], the deterministic action before it is squashed into [-1, 1]; the action
            itself before that, where a policy does not add its noise at the end. Far from 0 the squashing is
            saturated, and hardly any gradient passes.
        log_prob: [..., act_dim], log density of every entry of ``action``, given the entries before it where
            they depend on one another; None for the deterministic action, and from policies whose density is
            not known.
    """

    action: Tensor
    location: Tensor
    log_prob: Tensor | None = None


def policy_net(
    latent_dim: int, units: Sequence[int], width: int, act: str, activation_first: bool
) -> nn.Sequential:
    """MLP [..., latent_dim] -> [..., width] with orthogonal weights, whose last layer ``[-1]`` is small.

    So a policy starts near zero action, where tanh is not saturated.
    """
    head = nn.Linear([latent_dim, *units][-1], width)
    net = mlp(latent_dim, units, head, act, activation_first)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, 0.01 if layer is head else 1.0)
            nn.init.zeros_(layer.bias)
    return net


def log_slope(raw: Tensor) -> Tensor:
    """Return log(1 - tanh(raw)^2), the log slope of the squashing, entry by entry.

    Computed as 2 (log 2 - u - softplus(-2u)), which does not underflow (Haarnoja et al. 2018, SAC, appendix
    C).
    """
    return 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))


def tanh_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor | None) -> Decision:
    """tanh(mean + exp(log_std) noise) and its log density, or tanh(mean) without noise.

    Args:
        mean: [..., act_dim], also the location.
        log_std: broadcasts against ``mean``.
        noise: standard normal [..., act_dim], or None.
    """
    if noise is None:
        return Decision(torch.tanh(mean), mean)
    raw = torch.addcmul(mean, log_std.exp(), noise)
    density = -0.5 * (noise.square() + math.log(2.0 * math.pi)) - log_std - log_slope(raw)
    return Decision(torch.tanh(raw), mean, density)


class Actor(nn.Module, ABC):
    """Maps latents to actions in [-1, 1].

    Attributes:
        noise_dim: width of the noise that ``decide`` reads.
        has_density: ``decide`` gives the log density of noisy actions.
    """

    noise_dim: int
    has_density = False

    @abstractmethod
    def decide(self, z: Tensor, noise: Tensor | None = None) -> Decision:
        """Decision at latents [..., L]; reparameterised, differentiable in z and the parameters.

        Args:
            z: latents.
            noise: standard normal noise [..., noise_dim]; None gives the deterministic action.
        """

    def act(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions [..., act_dim] of ``decide``."""
        return self.decide(z, noise).action

    @abstractmethod
    def mean_std(self) -> Tensor:
        """Mean standard deviation of the exploration before the squashing, a detached scalar."""

    def project(self) -> None:
        """Put constrained parameters back into their sets; called after every optimiser step."""


class ActorComponent(Protocol):
    """Contract of a module of this folder.

    Attributes:
        Options: dataclass of the policy's configuration, checked in ``__post_init__``; its ``name`` is the
            name of the module.
    """

    Options: type[Any]

    def build(self, options: Any, latent_dim: int, act_dim: int) -> Actor:
        """Return the policy described by ``options``."""
        ...


def load_actor(name: str) -> ActorComponent:
    """Module of the policy called ``name``.

    Raises:
        UnknownComponentError: there is none; the message lists the names.
    """
    return cast("ActorComponent", components.load("actor", name))
