"""Jacobians of the latent step: how much it stretches a small change, alone and composed over a rollout.

A first-order actor gradient passes through the product of these Jacobians: where they stretch, it explodes,
where they shrink, it fades. Nothing here looks into a dynamics model; it is differentiated from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.losses import imagine
from pwm.data.batch import Batch
from pwm.models.dynamics.base import unroll

# [B, n] -> [..., B, m]; row b of the result depends on row b of the input alone.
RowMap = Callable[[Tensor], Tensor]

# Random directions per state: the relative error of the mean squared norm over 128 states is below 1 %.
PROBES = 16
# Power iteration stops when no norm grows by more than this share any more, or after so many rounds.
TOLERANCE = 1e-3
ROUNDS = 30


def frobenius_norm(function: RowMap, x: Tensor, generator: torch.Generator, probes: int = PROBES) -> Tensor:
    """Frobenius norms [B] of the Jacobians of ``function`` [B, n] -> [B, m] at ``x``.

    Vector-Jacobian products with random signs u (Hutchinson 1990): the mean of |J'u|^2 is |J|_F^2. It is
    exact for one probe where the rows of J are orthogonal.
    """
    y, _, pull = _products(function, x)
    pulled = torch.func.vmap(pull)(_signs(probes, y, generator))
    return pulled.square().sum(-1).mean(0).sqrt()


def frobenius_norms(function: RowMap, x: Tensor, generator: torch.Generator, probes: int = PROBES) -> Tensor:
    """Frobenius norms [..., B] of the Jacobians of ``function`` [B, n] -> [..., B, m] at ``x``.

    Jacobian-vector products with random signs v, the mean of |Jv|^2: one direction serves every step of a
    rollout. It is exact for one probe where the columns of J are orthogonal.
    """
    _, push, _ = _products(function, x)
    pushed = torch.func.vmap(push)(_signs(probes, x, generator))
    return pushed.square().sum(-1).mean(0).sqrt()


def spectral_norm(function: RowMap, x: Tensor, generator: torch.Generator, rounds: int = ROUNDS) -> Tensor:
    """Largest singular values [B] of the Jacobians of ``function`` [B, n] -> [B, m] at ``x``.

    Power iteration on J'J, one product with J and one with J' per round; it approaches from below.
    """
    _, push, pull = _products(function, x)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    norm = x.new_zeros(len(x))
    for _ in range(rounds):
        direction = torch.nn.functional.normalize(direction, dim=-1)
        pushed = push(direction)
        before, norm = norm, pushed.norm(dim=-1)
        if bool((norm - before <= TOLERANCE * norm).all()):
            break
        direction = pull(pushed)
    return norm


def _products(function: RowMap, x: Tensor) -> tuple[Tensor, RowMap, RowMap]:
    """``function(x)``, and the products v -> Jv and u -> J'u with its Jacobians there.

    ``function`` runs only once: J'u is linear in u, so that its own vector-Jacobian product is Jv.
    """
    y, pull = torch.func.vjp(function, x)[:2]
    push = torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(y))[1]
    return y, lambda v: push(v)[0], lambda u: pull(u)[0]


@torch.no_grad()
def smoothness(agent: Agent, batch: Batch, generator: torch.Generator) -> dict[str, Any]:
    """Jacobian norms of one macro step z -> z' and of 1..H composed ones, from the first states of ``batch``.

    Args:
        agent: its world model (and, for the closed loop, its deterministic policy) is judged.
        batch: H whole transitions of B windows.
        generator: source of the random directions.

    Returns:
        ``latent`` (dz'/dz) and ``action`` (dz'/da): ``frobenius`` and ``spectral`` norms over the B states as
        ``spread`` gives them; ``latent`` also has ``gain``, the root mean square singular value: Frobenius
        norm over sqrt(L), 1 for a rotation. ``change``: root mean square length of z' - z, the scale of
        ``action``. ``open_loop`` and ``closed_loop``: see ``_composed``; along recorded actions, and with the
        policy choosing them, so that the gradient passes through it, too.
    """
    model, dynamics = agent.world_model, agent.world_model.dynamics
    z, a = model.encode(batch.obs[0]), batch.action[0]
    frobenius = frobenius_norm(lambda latent: dynamics.next(latent, a), z, generator)
    horizon = len(batch.action)
    return {
        "states": len(z),
        "latent": {
            "gain": spread(frobenius / math.sqrt(z.shape[-1])),
            "frobenius": spread(frobenius),
            "spectral": spread(spectral_norm(lambda latent: dynamics.next(latent, a), z, generator)),
        },
        "action": {
            "frobenius": spread(frobenius_norm(lambda action: dynamics.next(z, action), a, generator)),
            "spectral": spread(spectral_norm(lambda action: dynamics.next(z, action), a, generator)),
        },
        "change": float((dynamics.next(z, a) - z).square().sum(-1).mean().sqrt()),
        "open_loop": _composed(
            lambda latent, steps: unroll(dynamics, latent, batch.action[:steps])[1:], z, horizon, generator
        ),
        "closed_loop": _composed(
            lambda latent, steps: imagine(model, agent.policy, latent, None, steps).next_latents,
            z,
            horizon,
            generator,
        ),
    }


def _composed(
    rollout: Callable[[Tensor, int], Tensor], z: Tensor, horizon: int, generator: torch.Generator
) -> dict[str, Any]:
    """Measure the growth of the product Jacobian dz_k/dz_0 of a rollout [k, B, L] with k.

    Returns:
        ``gain``: its root mean square singular value after k = 1..H steps (median, 95 % quantile and maximum
        over states). ``spectral``: the same of its norm after the steps ``at``. ``growth``: factor per step
        from k = 1 to H of the median gain; None where it is zero.
    """
    gains = frobenius_norms(lambda x: rollout(x, horizon), z, generator) / math.sqrt(z.shape[-1])
    at = [k for k in (1, 2, 4, 8) if k < horizon] + [horizon]

    def end(steps: int) -> RowMap:
        return lambda x: rollout(x, steps)[-1]

    norms = [spectral_norm(end(k), z, generator) for k in at]
    median = gains.median(1).values
    growth = None
    if horizon > 1 and median[0] > 0:
        growth = float((median[-1] / median[0]) ** (1.0 / (horizon - 1)))
    return {
        "gain": _over_states(gains),
        "spectral": {"at": at, **_over_states(torch.stack(norms))},
        "growth": growth,
    }


def spread(values: Tensor) -> dict[str, float]:
    """Mean, minimum, median, 95 % quantile and maximum of ``values`` [B]."""
    return {
        "mean": float(values.mean()),
        "min": float(values.min()),
        "median": float(values.median()),
        "p95": float(values.quantile(0.95)),
        "max": float(values.max()),
    }


def _over_states(values: Tensor) -> dict[str, list[float]]:
    """Median, 95 % quantile and maximum over the states of ``values`` [k, B]."""
    return {
        "median": values.median(1).values.tolist(),
        "p95": values.quantile(0.95, dim=1).tolist(),
        "max": values.amax(1).tolist(),
    }


def _signs(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs [count, ...] of the shape and type of ``like``."""
    bits = torch.randint(0, 2, (count, *like.shape), generator=generator, device=like.device)
    return (2 * bits - 1).to(like.dtype)
