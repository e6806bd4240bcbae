"""How well the world model and the critic predict what really happens to the run's own policy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import (
    error_and_change,
    realised_rewards,
    returns_to_go,
    spread_out,
    whole_windows,
    windows,
)
from pwm.algorithm.losses import actor_loss, imagine, reach_weights
from pwm.data.batch import Recorded
from pwm.models.dynamics.base import unroll
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
    # The first transition only tells the last reward before the start.
    batch = windows(recorded, starts, steps + 1)
    action, reward, last = batch.action[1:], batch.reward[1:], batch.reward[0]
    latents = model.encode(batch.obs[1:])
    predicted = unroll(model.dynamics, latents[0], action)
    error, change = (total[1:].mean(1) for total in error_and_change(latents, predicted))
    variance = model.encode(recorded.obs[:-1][recorded.running]).var(0, correction=0).sum()
    imagined = model.reward_head.decode(model.reward(predicted[:-1], action)) * agent.reward_scale
    reward_error = (imagined - reward).square().mean(1)
    reward_variance = recorded.reward[recorded.running].var(correction=0)
    return {
        "steps": steps,
        "windows": len(starts),
        "share": float(recorded.running[steps:].sum() / recorded.running.sum()),
        "latent_error": (error / change).tolist(),
        "latent_over_variance": (error / variance).tolist(),
        "reward_error": (reward_error / (reward - last).square().mean(1)).tolist(),
        "reward_over_variance": (reward_error / reward_variance).tolist(),
        "groups": group_sums(predicted, space.simnorm.dim, space.simnorm.scale)
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
        states; see ``imagination_gap``. ``horizon``: ``compared`` sums over the H (at most K) ``steps`` the
        actor is trained on. ``objective``: ``compared`` actor objectives, H discounted imagined rewards plus
        gamma^H times the value, with the discounted return; None where no return is known. None if nothing is
        known of K steps.
    """
    imagined, realised = _reward_sums(agent, recorded, steps)
    if not realised.numel():
        return None
    horizon = min(agent.objective.horizon, steps)
    ends = (sums[-1] for sums in _reward_sums(agent, recorded, horizon))
    return {
        "states": realised.shape[1],
        "rewards": {"imagined": imagined.mean(1).tolist(), "realised": realised.mean(1).tolist()},
        "horizon": {"steps": horizon, **compared(*ends)},
        "objective": _objective(agent, recorded),
    }


def _reward_sums(agent: Agent, recorded: Recorded, steps: int) -> tuple[Tensor, Tensor]:
    """Imagined and real reward over the next 1..K steps, both [K, B], from the same B states."""
    chosen, rewards = realised_rewards(recorded, steps)
    z = agent.world_model.encode(recorded.obs.flatten(0, 1)[chosen])
    rollout = imagine(agent.world_model, agent.policy, z, None, steps)
    imagined = (reach_weights(rollout) * rollout.rewards).cumsum(0) * agent.reward_scale
    return imagined, rewards.T.cumsum(0)


def _objective(agent: Agent, recorded: Recorded) -> dict[str, Any] | None:
    returns, known = returns_to_go(recorded, agent.objective.gamma)
    chosen = spread_out(known)
    if not len(chosen):
        return None
    z = agent.world_model.encode(recorded.obs.flatten(0, 1)[chosen])
    rollout = imagine(agent.world_model, agent.policy, z, None, agent.objective.horizon)
    loss = actor_loss(rollout, agent.actor_critic.target_critic, agent.objective.gamma).per_entry
    return compared(-loss * agent.reward_scale, returns.flatten()[chosen])


@torch.no_grad()
def value_calibration(agent: Agent, recorded: Recorded) -> dict[str, Any] | None:
    """The critics' smallest value of recorded states beside the discounted return that followed.

    Returns:
        ``compared`` values, ``bins`` as ``binned`` gives them, and ``critic_spread``, the mean standard
        deviation over the ensemble. None if no return is known.
    """
    returns, known = returns_to_go(recorded, agent.objective.gamma)
    chosen = spread_out(known)
    if not len(chosen):
        return None
    z = agent.world_model.encode(recorded.obs.flatten(0, 1)[chosen])
    values = agent.critic(z) * agent.reward_scale
    predicted, realised = values.amin(0), returns.flatten()[chosen]
    return {
        **compared(predicted, realised),
        "critic_spread": float(values.std(0, correction=0).mean()),
        "bins": binned(predicted, realised, BINS),
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
