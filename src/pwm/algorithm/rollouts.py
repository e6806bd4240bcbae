"""Real rollouts, and what model and critic expected of them from the same states.

This is the one place that chooses states of recorded episodes and imagines beside them: what training logs
(``pwm.algorithm.diagnostics``), what ``pwm diagnose`` measures and what ``pwm imagine`` draws are figures of
what it returns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.losses import imagine, reach_weights
from pwm.data.batch import Batch, Recorded
from pwm.models.dynamics.base import unroll
from pwm.models.world_model import WorldModel

# States of recorded episodes that a report looks at, evenly spaced.
SAMPLES = 512
# A reward so much discounted is not missed.
NEGLIGIBLE = 0.05


def spread_out(mask: Tensor) -> Tensor:
    """At most ``SAMPLES`` evenly spaced flat indices of true entries."""
    return evenly(mask.flatten().nonzero().squeeze(1), SAMPLES)


def evenly(index: Tensor, most: int) -> Tensor:
    """At most ``most`` evenly spaced entries of ``index`` [n], the first and the last among them."""
    if len(index) <= most:
        return index
    return index[torch.linspace(0, len(index) - 1, most, device=index.device).long()]


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


def observations(recorded: Recorded) -> Tensor:
    """All observations [n, obs_dim] of the recorded episodes, the last one of each included."""
    after = torch.cat([torch.ones_like(recorded.running[:1]), recorded.running])
    return recorded.obs[after]


class OpenLoop(NamedTuple):
    """B windows of K recorded steps, encoded and as the model imagines them along the same actions.

    Attributes:
        action: [K, B, A], the recorded actions.
        encoded: [K+1, B, L], latents of the recorded observations.
        imagined: [K+1, B, L], the model's rollout from the first of them.
        error: [K, B], squared distance of the two after 1..K steps.
        change: [K, B], squared distance of ``encoded`` from its start, what predicting "no change" misses.
    """

    action: Tensor
    encoded: Tensor
    imagined: Tensor
    error: Tensor
    change: Tensor

    @property
    def relative(self) -> Tensor:
        """Errors [K, B] over the mean change of all windows; the mean over B of "no change" is 1."""
        return self.error / self.change.mean(1, keepdim=True)

    def rewards(self, agent: Agent) -> Tensor:
        """Environment reward [K, B] that ``agent``'s model expects on the way."""
        model = agent.world_model
        return model.reward_head.decode(model.reward(self.imagined[:-1], self.action)) * agent.reward_scale


@torch.no_grad()
def along_actions(model: WorldModel, batch: Batch) -> OpenLoop:
    """Imagine along the actions of ``batch``."""
    encoded = model.encode(batch.obs, batch.task)
    imagined = unroll(model.dynamics, encoded[0], batch.action, model.embed(batch.task))
    error = (imagined - encoded)[1:].square().sum(-1)
    change = (encoded[1:] - encoded[0]).square().sum(-1)
    return OpenLoop(batch.action, encoded, imagined, error, change)


@torch.no_grad()
def rewards_ahead(agent: Agent, recorded: Recorded, steps: int) -> tuple[Tensor, Tensor]:
    """Compare what the deterministic policy earns in imagination and in reality in the next steps.

    Episodes that end within them earn nothing afterwards, in reality; in imagination later rewards count by
    the predicted probability of getting there.

    Returns:
        Imagined and real environment reward of each step, both [steps, B], from the same B states, those of
        ``realised_rewards``; B is 0 if no episode is longer than that.
    """
    chosen, rewards = realised_rewards(recorded, steps)
    z = agent.world_model.encode(recorded.obs.flatten(0, 1)[chosen])
    rollout = imagine(agent.world_model, agent.policy, z, None, steps)
    return reach_weights(rollout) * rollout.rewards * agent.reward_scale, rewards.T


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


class Valued(NamedTuple):
    """Values that the critics expect of B recorded states, and the returns that followed (environment units).

    Attributes:
        latents: [B, L], the states.
        values: [M, B], of every critic.
        returns: [B], discounted.
    """

    latents: Tensor
    values: Tensor
    returns: Tensor

    @property
    def value(self) -> Tensor:
        """Smallest value [B] of the ensemble."""
        return self.values.amin(0)

    @property
    def spread(self) -> float:
        """Mean standard deviation over the ensemble; 0 for a single critic."""
        return float(self.values.std(0).mean()) if len(self.values) > 1 else 0.0


@torch.no_grad()
def values_and_returns(agent: Agent, recorded: Recorded) -> Valued:
    """Values of at most ``SAMPLES`` recorded states, and the discounted returns that followed.

    What a cut episode would have earned after its end is not known; the critic's value of its last
    observation, discounted, stands in for it. Both sides share this part, so of an over-estimate that is
    the same everywhere the share 1 - gamma^n shows where n recorded steps follow. States are therefore taken
    only where n is at least half of the episode, or large enough for that share to be 95 %. Episodes that
    terminated are known to the end, and give all their states. The first state of every episode always
    counts.

    The two sides also differ in the policy: the critic learns the value of sampled actions, the recorded
    episodes are those of the deterministic policy.
    """
    running, gamma = recorded.running, agent.objective.gamma
    length, steps = running.sum(0), torch.arange(len(running), device=running.device)
    last = recorded.obs[length, torch.arange(len(length), device=length.device)]
    after = _values(agent, agent.world_model.encode(last)).amin(0)
    enough = math.log(NEGLIGIBLE) / math.log(gamma) if 0.0 < gamma < 1.0 else float(len(running))
    terminates = (recorded.terminated & running).any(0)
    whole = length - steps[:, None] >= (length / 2).clamp(max=enough)
    chosen = spread_out(running & (terminates | whole))
    z = agent.world_model.encode(recorded.obs.flatten(0, 1)[chosen])
    return Valued(z, _values(agent, z), _discounted(recorded, gamma, after).flatten()[chosen])


def _values(agent: Agent, z: Tensor) -> Tensor:
    """Every critic's value [M, B] of latents [B, L], in environment reward."""
    values: Tensor = agent.critic(z)
    return values * agent.reward_scale


def _discounted(recorded: Recorded, gamma: float, after: Tensor) -> Tensor:
    """Discounted return [T, N] of what was recorded, with ``after`` [N] for what follows a cut episode."""
    returns = torch.empty_like(recorded.reward)
    total = after
    for t in reversed(range(len(returns))):
        gained = recorded.reward[t] + gamma * ~recorded.terminated[t] * total
        total = torch.where(recorded.running[t], gained, total)
        returns[t] = recorded.running[t] * total
    return returns
