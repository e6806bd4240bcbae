"""What every policy provides."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn


class Actor(nn.Module):
    """Maps latents to actions in [-1, 1].

    Attributes:
        noise_dim: width of the noise that ``act`` reads.
    """

    noise_dim: int

    @abstractmethod
    def act(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions [..., act_dim] for latents [..., L]; reparameterised, differentiable in z and parameters.

        Args:
            z: latents.
            noise: standard normal noise [..., noise_dim]; None gives the deterministic action.
        """

    @abstractmethod
    def report(self, z: Tensor) -> dict[str, Tensor]:
        """Detached scalars that describe the policy at ``z``: ``std`` and ``saturation`` at least."""

    def project(self) -> None:
        """Put constrained parameters back into their sets; call after every optimiser step."""
