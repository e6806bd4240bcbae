"""Discounted returns of (imagined) trajectories that may contain episode ends.

All tensors are time-major. ``ends[t]`` marks the last transition of an episode, for whatever reason;
``next_values[t]`` is the value of the state AFTER transition t and must already be zero where the
episode terminated. The last transition is always treated as an end (it bootstraps).
"""

from __future__ import annotations

import torch
from torch import Tensor


def td_lambda(
    rewards: Tensor,
    next_values: Tensor,
    ends: Tensor | None,
    gamma: float,
    lam: float,
    survival: Tensor | None = None,
) -> Tensor:
    """TD(lambda) targets (Sutton & Barto 2018, eq. 12.20), scanned backwards.

    G_t = r_t + gamma c_t (V_{t+1} where the episode ends at t, else (1 - lam) V_{t+1} + lam G_{t+1}).

    Args:
        rewards, next_values: [H, B].
        ends: [H, B] bool, or None when no episode ends inside the window.
        gamma: discount.
        lam: trace decay in [0, 1]; 0 gives one-step targets.
        survival: c [H, B] in [0, 1], predicted probability that transition t does not terminate.

    Returns:
        Targets [H, B].
    """
    steps = len(rewards)
    targets = torch.empty_like(rewards)
    following = next_values[-1]
    for t in reversed(range(steps)):
        blend = torch.lerp(next_values[t], following, lam)
        if ends is not None:
            blend = torch.where(ends[t], next_values[t], blend)
        if survival is not None:
            blend = survival[t] * blend
        following = torch.add(rewards[t], blend, alpha=gamma)
        targets[t] = following
    return targets


def trajectory_objective(
    rewards: Tensor,
    next_values: Tensor,
    ends: Tensor | None,
    gamma: float,
    survival: Tensor | None = None,
) -> Tensor:
    """Discounted return of H steps plus the bootstrap value of every segment end, per batch entry.

    A segment runs from the window's start, or from the step after an end, to the next end; its
    rewards are discounted from its own start, its end adds gamma^length V.

    Args:
        rewards, next_values: [H, B], with gradient.
        ends: [H, B] bool, or None when no episode ends inside the window.
        gamma: discount.
        survival: [H, B] in [0, 1], with gradient: predicted probability that transition t does not
            terminate; later rewards count as much as the episode is likely to get there. Not together
            with ``ends``.

    Returns:
        Objective [B] to maximise.
    """
    steps = len(rewards)
    exponent = torch.arange(steps, dtype=rewards.dtype, device=rewards.device)[:, None]
    if ends is None:
        weights = gamma**exponent
        if survival is None:
            return (weights * rewards).sum(0) + gamma**steps * next_values[-1]
        alive = survival.cumprod(0)
        arrived = torch.cat([torch.ones_like(alive[:1]), alive[:-1]])
        return (weights * arrived * rewards).sum(0) + gamma**steps * alive[-1] * next_values[-1]
    if survival is not None:
        raise ValueError("give either real episode ends or predicted survival, not both")
    # Steps since the segment's start: t minus the time of the latest end before t.
    started = torch.where(ends[:-1], exponent[1:], 0.0).cummax(0).values
    age = torch.cat([exponent[:1].expand_as(rewards[:1]), exponent[1:] - started])
    closes = ends.clone()
    closes[-1] = True
    return (gamma**age * (rewards + gamma * torch.where(closes, next_values, 0.0))).sum(0)


def window_return(rewards: Tensor, valid: Tensor, last_values: Tensor, gamma: float) -> Tensor:
    """Discounted return of recorded windows, and of what lies behind them.

    Args:
        rewards: [H, B].
        valid: [H, B] bool, false behind the end of an episode.
        last_values: [B], value of the last observation of each window; zero where the episode terminated.
        gamma: discount.

    Returns:
        sum of gamma^t r_t over the n valid steps plus gamma^n times the last value, [B].
    """
    exponent = torch.arange(len(rewards), dtype=rewards.dtype, device=rewards.device)[:, None]
    return (gamma**exponent * rewards * valid).sum(0) + gamma ** valid.sum(0) * last_values
