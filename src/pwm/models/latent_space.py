"""Where latents lie: how observations get there, and in which units models predict and are judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pwm.models.encoder import build_encoder
from pwm.models.layers import NormedLinear, SimNorm
from pwm.models.normalization import MovingRMS

KINDS = ("simnorm", "observations")


class GroupTangent(nn.Module):
    """Subtract the mean of each SimNorm group, so that adding the result keeps every group's sum."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, v: Tensor) -> Tensor:
        """Map [..., L] to [..., L] with zero sum in every group of ``dim`` entries."""
        groups: Tensor = v.unflatten(-1, (-1, self.dim))
        return (groups - groups.mean(-1, keepdim=True)).flatten(-2)


class LatentSpace(nn.Module, ABC):
    """Latents [..., L] of any value, whose changes are predicted as they are.

    Args:
        dim: width L of latents.

    Attributes:
        learned: an encoder makes the latents; it may read more than observations.
    """

    learned = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @abstractmethod
    def encoder(self, obs_dim: int, units: Sequence[int], centred: bool) -> nn.Module:
        """Module that maps observations [..., obs_dim] to latents.

        Args:
            obs_dim: width of observations.
            units: hidden widths, where there are any.
            centred: observations have mean 0 and variance 1.
        """

    def head(self, in_dim: int) -> nn.Module:
        """Layer [..., in_dim] -> [..., L] whose outputs are latents."""
        return nn.Linear(in_dim, self.dim)

    def tangent(self) -> nn.Module:
        """Module [..., L] -> [..., L] whose outputs can be added to a latent."""
        return nn.Identity()

    def within(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        """Latents z [..., L] with zeros where a task has no entries.

        Args:
            z: latents.
            e: what networks are told of the task, [..., E] or [B, E], see ``WorldModel.embed``.
        """
        return z

    def weighed(self, weights: Tensor, e: Tensor | None = None) -> Tensor:
        """Weights [H, B] for means over L entries, of which a task may have few: tasks count alike."""
        return weights

    def change(self, output: Tensor) -> Tensor:
        """Change of a latent that an output [..., L] of a dynamics network stands for."""
        return output

    def relative(self, difference: Tensor) -> Tensor:
        """Difference [..., L] of two latents in the units of ``change``, which losses measure."""
        return difference


class Simplices(LatentSpace):
    """Latents of a learned encoder: groups of positive entries with a common sum (SimNorm)."""

    def __init__(self, dim: int, simnorm: SimNorm) -> None:
        super().__init__(dim)
        self.simnorm = simnorm

    def encoder(self, obs_dim: int, units: Sequence[int], centred: bool) -> nn.Module:
        """MLP that ends in SimNorm."""
        return build_encoder(obs_dim, units, self.dim, self.simnorm, centred)

    def head(self, in_dim: int) -> nn.Module:
        """Linear, LayerNorm, SimNorm."""
        return NormedLinear(in_dim, self.dim, self.simnorm)

    def tangent(self) -> nn.Module:
        """Projection that keeps the sum of every group."""
        return GroupTangent(self.simnorm.dim)


class Observations(LatentSpace):
    """The (normalised) observations themselves; nothing moves while models learn.

    Changes count in units of their running root mean square, entry by entry, so that slow and fast
    quantities are predicted equally well. Several tasks share these units: with a unit for every task, those
    whose entries hardly move had nearly all of the gradient of dynamics that predict the next latent itself.
    Entries that a task's observations do not have are zero, and stay so.

    Args:
        dim: width L of latents.
        padding: how many of their last entries observations do not have.
        tasks: number of tasks that are told apart, each with a width of its own (``has_widths``); 0 for one.
            Networks are told which entries a task has, by the last L of what they are told of it.
    """

    learned = False
    present: Tensor | None

    def __init__(self, dim: int, padding: int = 0, tasks: int = 0) -> None:
        super().__init__(dim)
        self.padding = padding
        present = (torch.arange(dim) < dim - padding).float()
        if tasks:
            self.register_buffer("present", present.repeat(tasks, 1))
        else:
            # Follows from the options, so not part of a checkpoint.
            self.register_buffer("present", present if padding else None, persistent=False)
        self.change_rms = MovingRMS(dim)

    def encoder(self, obs_dim: int, units: Sequence[int], centred: bool) -> nn.Module:
        """The identity, or zeros behind every observation."""
        return nn.ZeroPad1d((0, self.padding)) if self.padding else nn.Identity()

    def change(self, output: Tensor) -> Tensor:
        """``output`` times the root mean square of changes."""
        return output * self.change_rms.rms

    def relative(self, difference: Tensor) -> Tensor:
        """``difference`` over the root mean square of changes."""
        return difference / self.change_rms.rms

    def has_widths(self, widths: Sequence[int]) -> None:
        """Say how wide the observations of every task are."""
        assert self.present is not None
        column = torch.arange(self.dim, device=self.present.device)
        wide = torch.tensor(widths, device=column.device).unsqueeze(-1)
        self.present.copy_(column < wide)

    def within(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        """Latents z [..., L] with zeros where a task has no entries."""
        present = self._present(e)
        return z if present is None else z * present

    def weighed(self, weights: Tensor, e: Tensor | None = None) -> Tensor:
        """Weights [H, B] by which a mean over L entries is one over the entries that the task has."""
        present = self._present(e)
        return weights if present is None else weights * (self.dim / present.sum(-1))

    def _present(self, e: Tensor | None) -> Tensor | None:
        return self.present if e is None or self.present is None else e[..., -self.dim :].detach()

    @torch.no_grad()
    def observe(self, latents: Tensor, valid: Tensor, e: Tensor | None = None) -> None:
        """Fold the changes in windows of latents [H+1, B, L] in, of transitions that are ``valid`` [H, B]."""
        changes, counted = latents[1:] - latents[:-1], valid
        if (present := self._present(e)) is not None:
            counted = valid.unsqueeze(-1) & present.bool()
        self.change_rms.update(changes.flatten(0, 1), counted.flatten(0, 1))
