"""Measurements of model, critic and policy that training does not need but people do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.model_learning import ModelLearner
from pwm.algorithm.rollouts import along_actions, rewards_ahead, values_and_returns, whole_windows, windows
from pwm.data.batch import Batch, Recorded
from pwm.models.world_model import WorldModel

# Of so many draws, smallest and largest enclose a further one with probability 90 %.
SAMPLES = 19


def open_loop_error(model: WorldModel, batch: Batch, steps: Sequence[int]) -> Tensor:
    """Relative latent error [len(steps)] after k open-loop steps, for every k >= 1 in ``steps``.

    The squared error of the predicted z_k divided by the squared change z_k - z_0: 1 is what predicting "no
    change" scores, 0 is perfect. Latents of different models have different scales, so their plain errors
    cannot be compared.
    """
    rollout = along_actions(model, batch)
    return _relative(rollout.error, rollout.change, batch.valid, steps)


def _relative(error: Tensor, change: Tensor, valid: Tensor, steps: Sequence[int]) -> Tensor:
    """Sums over windows of ``error`` [K, B] over those of ``change`` [K, B], after each of ``steps``."""
    chosen = [k - 1 for k in steps]
    known = valid[chosen]
    return (error[chosen] * known).sum(1) / (change[chosen] * known).sum(1)


def latent_errors(model: WorldModel, batch: Batch) -> dict[str, float]:
    """``latent_error_k<k>``: ``open_loop_error`` after 1, 4 and all H steps of ``batch``."""
    steps = _depths(len(batch.action))
    errors = open_loop_error(model, batch, steps)
    return {f"latent_error_k{k}": float(error) for k, error in zip(steps, errors, strict=True)}


def _depths(horizon: int) -> list[int]:
    """Return the steps after which latent errors are reported."""
    return sorted({1, min(4, horizon), horizon})


@torch.no_grad()
def forecast_scores(model: WorldModel, batch: Batch, generator: torch.Generator) -> dict[str, float]:
    """Score the model's distribution of the next latent, one step from the first states of ``batch``.

    All is measured in the units of the latents' changes (``LatentSpace.relative``).

    Args:
        model: the world model; ``SAMPLES`` draws of one that is uncertain, else its one prediction.
        batch: windows; their first transition is looked at.
        generator: source of the draws.

    Returns:
        ``energy_score``: E|X - y| - E|X - X'| / 2 (Gneiting & Raftery 2007) for samples X, X' and what really
        followed, y, over the mean |y - z| of predicting "no change": 0 is perfect, and of all distributions
        the true one scores least on average. Of a certain model it is the relative distance.
        ``coverage``, where the model samples: share of entries of y between the smallest and the largest of
        19 samples; 18/20 if y and samples are drawn alike. ``nll``, where it knows its density: negative log
        density of y, in nats per entry.
    """
    task, valid = batch.task, batch.valid[0]
    z, target = model.encode(batch.obs[:2], task)
    a, e, dynamics = batch.action[0], model.embed(task), model.dynamics
    shape = (SAMPLES if dynamics.noise_dim else 1, len(z))
    many = z.expand(*shape, -1), a.expand(*shape, -1), None if e is None else e.expand(*shape, -1)
    if dynamics.noise_dim:
        noise = torch.randn(*shape, dynamics.noise_dim, generator=generator, device=z.device)
        samples = dynamics.next(*many, noise)
    else:
        samples = dynamics.next(*many)
    distances = dynamics.space.relative(samples - target).norm(dim=-1).mean(0)
    found = {}
    if dynamics.noise_dim:
        relative = dynamics.space.relative(samples - z).transpose(0, 1)
        distances = distances - torch.cdist(relative, relative).sum((1, 2)) / (2 * SAMPLES * (SAMPLES - 1))
        inside = (target >= samples.amin(0)) & (target <= samples.amax(0))
        found["coverage"] = float(inside[valid].float().mean())
    unchanged = dynamics.space.relative(target - z).norm(dim=-1)
    found["energy_score"] = float(distances[valid].sum() / unchanged[valid].sum())
    if (density := dynamics.log_density(z, a, target, e)) is not None:
        found["nll"] = float(-density[valid].mean() / z.shape[-1])
    return found


@torch.no_grad()
def fit_of_groups(learner: ModelLearner, batch: Batch, sizes: Sequence[int]) -> list[dict[str, float]]:
    """Measure how well the model predicts the windows of ``batch``, group by group, in one rollout.

    Args:
        learner: the world model, and the scale of its rewards.
        batch: windows, those of a group one after the other.
        sizes: windows of every group, at least one each.

    Returns:
        Of every group ``latent_errors``, and ``reward_rmse``: root mean squared error of the rewards expected
        along the recorded actions, in environment reward.
    """
    model, steps = learner.world_model, _depths(len(batch.action))
    rollout = along_actions(model, batch)
    raw = model.reward(rollout.imagined[:-1], batch.action, batch.task)
    gap = model.reward_head.decode(raw) * learner.scale_of(batch.task) - batch.reward
    found = []
    columns = (x.split(list(sizes), dim=1) for x in (rollout.error, rollout.change, gap, batch.valid))
    for error, change, missed, valid in zip(*columns, strict=True):
        latents = _relative(error, change, valid, steps).tolist()
        named = {f"latent_error_k{k}": value for k, value in zip(steps, latents, strict=True)}
        found.append({**named, "reward_rmse": float(missed[valid].square().mean().sqrt())})
    return found


def value_calibration(agent: Agent, recorded: Recorded) -> dict[str, float]:
    """Compare what the critic expects from recorded states with what was earned; see ``values_and_returns``.

    Returns:
        ``value`` and ``realised_value``: means of the ensemble's smallest value and of the discounted return,
        in environment reward; ``critic_spread``: standard deviation over the ensemble, in the same unit.
    """
    found = values_and_returns(agent, recorded)
    return {
        "value": float(found.value.mean()),
        "realised_value": float(found.returns.mean()),
        "critic_spread": found.spread,
    }


def imagination_gap(agent: Agent, recorded: Recorded) -> dict[str, float]:
    """Imagined and real reward of the deterministic policy over the next H steps from the same states.

    Returns:
        ``imagined_reward`` and ``realised_reward`` (sums over H steps, see ``rewards_ahead``), and
        ``latent_errors`` along the recorded actions. Empty if no episode lasted H steps.
    """
    horizon = agent.objective.horizon
    imagined, realised = rewards_ahead(agent, recorded, horizon)
    if not realised.numel():
        return {}
    found = {
        "imagined_reward": float(imagined.sum(0).mean()),
        "realised_reward": float(realised.sum(0).mean()),
    }
    chosen = whole_windows(recorded, horizon)
    if len(chosen):
        found |= latent_errors(agent.world_model, windows(recorded, chosen, horizon))
    return found
