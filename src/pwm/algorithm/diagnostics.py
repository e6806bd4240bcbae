"""Measurements of the model that training does not need but people do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pwm.data.batch import Batch
from pwm.models.dynamics.base import unroll
from pwm.models.world_model import WorldModel


@torch.no_grad()
def open_loop_error(model: WorldModel, batch: Batch, steps: Sequence[int]) -> Tensor:
    """Mean squared latent error [len(steps)] after k steps of open-loop prediction, for k in ``steps``."""
    latents = model.encode(batch.obs)
    predicted = unroll(model.dynamics, latents[0], batch.action)
    error = (predicted - latents).square().mean((1, 2))
    return error[list(steps)]
