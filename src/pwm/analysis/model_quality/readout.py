"""Read observations out of latents: a linear map fitted after training, because the model has no decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Share of a latent's variance added to it: predicted latents lie slightly off the encoder's outputs, and
# a map that is exact on those alone would blow the difference up.
RIDGE = 1e-3


@dataclass(frozen=True)
class Readout:
    """A linear map from latents to observations.

    Attributes:
        mean, scale: [obs_dim], of the observations it was fitted on; the scale is their standard deviation,
            or 1 where they do not vary.
        varies: [obs_dim] bool, which channels vary.
        centre: [L], mean latent.
        weight: [L, obs_dim], from latents minus ``centre`` to normalised observations.
    """

    mean: Tensor
    scale: Tensor
    varies: Tensor
    centre: Tensor
    weight: Tensor

    def __call__(self, latents: Tensor) -> Tensor:
        """Observations [..., obs_dim] of latents [..., L], float64."""
        return self.mean + self.scale * ((latents.double() - self.centre) @ self.weight)

    def normalise(self, obs: Tensor) -> Tensor:
        """Observations [..., obs_dim] with mean 0 and standard deviation 1 where they vary, float64."""
        return (obs.double() - self.mean) / self.scale

    def r_squared(self, latents: Tensor, obs: Tensor) -> tuple[float | None, list[float | None]]:
        """Share of the variance of observations [n, obs_dim] that the read-out of their latents explains.

        Returns:
            Over all channels in normalised units, and by channel; None where nothing varies.
        """
        wanted = self.normalise(obs)
        error = (self.normalise(self(latents)) - wanted).square().sum(0)
        spread = (wanted - wanted.mean(0)).square().sum(0)
        known = self.varies & (spread > 0.0)
        channels = [
            1.0 - float(e) / float(s) if k else None
            for e, s, k in zip(error, spread, known.tolist(), strict=True)
        ]
        total = float(spread[known].sum())
        return (1.0 - float(error[known].sum()) / total if total else None), channels


def fit_readout(latents: Tensor, obs: Tensor) -> Readout:
    """Ridge regression from latents [n, L] to observations [n, obs_dim], in double precision."""
    wanted, z = obs.double(), latents.double()
    mean, scale = wanted.mean(0), wanted.std(0, correction=0)
    varies = scale > 1e-6 * (1.0 + mean.abs())
    scale = torch.where(varies, scale, 1.0)
    centre = z.mean(0)
    spread = z.std(0, correction=0)
    # Latents that never vary carry nothing; dividing by 1 leaves them at zero.
    spread = torch.where(spread > 1e-9, spread, 1.0)
    inputs = (z - centre) / spread
    gram = inputs.T @ inputs / len(z) + RIDGE * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    solved = torch.linalg.solve(gram, inputs.T @ ((wanted - mean) / scale) / len(z))
    return Readout(mean, scale, varies, centre, solved / spread.unsqueeze(1))
