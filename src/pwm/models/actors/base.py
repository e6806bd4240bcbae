"""What every policy provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol, cast

from torch import Tensor, nn

from pwm import components


class Decision(NamedTuple):
    """What a policy decides at latents [..., L].

    Attributes:
        action: [..., act_dim] in [-1, 1].
        location: [..., act_dim], the deterministic action before it is squashed into [-1, 1]. Far from 0 the
            squashing is saturated, and hardly any gradient passes.
    """

    action: Tensor
    location: Tensor


class Actor(nn.Module, ABC):
    """Maps latents to actions in [-1, 1].

    Attributes:
        noise_dim: width of the noise that ``decide`` reads.
    """

    noise_dim: int

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
    """What a module of this folder defines.

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
