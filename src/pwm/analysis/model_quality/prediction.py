"""How well the world model and the critic predict what really happens to the run's own policy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.losses import actor_loss, imagine
from pwm.algorithm.rollouts import (
    Valued,
    along_actions,
    observations,
    rewards_ahead,
    values_and_returns,
    whole_windows,
    windows,
)
from pwm.data.batch import Recorded
from pwm.models.latent_space import Simplices

BINS = 10


@torch.no_grad()
def open_loop(agent: Agent, recorded: Recorded, steps: int) -> dict[str, Any] | None:
    """Errors after 1..K steps of imagination along recorded actions; None if no episode is K + 1 steps long.

    Returns:
        Lists over k = 1..K. ``latent_error``: squared error over squared change since the start, as in
        ``open_loop_error``. ``reward_error``: the same for the reward of step k, whose change is measured
        from the last reward before the start. ``latent_over_variance``, ``reward_over_variance``: the same
        errors over the variance in the episodes; they say what "no change" hides where a motion is
        periodic. ``windows``: how many starts; the same for every k, so that the rows of a curve can be
        compared. ``share``: of all recorded states those that K more steps follow, which the starts are taken
        from; the ends of episodes are never among them. ``groups``: see ``group_sums``, over k = 0..K;
        None where latents have no groups.
    """
    starts = whole_windows(recorded, steps + 1)
    if not len(starts):
        return None
    model = agent.world_model
    space = model.dynamics.space
    # The first step of every window only tells the last reward before imagination starts.
    last = recorded.reward.flatten()[starts]
    batch = windows(recorded, starts + recorded.running.shape[1], steps)
    rollout = along_actions(model, batch)
    variance = model.encode(observations(recorded)).var(0, correction=0).sum()
    reward_error = (rollout.rewards(agent) - batch.reward).square().mean(1)
    reward_variance = recorded.reward[recorded.running].var(correction=0)
    return {
        "steps": steps,
        "windows": len(starts),
        "share": float(recorded.running[steps:].sum() / recorded.running.sum()),
        "latent_error": rollout.relative.mean(1).tolist(),
        "latent_over_variance": (rollout.error.mean(1) / variance).tolist(),
        "reward_error": (reward_error / (batch.reward - last).square().mean(1)).tolist(),
        "reward_over_variance": (reward_error / reward_variance).tolist(),
        "groups": group_sums(rollout.imagined, space.simnorm.dim, space.simnorm.scale)
        if isinstance(space, Simplices)
        else None,
    }


def group_sums(latents: Tensor, dim: int, scale: float) -> dict[str, Any]:
    """True if imagined latents [K+1, B, L] stay where encoded ones are: positive groups of sum ``scale``.

    Returns:
        Lists over k: ``mean``, ``min`` and ``max`` of the sums of all groups as a share of ``scale`` (1 for
        encoded latents), and ``negative``, the share of entries below zero (0 for encoded latents).
    """
    sums = latents.unflatten(-1, (-1, dim)).sum(-1).flatten(1) / scale
    return {
        "mean": sums.mean(1).tolist(),
        "min": sums.amin(1).tolist(),
        "max": sums.amax(1).tolist(),
        "negative": (latents < 0).flatten(1).float().mean(1).tolist(),
    }


@torch.no_grad()
def return_gap(agent: Agent, recorded: Recorded, steps: int) -> dict[str, Any] | None:
    """Compare what the deterministic policy earns in imagination with what it earned from the same states.

    Returns:
        ``rewards``: sums over the next k = 1..K steps, ``imagined`` and ``realised``, means over ``states``
        states; see ``rewards_ahead``. ``horizon``: ``compared`` sums over the H (at most K) ``steps`` the
        actor is trained on. ``objective``: ``compared`` actor objectives, H discounted imagined rewards plus
        gamma^H times the value, with the returns of ``values_and_returns``. None if nothing is known of K
        steps.
    """
    imagined, realised = (rewards.cumsum(0) for rewards in rewards_ahead(agent, recorded, steps))
    if not realised.numel():
        return None
    horizon = min(agent.objective.horizon, steps)
    ends = (rewards.sum(0) for rewards in rewards_ahead(agent, recorded, horizon))
    return {
        "states": realised.shape[1],
        "rewards": {"imagined": imagined.mean(1).tolist(), "realised": realised.mean(1).tolist()},
        "horizon": {"steps": horizon, **compared(*ends)},
        "objective": _objective(agent, values_and_returns(agent, recorded)),
    }


def _objective(agent: Agent, valued: Valued) -> dict[str, Any]:
    rollout = imagine(agent.world_model, agent.policy, valued.latents, None, agent.objective.horizon)
    loss = actor_loss(rollout, agent.actor_critic.target_critic, agent.objective.gamma).per_entry
    return compared(-loss * agent.reward_scale, valued.returns)


def calibration(agent: Agent, recorded: Recorded) -> dict[str, Any]:
    """The critics' smallest value of recorded states beside the return; see ``values_and_returns``.

    Returns:
        ``compared`` values, ``bins`` as ``binned`` gives them, and ``critic_spread``, the mean standard
        deviation over the ensemble.
    """
    found = values_and_returns(agent, recorded)
    return {
        **compared(found.value, found.returns),
        "critic_spread": found.spread,
        "bins": binned(found.value, found.returns, BINS),
    }


def compared(predicted: Tensor, realised: Tensor) -> dict[str, Any]:
    """Predictions [n] beside what happened [n].

    Returns:
        ``states`` (n), both means, ``bias`` (predicted minus realised), ``relative_bias`` (over the mean
        modulus of what happened), ``rmse``, and of the line realised = slope * predicted + intercept
        ``slope``, ``intercept`` and ``correlation``: 1, 0 and 1 are perfect, a slope below 1 means that
        differences are exaggerated. The last three are None where either does not vary.
    """
    x, y = predicted.double(), realised.double()
    size = float(y.abs().mean())
    found = {
        "states": len(x),
        "predicted": float(x.mean()),
        "realised": float(y.mean()),
        "bias": float((x - y).mean()),
        "relative_bias": float((x - y).mean()) / size if size else None,
        "rmse": float((x - y).square().mean().sqrt()),
    }
    if not (_varies(x) and _varies(y)):
        return {**found, "slope": None, "intercept": None, "correlation": None}
    # Fitted around the means, which keeps the digits of values that are large and vary little.
    spread = torch.stack([x, y]).cov()
    slope = float(spread[0, 1] / spread[0, 0])
    return {
        **found,
        "slope": slope,
        "intercept": float(y.mean() - slope * x.mean()),
        "correlation": float(torch.stack([x, y]).corrcoef()[0, 1]),
    }


def _varies(x: Tensor) -> bool:
    """More than rounding in single precision does."""
    return len(x) > 1 and float(x.std()) > 1e-6 * float(x.abs().amax())


def binned(predicted: Tensor, realised: Tensor, bins: int) -> list[dict[str, float]]:
    """Calibration curve: states ordered by prediction, in ``bins`` groups of equal size.

    Returns:
        By group its ``states``, the mean ``predicted`` and ``realised``, and ``std`` of the latter. Fewer
        groups if there are fewer states.
    """
    order = predicted.argsort(stable=True)
    groups = []
    for index in order.tensor_split(min(bins, len(order))):
        real = realised[index]
        groups.append(
            {
                "states": len(index),
                "predicted": float(predicted[index].mean()),
                "realised": float(real.mean()),
                "std": float(real.std(correction=0)),
            }
        )
    return groups
