"""What every latent dynamics model provides, and the loss that one-step predictors share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from pwm import components
from pwm.models.integrators.explicit_rk import Tableau
from pwm.models.latent_space import LatentSpace

if TYPE_CHECKING:
    from pwm.models.world_model import WorldModel


class DynamicsLoss(NamedTuple):
    """Result of ``Dynamics.loss``.

    Attributes:
        loss: scalar to minimise.
        latents: [H, B, L], the latents z_0..z_{H-1} the loss was computed along; the reward head reads them.
    """

    loss: Tensor
    latents: Tensor


class Dynamics(nn.Module, ABC):
    """Predicts the next latent.

    Args:
        space: where latents lie.

    Attributes:
        teacher_forced: the loss starts every transition from the encoded observation instead of the
            model's own prediction, so ``loss`` wants all H source latents, not only the first.
        noise_dim: width of the noise that makes ``next`` a sample; 0 where the next latent is certain.
        velocity_evals: velocity-network evaluations per ``next`` (0 where there is no velocity).
    """

    teacher_forced = False
    velocity_evals = 0
    noise_dim = 0

    def __init__(self, space: LatentSpace) -> None:
        super().__init__()
        self.space = space

    @property
    def action_column(self) -> int:
        """Column of the first layer's weights where those of the actions begin; those of e are the last."""
        return self.space.dim

    def next(self, z: Tensor, a: Tensor, e: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Next latents [..., L] from latents [..., L], actions [..., A], and e [..., E], see ``embed``.

        With ``noise``, standard normal numbers [..., noise_dim], they are a sample that is differentiable in
        everything else; without it the mean. Where ``noise_dim`` is 0 no noise is ever given.
        """
        return self.space.within(self.predict(z, a, e, noise), e)

    @abstractmethod
    def predict(self, z: Tensor, a: Tensor, e: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """``next``, but that entries which the task's observations do not have may have any value."""

    def log_density(self, z: Tensor, a: Tensor, target: Tensor, e: Tensor | None = None) -> Tensor | None:
        """Log density [...], in nats, of the latents ``target`` [..., L] as the next ones; None if unknown.

        The density is that of the change in the units of ``space``, see ``LatentSpace.relative``.
        """
        return None

    def draw(self, shape: tuple[int, int], like: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Return the random numbers [H, B, n] that the loss of transitions of ``shape`` (H, B) needs.

        They are drawn apart from the loss so that parts of a batch get theirs, whoever works on them. Most
        models need none.

        Args:
            shape: H and B.
            like: gives dtype and device.
            generator: source of the draw; None is the global one.
        """
        return None

    def loss(
        self,
        z: Tensor,
        action: Tensor,
        target: Tensor,
        weights: Tensor,
        e: Tensor | None = None,
        draws: Tensor | None = None,
    ) -> DynamicsLoss:
        """Return the training loss over H transitions.

        Unless a model has a loss of its own, this is the mean of w_t |z_{t+1} - target_t|^2 along its own
        rollout (TD-MPC2 consistency loss), with errors in the units of ``space``.

        Args:
            z: [1, B, L], or [H, B, L] if ``teacher_forced``: encoded source observations, with gradient.
            action: [H, B, A].
            target: [H, B, L] encoded next observations, without gradient.
            weights: [H, B], how much every transition counts.
            e: [B, E] task embedding.
            draws: what ``draw`` returned for these transitions.
        """
        latents = unroll(self, z[0], action, e)
        error = self.space.relative(latents[1:] - target).square().mean(-1)
        return DynamicsLoss((weights * error).mean(), latents[:-1])


class DynamicsComponent(Protocol):
    """Contract of a module of this folder.

    Attributes:
        Options: dataclass of the model's configuration, checked in ``__post_init__``; its ``name`` is the
            name of the module.
        WORLD_MODEL: class of the world model that has these dynamics.
    """

    Options: type[Any]
    WORLD_MODEL: type[WorldModel]

    def build(self, options: Any, space: LatentSpace, act_dim: int, task_dim: int) -> Dynamics:
        """Return the dynamics described by ``options`` for latents of ``space``."""
        ...


def load_dynamics(name: str) -> DynamicsComponent:
    """Module of the dynamics called ``name``.

    Raises:
        UnknownComponentError: there are none; the message lists the names.
    """
    return cast("DynamicsComponent", components.load("dynamics", name))


@runtime_checkable
class Integrated(Protocol):
    """Dynamics whose ``next`` integrates a velocity over flow time [0, 1].

    Attributes:
        tableau: the method of ``next``.
        substeps: its number of steps K.
    """

    tableau: Tableau

    @property
    def substeps(self) -> int: ...

    def velocity(self, z: Tensor, a: Tensor, tau: Tensor, e: Tensor | None = None) -> Tensor:
        """dz/dtau [..., L] at latents [..., L], actions [..., A], flow time [..., 1], embedding [..., E]."""
        ...


def unroll(dynamics: Dynamics, z: Tensor, action: Tensor, e: Tensor | None = None) -> Tensor:
    """Open-loop latents z_0..z_H [H+1, B, L] from z [B, L] under actions [H, B, A]."""
    latents = [z]
    for a in action.unbind(0):
        latents.append(dynamics.next(latents[-1], a, e))
    return torch.stack(latents)
