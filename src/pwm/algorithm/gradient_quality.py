"""How good a gradient is: its signal-to-noise ratio, its bias and variance against a large batch, and how
much the imagined rollout that it passes through stretches it.

Everything is measured at fixed parameters and fixed normalisers, and changes neither them nor any ``.grad``.

What can be said about bias. The actor's loss is a mean over start states, so the gradient of a small batch
equals on average that of any larger one: unclipped, its bias against a large batch is zero, and measuring it
checks the measurement. Clipping is not linear: long gradients are shortened and short ones are not, so the
average clipped gradient is shorter and may point elsewhere. That bias is real, and ``actor_gradient_bias``
measures it. Whether the imagined objective is the right one is another question, which no batch size answers:
errors of model and critic are in small and large batches alike (``pwm.algorithm.diagnostics``).

The estimate. Let g be one gradient and r one of the reference, with means mu and rho. They are drawn in G
independent groups with mean gradients g_k and r_k; let u_k = g_k - r_k. For k != l the product u_k . u_l is
|mu - rho|^2 on average, while |u_k|^2 also holds the noise. Averages over pairs of different groups
(U-statistics, Hoeffding 1948) are therefore free of the noise of both sides, and may be negative where the
bias is small. The standard error is the jackknife over groups, on average rather too large (Efron & Stein
1981). Cosines of single gradients to that of a large sample follow Ilyas et al. 2020, "A Closer Look at Deep
Policy Gradients".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.gradient_moments import GradientMoments, entry_statistics, to_db
from pwm.algorithm.losses import actor_loss, imagine
from pwm.algorithm.model_learning import ModelLearner
from pwm.algorithm.updates import Updater
from pwm.data.batch import Batch
from pwm.errors import DataError

# Gradients per measurement while training: together they cost about one epoch. Pure noise shows as 1/7 in
# esnr (-8.5 dB) and as 0 in esnr_unbiased.
MICRO_BATCHES = 8
# Independent repetitions inside one estimate of bias, from which its standard error is taken.
GROUPS = 8
# Batches whose mean is one reference gradient. With G groups the reference rests on G times as many.
REFERENCE_BATCHES = 16
# Random directions per state in which the stretch of a rollout is measured.
DIRECTIONS = 16

Draw = Callable[[], Sequence[Tensor]]


def actor_gradient(agent: Agent, z: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Gradient of the actor's loss, before clipping, imagined from latents ``z`` [B, L].

    Nothing interrupts the rollout: under lockstep collection, training also sees real episode ends.
    """
    learner = agent.actor_critic
    rollout = learner.imagine(agent.world_model, z, generator=generator)
    per_entry = actor_loss(rollout, learner.target_critic, agent.objective.gamma).per_entry
    return _gradient(learner.updaters["actor"], learner.loss(rollout, per_entry))


def model_gradient(learner: ModelLearner, batch: Batch, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Gradient of the world model's loss, before clipping, on ``batch`` (rewards in environment units)."""
    return _gradient(learner.updater, learner.loss(batch, generator)[0])


def _gradient(updater: Updater, loss: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, updater.parameters, materialize_grads=True)


def report(moments: GradientMoments) -> dict[str, float]:
    """Metrics of the gradients in ``moments`` (at least 2), by the names of ``docs/metrics.md``."""
    stats = entry_statistics(moments.mean)
    return {
        "esnr": float(moments.esnr),
        "esnr_db": float(to_db(moments.esnr)),
        "esnr_unbiased": float(moments.esnr_unbiased),
    } | {f"mean_grad_{name}": stats[name] for name in ("norm", "max_abs", "zeros", "non_finite")}


def stretch_db(agent: Agent, z: Tensor, generator: torch.Generator) -> Tensor:
    """How much an imagined rollout of the horizon H stretches small changes of its start ``z`` [B, L].

    The mean over states of 10 log10(|J|_F^2 / L) for J = dz_H/dz_0 with the deterministic policy: in decibel,
    0 for a rotation, above where the rollout stretches. A gradient that passes back through it is stretched
    alike. Norms come from random signs (Hutchinson 1990), as in ``pwm.analysis.model_quality.smoothness``.
    """
    with torch.enable_grad():
        start = z.detach().requires_grad_()
        end = imagine(agent.world_model, agent.policy, start, None, agent.objective.horizon).next_latents[-1]
        squares = torch.zeros(len(z), device=z.device)
        for _ in range(DIRECTIONS):
            bits = torch.randint(0, 2, end.shape, generator=generator, device=z.device)
            (pulled,) = torch.autograd.grad(end, start, (2 * bits - 1).to(end), retain_graph=True)
            squares += pulled.square().sum(-1)
    return to_db(squares / (DIRECTIONS * z.shape[-1])).mean()


@dataclass(frozen=True)
class GradientBias:
    """A gradient estimate against a reference; everything relative to the reference's length |rho|.

    All are NaN if the reference cannot be told from noise; larger batches help.

    Attributes:
        squared_bias: |mu - rho|^2 / |rho|^2, noise of both sides removed; negative values mean "none seen".
        squared_bias_se: its standard error, rather too large than too small.
        variance: tr Cov(g) / |rho|^2 of one gradient, the inverse of its signal-to-noise ratio.
        cosine: mean cosine between one gradient and rho. Below 1 because of noise and of bias.
        direction: cosine between mu and rho. Below 1 because of bias alone; a wrong length does not show.
            What noise is left can lift it above 1; NaN if mu cannot be told from noise.
        reference_norm: |rho|, noise removed.
    """

    squared_bias: float
    squared_bias_se: float
    variance: float
    cosine: float
    direction: float
    reference_norm: float

    @property
    def bias(self) -> float:
        """Relative bias |mu - rho| / |rho|: 0 where noise explains the whole difference."""
        return math.sqrt(max(self.squared_bias, 0.0))

    @property
    def bias_bound(self) -> float:
        """Largest relative bias that is within two standard errors."""
        return math.sqrt(max(self.squared_bias + 2.0 * self.squared_bias_se, 0.0))


@torch.no_grad()
def gradient_bias(draw: Draw, reference: Draw, batches: int = 64) -> GradientBias:
    """Bias and variance of the gradients of ``draw`` against the mean of those of ``reference``.

    Args:
        draw: returns the gradient of a fresh batch, independent of all others, one tensor per parameter.
        reference: the same for a batch so large that its noise is small; called ``GROUPS`` times.
        batches: gradients to draw, rounded up to a multiple of ``GROUPS``.

    Keeps two gradients per group, however many are drawn.
    """
    references = torch.stack([_flat(reference()) for _ in range(GROUPS)])
    target = references.mean(0)
    everything, cosines, means = GradientMoments(), [], []
    for _ in range(GROUPS):
        group = GradientMoments()
        for _ in range(-(-batches // GROUPS)):
            gradient = _flat(draw())
            everything.add([gradient])
            group.add([gradient])
            cosines.append(gradient @ target / gradient.norm())
        means.append(group.mean[0])
    return _compared(torch.stack(means), references, everything.variance, torch.stack(cosines).mean())


def _flat(gradient: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in gradient]).double()


def _compared(means: Tensor, references: Tensor, variance: Tensor, projection: Tensor) -> GradientBias:
    """The result from [G, D] group means, total variance, and mean length of |rho| along one gradient."""
    both = torch.cat([means, references])
    products = both @ both.T
    gg, gr, rr = products[:GROUPS, :GROUPS], products[:GROUPS, GROUPS:], products[GROUPS:, GROUPS:]
    difference = gg - gr - gr.T + rr
    length = _between(rr)
    if not length > 0.0:
        return GradientBias(*[math.nan] * 6)
    squared = _between(difference) / length
    left_out = torch.stack(
        [_between(_without(difference, k)) / _between(_without(rr, k)) for k in range(GROUPS)]
    )
    return GradientBias(
        squared_bias=float(squared),
        squared_bias_se=float(((GROUPS - 1) * left_out.var(correction=0)).sqrt()),
        variance=float(variance / length),
        cosine=float(projection / length.sqrt()),
        direction=float(_between(gr) / (_between(gg) * length).sqrt()),
        reference_norm=float(length.sqrt()),
    )


def _between(products: Tensor) -> Tensor:
    """Mean of a square matrix of products over pairs of different groups."""
    count = len(products)
    return (products.sum() - products.trace()) / (count * (count - 1))


def _without(products: Tensor, group: int) -> Tensor:
    kept = [k for k in range(len(products)) if k != group]
    return products[kept][:, kept]


def actor_gradient_bias(
    agent: Agent,
    obs: Tensor,
    batch_size: int,
    generator: torch.Generator,
    clipped: bool = True,
    batches: int = 64,
) -> GradientBias:
    """Bias and variance of the actor's gradient from ``batch_size`` start states against a large batch.

    Every batch starts from states drawn anew, with replacement, and meets new policy noise. The reference is
    never clipped and rests on ``GROUPS * REFERENCE_BATCHES`` batches: their mean is the gradient of one batch
    of that size, in the memory of a small one.

    Args:
        agent: whose gradient; it is not changed.
        obs: observations [N, obs_dim] to start from, for instance those of evaluated episodes.
        batch_size: start states of one gradient (``alg.actor_batch_size`` in training).
        generator: source of all randomness, on the agent's device; equal seeds give equal results.
        clipped: measure the gradient as the optimiser is given it; False measures it before clipping, which
            is unbiased (see the module's text).
        batches: gradients to draw.

    Raises:
        DataError: there is no state to start from, or no batch to draw.
    """
    for name, value in (("obs", len(obs)), ("batch_size", batch_size), ("batches", batches)):
        if value < 1:
            raise DataError(f"the gradient cannot be measured with {name} of size {value}; the minimum is 1")

    def draw() -> tuple[Tensor, ...]:
        chosen = torch.randint(len(obs), (batch_size,), generator=generator, device=obs.device)
        z = agent.world_model.encode(obs[chosen])
        with torch.enable_grad():
            return actor_gradient(agent, z, generator)

    def draw_clipped() -> list[Tensor]:
        gradient = draw()
        factor = agent.actor_critic.options.actor_grad_norm / _flat(gradient).norm()
        return [part * factor.clamp(max=1.0) for part in gradient]

    def reference() -> list[Tensor]:
        moments = GradientMoments()
        for _ in range(REFERENCE_BATCHES):
            moments.add(draw())
        return moments.mean

    return gradient_bias(draw_clipped if clipped else draw, reference, batches)
