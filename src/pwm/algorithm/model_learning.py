"""A world model that learns: its loss in environment units, its optimiser, the scale of its rewards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pwm import checks
from pwm.algorithm import objective, updates
from pwm.algorithm.losses import Coefs, Metrics, world_model_loss
from pwm.algorithm.ranks import ALONE, Ranks
from pwm.algorithm.updates import Updater
from pwm.data.batch import Batch
from pwm.errors import ConfigError
from pwm.models.layers import device_of
from pwm.models.normalization import RunningMeanStd
from pwm.models.world_model import WorldModel

# Least standard deviation of rewards as a share of their mean. A reward that is always the same thus becomes
# 10, which the model learns quickly, and not a number without bounds.
CONSTANT_REWARD = 0.1
BETAS = (0.9, 0.999)


@dataclass
class Options:
    """Training of a world model.

    Attributes:
        model_lr: initial learning rate.
        encoder_lr_scale: learning rate of the encoder as a share of ``model_lr``. The encoder makes the
            targets of the dynamics; a slow one lets them be met, and shrinks less to make them easy.
        wm_grad_norm: gradient-norm clip.
        wm_iterations, wm_batch_size: updates per epoch, windows per update.
        dynamics_coef, reward_coef, termination_coef: weights of the three losses. Latent errors are tiny
            numbers: with equal weights the dynamics learn to please the reward head and predict the next
            latent hardly better than "no change".
        rew_rms: train on rewards divided by their running standard deviation.
    """

    model_lr: float = 3e-4
    encoder_lr_scale: float = 1.0
    wm_grad_norm: float = 20.0
    wm_iterations: int = 8
    wm_batch_size: int = 256
    dynamics_coef: float = 1.0
    reward_coef: float = 1.0
    termination_coef: float = 1.0
    rew_rms: bool = True

    def __post_init__(self) -> None:
        checks.at_least_one(self, "wm_batch_size")
        checks.positive(self, "model_lr", "encoder_lr_scale")
        checks.norm_limit(self, "wm_grad_norm")
        checks.not_negative(self, "dynamics_coef", "reward_coef", "termination_coef")
        if self.wm_iterations < 0:
            raise ConfigError(f"alg.wm_iterations={self.wm_iterations}; it must not be negative")


class ModelLearner(nn.Module):
    """A world model and all that trains it.

    Args:
        options: how it is trained.
        target: horizon and discount.
        optimisation: what all optimisers share.
        world_model: what is trained.
        generator: source of the losses' random draws; None draws from the global one.
        ranks: the processes that train the model together.
    """

    def __init__(
        self,
        options: Options,
        target: objective.Options,
        optimisation: updates.Options,
        world_model: WorldModel,
        generator: torch.Generator | None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.ranks = ranks
        self.options, self.objective, self.generator = options, target, generator
        self.world_model = world_model
        # Without prior counts, which have a size of their own: environments pay millions or millionths.
        statistics = RunningMeanStd(epsilon=0.0, groups=world_model.n_tasks)
        self.reward_rms = statistics.to(device_of(world_model))
        self.updater = Updater(
            "world-model",
            world_model.parameters(),
            options.model_lr,
            BETAS,
            options.wm_grad_norm,
            optimisation.max_skipped_updates,
            world_model.encoder.parameters(),
            options.encoder_lr_scale,
            ranks=ranks,
        )

    @property
    def reward_scale(self) -> Tensor:
        """Environment reward that one unit of the model's reward is worth, shape [1], or [n_tasks]."""
        if not self.options.rew_rms:
            return torch.ones_like(self.reward_rms.var)
        return self.reward_rms.relative_std(CONSTANT_REWARD)

    def observe(self, obs: Tensor, rewards: Tensor, task: Tensor | None = None) -> None:
        """Fold observations [n, obs_dim] and environment rewards [n] of tasks [n] into running statistics."""
        self.reward_rms.update(rewards, task)
        if self.world_model.obs_rms is not None:
            self.world_model.obs_rms.update(obs, task)

    def scale_of(self, task: Tensor | None) -> Tensor:
        """Return ``reward_scale`` of tasks int64 [B] as [B], or [1] where there is a single one."""
        return self.reward_scale if task is None else self.reward_scale[task]

    def draw(self, shape: Sequence[int], generator: torch.Generator | None) -> Tensor | None:
        """Return the random numbers for the loss of [H, B] transitions, see ``Dynamics.draw``."""
        horizon, windows = shape
        like = next(self.world_model.parameters())
        return self.world_model.dynamics.draw((horizon, windows), like, generator)

    def loss(
        self, batch: Batch, generator: torch.Generator | None, draws: Tensor | None = None
    ) -> tuple[Tensor, Metrics]:
        """Return the loss on ``batch`` (rewards in environment units), and its parts detached.

        ``draws`` are its random numbers; None takes new ones from ``generator``.
        """
        opts = self.options
        if draws is None:
            draws = self.draw(batch.reward.shape, generator)
        scaled = batch._replace(reward=batch.reward / self.scale_of(batch.task))
        coefs = Coefs(opts.dynamics_coef, opts.reward_coef, opts.termination_coef)
        return world_model_loss(self.world_model, scaled, self.objective.gamma, coefs, draws)

    def update(self, batch: Batch, pieces: int = 1, draws: Tensor | None = None) -> Metrics:
        """Take one gradient step on ``batch`` (rewards in environment units).

        With several ``pieces`` the gradient is added up over parts of the batch one after the other, which
        takes a fraction of the memory. Where several processes train together, ``batch`` and ``draws`` are
        this one's share. Both give the same step as the whole batch does, to rounding.

        Args:
            batch: windows to learn from.
            pieces: see above.
            draws: random numbers for the loss of these windows; None takes new ones.
        """
        if self.world_model.observes:
            obs, valid = self.ranks.whole(batch.obs, 1), self.ranks.whole(batch.valid, 1)
            task = None if batch.task is None else self.ranks.whole(batch.task, 0)
            self.world_model.observe(obs, valid, task)
        if pieces == 1 and self.ranks.size == 1:
            loss, metrics = self.loss(batch, self.generator, draws)
            metrics["grad_norm"] = self.updater.step(loss)
        else:
            if draws is None:
                draws = self.draw(batch.reward.shape, self.generator)
            metrics = self._accumulate(batch, pieces, draws)
        self.world_model.project()
        return metrics

    def _accumulate(self, batch: Batch, pieces: int, draws: Tensor | None) -> Metrics:
        found: list[Metrics] = []
        parts = [None] * pieces if draws is None else draws.tensor_split(pieces, dim=1)

        def losses() -> Iterator[Tensor]:
            total = self.ranks.sum(batch.valid.sum())
            for piece, part in zip(batch.pieces(pieces), parts, strict=True):
                # Losses are means over the valid transitions.
                share = piece.valid.sum() / total
                loss, metrics = self.loss(piece, self.generator, part)
                found.append({name: value * share for name, value in metrics.items()})
                yield loss * share

        norm = self.updater.step_over(losses())
        sums = torch.stack([torch.stack(list(metrics.values())) for metrics in found]).sum(0)
        return dict(zip(found[0], self.ranks.sum(sums), strict=True)) | {"grad_norm": norm}
