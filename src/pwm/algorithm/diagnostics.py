"""Measurements of model, critic and policy that training does not need but people do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.losses import imagine, reach_weights
from pwm.data.batch import Batch, Recorded
from pwm.models.dynamics.base import unroll
from pwm.models.world_model import WorldModel

# States of recorded episodes that a report looks at, evenly spaced.
SAMPLES = 512


@torch.no_grad()
def open_loop_error(model: WorldModel, batch: Batch, steps: Sequence[int]) -> Tensor:
    """Relative latent error [len(steps)] after k open-loop steps, for every k >= 1 in ``steps``.

    The squared error of the predicted z_k divided by the squared change z_k - z_0: 1 is what predicting "no
    change" scores, 0 is perfect. Latents of different models have different scales, so their plain errors
    cannot be compared.
    """
    latents = model.encode(batch.obs)
    error, change = error_and_change(latents, unroll(model.dynamics, latents[0], batch.action))
    chosen = list(steps)
    known = batch.valid[[k - 1 for k in chosen]]
    return (error[chosen] * known).sum(1) / (change[chosen] * known).sum(1)


def error_and_change(latents: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors and squared changes since the start, both [H+1, B], of latents [H+1, B, L]."""
    return (predicted - latents).square().sum(-1), (latents - latents[0]).square().sum(-1)


def returns_to_go(recorded: Recorded, gamma: float) -> tuple[Tensor, Tensor]:
    """Discounted return after every recorded step, and where it is known to within 5 %.

    The return of an episode that was cut by the time limit lacks a tail worth gamma^k of the value, k steps
    before the cut; states with gamma^k > 0.05 are not known. Terminated episodes are known everywhere.

    Returns:
        [T, N] returns and [T, N] bool.
    """
    nothing = recorded.reward.new_zeros(recorded.reward.shape[1])
    left = steps_left(recorded)
    known = recorded.running & (_terminates(recorded) | (left >= _tail(gamma, len(left))))
    return _discounted(recorded, gamma, nothing), known


def steps_left(recorded: Recorded) -> Tensor:
    """Recorded steps [T, N] that follow every recorded observation; not positive after the end."""
    steps = torch.arange(len(recorded.running), device=recorded.running.device)
    return recorded.running.sum(0) - steps[:, None]


def _terminates(recorded: Recorded) -> Tensor:
    """Episodes [N] that ended for good, so that nothing follows what was recorded."""
    return (recorded.terminated & recorded.running).any(0)


def _tail(gamma: float, steps: int) -> float:
    """Steps after which a reward counts 5 % of itself; ``steps`` for gamma 0 and 1."""
    return math.log(0.05) / math.log(gamma) if 0.0 < gamma < 1.0 else float(steps)


def _discounted(recorded: Recorded, gamma: float, after: Tensor) -> Tensor:
    """Discounted return [T, N] of what was recorded, with ``after`` [N] for what follows a cut episode."""
    returns = torch.empty_like(recorded.reward)
    total = after
    for t in reversed(range(len(returns))):
        gained = recorded.reward[t] + gamma * ~recorded.terminated[t] * total
        total = torch.where(recorded.running[t], gained, total)
        returns[t] = recorded.running[t] * total
    return returns


@torch.no_grad()
def value_calibration(agent: Agent, recorded: Recorded) -> dict[str, float]:
    """Compare what the critic expects from recorded states with what was then earned.

    What a cut episode would have earned after its end is not known; the critic's value of its last
    observation, discounted, stands in for it. Both sides share this part, so of an over-estimate that is
    the same everywhere the share 1 - gamma^n shows where n recorded steps follow. States are therefore taken
    only where n is at least half of the episode, or large enough for that share to be 95 %. Episodes that
    terminated are known to the end, and give all their states.

    The two sides also differ in the policy: the critic learns the value of sampled actions, the recorded
    episodes are those of the deterministic policy.

    Returns:
        ``value`` and ``realised_value``: means of the ensemble's smallest value and of the discounted return,
        in environment reward; ``critic_spread``: standard deviation over the ensemble, in the same unit.
    """
    gamma, running = agent.objective.gamma, recorded.running
    length, left = running.sum(0), steps_left(recorded)
    last = recorded.obs[length, torch.arange(len(length), device=length.device)]
    after = _values(agent, last).amin(0)
    whole = left >= (length / 2).clamp(max=_tail(gamma, len(left)))
    chosen = spread_out(running & (_terminates(recorded) | whole))
    values = _values(agent, recorded.obs.flatten(0, 1)[chosen])
    return {
        "value": float(values.amin(0).mean()),
        "realised_value": float(_discounted(recorded, gamma, after).flatten()[chosen].mean()),
        "critic_spread": float(values.std(0).mean()) if len(values) > 1 else 0.0,
    }


def _values(agent: Agent, obs: Tensor) -> Tensor:
    """Every critic's value [M, B] of observations [B, obs_dim], in environment reward."""
    values: Tensor = agent.critic(agent.world_model.encode(obs))
    return values * agent.reward_scale


@torch.no_grad()
def imagination_gap(agent: Agent, recorded: Recorded) -> dict[str, float]:
    """Imagined and real reward of the deterministic policy over the next H steps from the same states.

    Episodes that end within the H steps earn nothing afterwards, in reality; in imagination later rewards
    count by the predicted probability of getting there.

    Returns:
        ``imagined_reward`` and ``realised_reward`` (sums over H steps, environment reward), and
        ``latent_error_k<k>``: ``open_loop_error`` after 1, 4 and H steps along the recorded actions. Empty
        if no episode lasted H steps.
    """
    horizon = agent.objective.horizon
    chosen, rewards = realised_rewards(recorded, horizon)
    if not len(chosen):
        return {}
    realised = rewards.sum(-1)
    model = agent.world_model
    z = model.encode(recorded.obs.flatten(0, 1)[chosen])
    rollout = imagine(model, agent.policy, z, None, horizon)
    imagined = (reach_weights(rollout) * rollout.rewards).sum(0) * agent.reward_scale
    return {
        "imagined_reward": float(imagined.mean()),
        "realised_reward": float(realised.mean()),
    } | _on_policy_error(model, recorded, horizon)


def realised_rewards(recorded: Recorded, horizon: int) -> tuple[Tensor, Tensor]:
    """Return what the next ``horizon`` >= 1 steps really earned, and where that is known.

    Known are states whose next steps were all recorded, or that terminated for good within them and earned
    nothing afterwards.

    Returns:
        Flat indices (step * N + episode) [B] of at most ``SAMPLES`` evenly spaced states, and their rewards
        [B, horizon].
    """
    running, reward = recorded.running, recorded.reward * recorded.running
    if len(running) <= horizon:
        return running.new_empty(0, dtype=torch.int64), reward.new_empty(0, horizon)
    ended = (recorded.terminated & running).flip(0).cumsum(0).flip(0)[:-horizon].bool()
    chosen = spread_out(running[:-horizon] & (running[horizon:] | ended))
    return chosen, reward.unfold(0, horizon, 1)[:-1].flatten(0, 1)[chosen]


def _on_policy_error(model: WorldModel, recorded: Recorded, horizon: int) -> dict[str, float]:
    chosen = whole_windows(recorded, horizon)
    if not len(chosen):
        return {}
    steps = checked_steps(horizon)
    error = open_loop_error(model, windows(recorded, chosen, horizon), steps)
    return {f"latent_error_k{k}": float(v) for k, v in zip(steps, error, strict=True)}


def whole_windows(recorded: Recorded, steps: int) -> Tensor:
    """At most ``SAMPLES`` evenly spaced states that ``steps`` recorded steps follow.

    Returns:
        Flat indices (step * N + episode); empty if no episode is that long.
    """
    running = recorded.running
    return spread_out(running[: max(0, len(running) - steps + 1)] & running[steps - 1 :])


def windows(recorded: Recorded, starts: Tensor, steps: int) -> Batch:
    """The ``steps`` transitions behind every one of ``starts``, flat indices (step * N + episode) [B]."""
    count = recorded.running.shape[1]
    row, column = starts // count, starts % count
    window = row + torch.arange(steps + 1, device=row.device)[:, None]
    here = window[:-1]
    return Batch(
        recorded.obs[window, column],
        recorded.action[here, column],
        recorded.reward[here, column],
        recorded.terminated[here, column],
        recorded.running[here, column],
    )


def checked_steps(horizon: int) -> list[int]:
    """Horizons at which open-loop errors are reported: 1, 4 and H."""
    return sorted({1, min(4, horizon), horizon})


def spread_out(mask: Tensor) -> Tensor:
    """At most ``SAMPLES`` evenly spaced flat indices of true entries."""
    index = mask.flatten().nonzero().squeeze(1)
    if len(index) <= SAMPLES:
        return index
    return index[torch.linspace(0, len(index) - 1, SAMPLES, device=index.device).long()]
