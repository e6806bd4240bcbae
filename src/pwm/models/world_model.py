"""World model: encoder, latent dynamics, reward head, and an optional task embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pwm.errors import ConfigError
from pwm.models import scalar_heads
from pwm.models.dynamics.base import Dynamics, load_dynamics
from pwm.models.latent_space import KINDS, LatentSpace, Observations, Simplices
from pwm.models.layers import SimNorm, check_units, concat_inputs, init_weights, mlp
from pwm.models.normalization import RunningMeanStd
from pwm.models.scalar_heads import ScalarHead


@dataclass
class Options:
    """Sizes of a world model.

    Attributes:
        latents: ``simnorm`` (a learned encoder that ends in SimNorm, as published) or ``observations`` (the
            observations themselves, normalised if ``obs_rms``; the next four options are then not used).
        padded_obs_dim: width to which latents that are observations are filled up with zeros; 0 adds none.
            One task of a model of several keeps the width of the widest.
        latent_dim: width L of SimNorm latents; a multiple of ``simnorm_dim``.
        simnorm_dim: group size V of SimNorm.
        encoder_units: hidden widths of the encoder.
        simnorm_scale: what every SimNorm group sums to: 1 as published, or ``simnorm_dim`` to give latents
            the average 1.
        reward_units: hidden widths of the reward network.
        task_dim: width of the task embedding; 0 for a single task.
        obs_rms: normalise observations by their running mean and standard deviation, those of every task by
            its own.
        predict_termination: learn where episodes terminate, so that imagination can end there.
        termination_units: hidden widths of that predictor.
        reward_head: loss and decoding of the reward.
    """

    latent_dim: int = 512
    simnorm_dim: int = 8
    encoder_units: list[int] = field(default_factory=lambda: [256])
    reward_units: list[int] = field(default_factory=lambda: [512, 512])
    task_dim: int = 0
    obs_rms: bool = True
    predict_termination: bool = True
    termination_units: list[int] = field(default_factory=lambda: [128])
    reward_head: scalar_heads.Options = field(default_factory=scalar_heads.Options)
    simnorm_scale: float = 1.0
    latents: str = "simnorm"
    padded_obs_dim: int = 0

    def __post_init__(self) -> None:
        for key in ("encoder_units", "reward_units", "termination_units"):
            check_units(f"alg.{key}", getattr(self, key))
        if self.latents not in KINDS:
            raise ConfigError(f"alg.latents={self.latents!r}; choose one of: {', '.join(KINDS)}")
        if not 0.0 < self.simnorm_scale < math.inf:
            raise ConfigError(f"alg.simnorm_scale={self.simnorm_scale}; it must be positive and finite")
        if self.simnorm_dim < 2 or self.latent_dim < 1 or self.latent_dim % self.simnorm_dim:
            raise ConfigError(
                f"alg.latent_dim={self.latent_dim} must be a multiple of "
                f"alg.simnorm_dim={self.simnorm_dim} (at least 2)"
            )


class TaskEmbedding(nn.Embedding):
    """Task embedding whose rows stay inside the unit ball (call ``project`` after every update)."""

    def forward(self, task: int | Tensor) -> Tensor:
        """Rows [B, E] of ``task`` (an int, or int64 [B]); a single task gives [1, E]."""
        index = torch.as_tensor(task, device=self.weight.device).reshape(-1)
        return super().forward(index)

    @torch.no_grad()
    def project(self) -> None:
        """Scale every row longer than 1 back to length 1."""
        norm = self.weight.norm(dim=-1, keepdim=True)
        self.weight.mul_(torch.where(norm > 1, 1 / (norm + 1e-7), 1.0))


class WorldModel(nn.Module):
    """z = E(o[, e]), z' = F(z, a[, e]), r = R(z, a[, e]), p = sigmoid(T(z, a[, e])); e embeds the task.

    Args:
        encoder: maps [obs, e] to latents.
        dynamics: predicts the next latent.
        reward_net: maps [z, a, e] to the raw output of ``reward_head``.
        reward_head: loss and decoding of the reward.
        task_embedding: table of task embeddings, or None for a single task.
        termination_net: maps [z, a, e] to the logit that the episode terminates in this transition, or
            None: the model then believes that episodes never terminate.
        obs_rms: running statistics that normalise observations, of every task its own, or None to encode
            them as they are.
    """

    def __init__(
        self,
        encoder: nn.Module,
        dynamics: Dynamics,
        reward_net: nn.Module,
        reward_head: ScalarHead,
        task_embedding: TaskEmbedding | None = None,
        termination_net: nn.Module | None = None,
        obs_rms: RunningMeanStd | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dynamics = dynamics
        self.reward_net = reward_net
        self.reward_head = reward_head
        self.task_embedding = task_embedding
        self.termination_net = termination_net
        self.obs_rms = obs_rms

    def embed(self, task: int | Tensor | None) -> Tensor | None:
        """What networks are told of the task, [B, E] (or [1, E] for one task); None where there are no tasks.

        It is the row of the embedding; where latents are observations, 1 or 0 follows for every entry that
        the task has or has not.
        """
        if self.task_embedding is None:
            return None
        if task is None:
            raise ValueError("this world model is multi-task: pass task (an int, or int64 [B])")
        e: Tensor = self.task_embedding(task)
        space = self.dynamics.space
        if isinstance(space, Observations) and space.present is not None:
            e = torch.cat([e, space.present[torch.as_tensor(task, device=e.device).reshape(-1)]], dim=-1)
        return e

    def encode(self, obs: Tensor, task: int | Tensor | None = None) -> Tensor:
        """Latents [..., L] of observations [..., obs_dim]; task is an int or int64 [B]."""
        if self.obs_rms is not None:
            obs = self.obs_rms.normalize(obs, task if self.n_tasks else None)
        # Observations that are the latents themselves leave no room for an embedding.
        e = self.embed(task) if self.n_tasks and self.dynamics.space.learned else None
        z: Tensor = self.encoder(concat_inputs(obs, _like(e, obs)))
        return z

    def next(self, z: Tensor, a: Tensor, task: int | Tensor | None = None) -> Tensor:
        """Next latents [..., L] from latents [..., L] and actions [..., A]."""
        return self.dynamics.next(z, a, _like(self.embed(task), z))

    def reward(self, z: Tensor, a: Tensor, task: int | Tensor | None = None) -> Tensor:
        """Raw output [..., K] of the reward network; ``reward_head.decode`` turns it into a reward."""
        raw: Tensor = self.reward_net(concat_inputs(z, a, _like(self.embed(task), z)))
        return raw

    def termination(self, z: Tensor, a: Tensor, task: int | Tensor | None = None) -> Tensor | None:
        """Logit [...] that the episode terminates in this transition; None without a predictor."""
        if self.termination_net is None:
            return None
        logit: Tensor = self.termination_net(concat_inputs(z, a, _like(self.embed(task), z)))
        return logit.squeeze(-1)

    def step(self, z: Tensor, a: Tensor, task: int | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(next(z, a, task), reward(z, a, task))``."""
        return self.next(z, a, task), self.reward(z, a, task)

    @property
    def observes(self) -> bool:
        """True if the units of latents follow from what is observed, see ``observe``."""
        return isinstance(self.dynamics.space, Observations)

    def observe(self, obs: Tensor, valid: Tensor, task: Tensor | None = None) -> None:
        """Let the space of latents learn its units from windows [H+1, B, obs_dim].

        Nothing where latents are learned, too: their units are fixed.
        """
        if isinstance(self.dynamics.space, Observations):
            self.dynamics.space.observe(self.encode(obs, task), valid, self.embed(task))

    def project(self) -> None:
        """Put constrained parameters back into their sets; call after every optimiser step."""
        if self.task_embedding is not None:
            self.task_embedding.project()

    @property
    def n_tasks(self) -> int:
        """Number of tasks that the model tells apart; 0 for a single task."""
        return 0 if self.task_embedding is None else self.task_embedding.num_embeddings

    @property
    def latent_dim(self) -> int:
        """Width L of latents."""
        return self.dynamics.space.dim

    @property
    def told_dim(self) -> int:
        """Width E of ``embed``; 0 for a single task."""
        return told_width(self.task_embedding, self.dynamics.space)

    @property
    def total_params(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def _like(e: Tensor | None, x: Tensor) -> Tensor | None:
    """Repeat an embedding [B, E] or [1, E] over the leading axes of ``x``."""
    return None if e is None else e.expand(*x.shape[:-1], -1)


def build_prediction_net(in_dim: int, units: Sequence[int], width: int, bias: float = 0.0) -> nn.Sequential:
    """MLP whose last layer has zero weights at first: an untrained model predicts ``bias`` everywhere."""
    head = nn.Linear([in_dim, *units][-1], width)
    net = mlp(in_dim, units, head).apply(init_weights)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, bias)
    return net


def told_width(embedding: TaskEmbedding | None, space: LatentSpace) -> int:
    """Width of what networks are told of a task, see ``WorldModel.embed``."""
    if embedding is None:
        return 0
    return embedding.embedding_dim + (0 if space.learned else space.dim)


def build_latent_space(options: Options, obs_dim: int, n_tasks: int = 0) -> LatentSpace:
    """Space of the latents that ``options`` describe, for observations of width ``obs_dim``.

    Raises:
        ConfigError: observations are wider than what they are to be padded to.
    """
    if options.latents == "observations":
        dim = options.padded_obs_dim or obs_dim
        if dim < obs_dim:
            raise ConfigError(
                f"alg.padded_obs_dim={dim}; it must be 0, or at least {obs_dim} as observations are"
            )
        return Observations(dim, dim - obs_dim, n_tasks)
    return Simplices(options.latent_dim, SimNorm(options.simnorm_dim, options.simnorm_scale))


def build_world_model(
    options: Options, dynamics_options: Any, obs_dim: int, act_dim: int, n_tasks: int = 0
) -> WorldModel:
    """Compose a world model.

    Args:
        options: sizes.
        dynamics_options: the ``Options`` of a dynamics component; its ``name`` chooses the component.
        obs_dim, act_dim: widths of observations and actions.
        n_tasks: number of tasks; 0 for a single task without embedding.

    Raises:
        ConfigError: dynamics that do not fit the latents.
    """
    module = load_dynamics(dynamics_options.name)
    embedding = None
    if n_tasks:
        embedding = TaskEmbedding(n_tasks, options.task_dim)
        nn.init.uniform_(embedding.weight, -0.02, 0.02)
    head = scalar_heads.build(options.reward_head)
    space = build_latent_space(options, obs_dim, n_tasks)
    task_dim = told_width(embedding, space)
    in_dim = space.dim + act_dim + task_dim
    termination = None
    if options.predict_termination:
        # Terminations are rare: start at the odds of 1 in 150 transitions.
        termination = build_prediction_net(in_dim, options.termination_units, 1, bias=-5.0)
    return module.WORLD_MODEL(
        space.encoder(obs_dim + task_dim, options.encoder_units, options.obs_rms),
        module.build(dynamics_options, space, act_dim, task_dim),
        build_prediction_net(in_dim, options.reward_units, head.width),
        head,
        embedding,
        termination,
        RunningMeanStd((obs_dim,), groups=n_tasks) if options.obs_rms else None,
    )
