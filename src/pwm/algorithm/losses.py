"""Losses of the world model, the actor and the critic, each a free function returning (loss, metrics)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pwm.algorithm.returns import td_lambda, trajectory_objective
from pwm.data.batch import Batch
from pwm.models.actors.base import Decision
from pwm.models.critic import CriticEnsemble
from pwm.models.layers import discounts
from pwm.models.world_model import WorldModel

Metrics = dict[str, Tensor]


class Coefs(NamedTuple):
    """Weights of the world model's losses."""

    dynamics: float = 1.0
    reward: float = 1.0
    termination: float = 1.0


EQUAL = Coefs()


def world_model_loss(
    model: WorldModel,
    batch: Batch,
    gamma: float = 0.99,
    coefs: Coefs = EQUAL,
    draws: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Weighted sum of the dynamics loss, the reward loss and the termination loss.

    Dynamics and reward loss are gamma-weighted means over the transitions; the termination loss is the mean
    binary cross-entropy of the predictor, if the model has one. Padding counts in none of them.

    Args:
        model: the world model.
        batch: up to H transitions of B windows; ``reward`` in the units the model is to predict, and ``task``
            where the model has several.
        gamma: weight gamma**t of transition t, in both terms.
        coefs: weights of the three losses.
        draws: random numbers for the dynamics, see ``Dynamics.draw``; None draws from the global generator.

    Returns:
        Scalar loss, and detached ``loss``, ``dynamics_loss``, ``reward_loss`` (``termination_loss``).
    """
    horizon, task = len(batch.action), batch.task
    source_steps = horizon if model.dynamics.teacher_forced else 1
    source = model.encode(batch.obs[:source_steps], task)
    with torch.no_grad():
        target = model.encode(batch.obs[1:], task)
    valid = batch.valid.to(batch.reward.dtype)
    valid = valid / valid.mean()
    weights = discounts(gamma, horizon, valid)[:, None] * valid
    e = model.embed(task)
    parts = model.dynamics.space.weighed(weights, e)
    dynamics = model.dynamics.loss(source, batch.action, target, parts, e, draws)
    raw = model.reward(dynamics.latents, batch.action, task)
    reward_loss = (weights * model.reward_head.loss(raw, batch.reward)).mean()
    loss = coefs.dynamics * dynamics.loss + coefs.reward * reward_loss
    metrics = {"dynamics_loss": dynamics.loss.detach(), "reward_loss": reward_loss.detach()}
    logit = model.termination(dynamics.latents, batch.action, task)
    if logit is not None:
        termination_loss = F.binary_cross_entropy_with_logits(logit, batch.terminated.to(logit.dtype), valid)
        loss = loss + coefs.termination * termination_loss
        metrics["termination_loss"] = termination_loss.detach()
    return loss, metrics | {"loss": loss.detach()}


class Feedback(NamedTuple):
    """Answer of a real environment to one imagined step (lockstep collection).

    Attributes:
        ends: [B] bool, the episode ended, for whatever reason.
        terminated: [B] bool, it ended for good: the value after it is zero.
        z: [B, L], encoded first observation of the next episode, read where ``ends``.
    """

    ends: Tensor
    terminated: Tensor
    z: Tensor


# (t, action [B, A]) -> feedback of the environment that executed the action. Where real episodes end decides
# from which latent the published rule imagines on, so its collection has to happen inside the rollout;
# ``imagine`` knows of it no more than this.
Interrupt = Callable[[int, Tensor], Feedback]


class Policy(Protocol):
    """Acts in imagination: an actor, or one that is told its tasks."""

    def decide(self, z: Tensor, noise: Tensor | None = None) -> Decision:
        """Return the decision at latents z [B, L], with ``noise`` [B, noise_dim] or without."""
        ...


class Critic(Protocol):
    """Values states: an ensemble, or one that is told their tasks."""

    def minimum(self, z: Tensor) -> Tensor:
        """Return the smallest member value [...] of latents z [..., L]."""
        ...


class Imagined(NamedTuple):
    """An imagined rollout, with gradient.

    Attributes:
        latents: [H, B, L], z_t the policy acted on.
        next_latents: [H, B, L], the model's prediction after action t (before any episode reset).
        actions: [H, B, A].
        locations: [H, B, A], deterministic actions before the squashing (``Decision.location``).
        rewards: [H, B], decoded.
        ends, terminated: [H, B] bool, or None when nothing interrupted the rollout.
        survival: [H, B], predicted probability that each transition does not terminate; None where real
            ends are known or the model does not predict terminations.
        log_probs: [H, B], log densities of the actions; None where the policy does not tell them.
    """

    latents: Tensor
    next_latents: Tensor
    actions: Tensor
    locations: Tensor
    rewards: Tensor
    ends: Tensor | None
    terminated: Tensor | None
    survival: Tensor | None
    log_probs: Tensor | None = None


def imagine(
    model: WorldModel,
    policy: Policy,
    z: Tensor,
    noise: Tensor | None,
    horizon: int,
    task: Tensor | None = None,
    interrupt: Interrupt | None = None,
    model_noise: Tensor | None = None,
) -> Imagined:
    """Roll the policy through the model for ``horizon`` steps.

    Args:
        model: world model. Gradient reaches its parameters, too; ``Updater.step`` asks for those of its own
            network only.
        policy: decides at latents.
        z: start latents [B, L].
        noise: [H, B, noise_dim], or None for the deterministic policy.
        horizon: H.
        task: int64 [B], or None.
        interrupt: called after every action; says where a real episode ended and with which latent the
            rollout continues there.
        model_noise: [H, B, noise_dim of the dynamics] to sample what follows; None for its mean.
    """
    e = model.embed(task)
    latents, next_latents, actions, locations, log_probs, feedback = [], [], [], [], [], []
    for t in range(horizon):
        a, location, log_prob = policy.decide(z, None if noise is None else noise[t])
        if log_prob is not None:
            log_probs.append(log_prob.sum(-1))
        drawn = () if model_noise is None else (model_noise[t],)
        z_next = model.dynamics.next(z, a, e, *drawn)
        latents.append(z)
        actions.append(a)
        locations.append(location)
        next_latents.append(z_next)
        if interrupt is not None:
            feedback.append(interrupt(t, a.detach()))
            z_next = torch.where(feedback[-1].ends.unsqueeze(-1), feedback[-1].z, z_next)
        z = z_next
    stacked, action = torch.stack(latents), torch.stack(actions)
    # All H rewards in one call: one large matrix product instead of H small ones.
    rewards = model.reward_head.decode(model.reward(stacked, action, task))
    ends = terminated = survival = None
    if feedback:
        ends = torch.stack([f.ends for f in feedback])
        terminated = torch.stack([f.terminated for f in feedback])
    else:
        logit = model.termination(stacked, action, task)
        survival = None if logit is None else torch.sigmoid(-logit)
    return Imagined(
        stacked,
        torch.stack(next_latents),
        action,
        torch.stack(locations),
        rewards,
        ends,
        terminated,
        survival,
        torch.stack(log_probs) if log_probs else None,
    )


class ActorLoss(NamedTuple):
    """Result of ``actor_loss``.

    Attributes:
        per_entry: [B], the negative objective of every rollout, with gradient, unscaled.
        next_values: [H, B], detached ensemble-min values after each step, zero where terminated.
    """

    per_entry: Tensor
    next_values: Tensor


def actor_loss(rollout: Imagined, critic: Critic, gamma: float) -> ActorLoss:
    """First-order actor loss: minus the imagined return plus gamma^H times the ensemble-min value.

    Gradient flows through rewards, values and the dynamics into the policy (Georgiev et al. 2024, eq. 4).
    Values inside the window matter to the actor only where an episode ended, so without interruptions
    only the last value carries gradient.
    """
    if rollout.ends is None:
        inside = critic.minimum(rollout.next_latents[:-1].detach()).detach()
        bootstrap = torch.cat([inside, critic.minimum(rollout.next_latents[-1:])])
    else:
        assert rollout.terminated is not None
        bootstrap = torch.where(rollout.terminated, 0.0, critic.minimum(rollout.next_latents))
    objective = trajectory_objective(rollout.rewards, bootstrap, rollout.ends, gamma, rollout.survival)
    return ActorLoss(-objective, bootstrap.detach())


def critic_targets(rollout: Imagined, next_values: Tensor, gamma: float, lam: float) -> Tensor:
    """TD(lambda) targets [H, B] of the rollout's latents, without gradient."""
    survival = None if rollout.survival is None else rollout.survival.detach()
    return td_lambda(rollout.rewards.detach(), next_values, rollout.ends, gamma, lam, survival)


def reach_weights(rollout: Imagined) -> Tensor:
    """Probability [H, B], detached, that the episode is still running when z_t is reached.

    States imagined after a likely termination are not real; the critic should not learn their values.
    """
    if rollout.survival is None:
        return torch.ones_like(rollout.rewards)
    alive = rollout.survival.detach().cumprod(0)
    return torch.cat([torch.ones_like(alive[:1]), alive[:-1]])


def critic_loss(
    critic: CriticEnsemble,
    z: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    task: Tensor | None = None,
) -> Tensor:
    """Mean squared error over members and samples, in units of the critic's own scale.

    Args:
        critic: the ensemble.
        z: latents [N, L].
        target: values [N].
        weight: importance of each sample [N]; default 1.
        task: int64 [N] where the critics know several tasks.

    Raises:
        ValueError: targets do not match the latents; broadcasting would hide it.
    """
    if target.shape != z.shape[:-1]:
        raise ValueError(f"targets have shape {tuple(target.shape)}, expected {tuple(z.shape[:-1])}")
    values, std = critic(z, task), critic.std if task is None else critic.std[task]
    error: Tensor = ((values - target) / std).square()
    return error.mean() if weight is None else (weight * error).mean()
