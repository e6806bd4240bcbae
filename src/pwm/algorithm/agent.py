"""The agent: world model, actor, critics, their optimisers and normalisers, and the three updates."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pwm.algorithm.losses import (
    Coefs,
    Imagined,
    Interrupt,
    Metrics,
    actor_loss,
    critic_loss,
    critic_targets,
    imagine,
    world_model_loss,
)
from pwm.algorithm.updates import Updater, follow
from pwm.data.batch import Batch
from pwm.envs.base import restore_generator
from pwm.errors import ConfigError
from pwm.models.actors.base import Actor, load_actor
from pwm.models.critic import CriticEnsemble
from pwm.models.layers import check_units
from pwm.models.normalization import MovingMeanStd, RunningMeanStd
from pwm.models.world_model import Options as WorldModelOptions
from pwm.models.world_model import build_world_model

# Least standard deviation of rewards and of imagined returns as a share of their mean. A reward that is
# always the same thus becomes 10, which the model learns quickly, and not a number without bounds.
CONSTANT_REWARD = 0.1
CONSTANT_RETURN = 0.01


@dataclass
class Options(WorldModelOptions):
    """The training rule.

    Attributes:
        horizon: imagined steps H, and environment steps per epoch.
        gamma, lam: discount and TD(lambda) trace decay.
        num_critics, critic_units: ensemble size and hidden widths.
        activation_first: critics apply the activation before LayerNorm (published PWM).
        actor_lr, critic_lr, model_lr: initial learning rates.
        encoder_lr_scale: learning rate of the encoder as a share of ``model_lr``. The encoder makes the
            targets of the dynamics; a slow one lets them be met, and shrinks less to make them easy.
        adam_betas: Adam decay rates of actor and critic.
        actor_grad_norm, critic_grad_norm, wm_grad_norm: gradient-norm clips.
        critic_iterations, critic_batches: passes over the imagined states per epoch, minibatches per pass.
        wm_iterations, wm_batch_size: world-model updates per epoch, windows per update.
        actor_iterations: actor updates per epoch (``closed_loop`` collection only; lockstep makes one).
        dynamics_coef, reward_coef, termination_coef: weights of the three world-model losses. Latent errors
            are tiny numbers: with equal weights the dynamics learn to please the reward head and predict the
            next latent hardly better than "no change".
        rew_rms: train the world model on rewards divided by their running standard deviation.
        ret_rms: divide the actor loss by the running standard deviation of the imagined returns.
        target_rate: share of the critics that moves into their slow copy after every critic step; the
            slow copy supplies all bootstrap values. 1 means no slow copy (published PWM).
        actor_average: share of the actor that moves into its average after every actor step. The average
            (Polyak averaging) is the policy that is evaluated and kept; the actor itself explores and
            learns. 1 means no average.
        value_rms: let the critics predict values relative to a moving mean and standard deviation of their
            targets (PopArt), so that they learn returns of any size at the same speed.
        saturation_coef: weight of the penalty on squared locations of actions (before the squashing) beyond
            1, along the imagined rollout.
        entropy_target: entropy of the policy per entry of the action, in nats, that a learned temperature
            holds (Haarnoja et al. 2018, SAC, section 5; there -1). It rewards the actor along the imagined
            rollout, not the critics, whose values stay those of rewards. None: no such reward.
        temperature, temperature_lr: initial weight of the entropy, and learning rate of its logarithm.
        max_skipped_updates: non-finite updates in a row before training stops.
    """

    horizon: int = 16
    gamma: float = 0.99
    lam: float = 0.95
    num_critics: int = 3
    critic_units: list[int] = field(default_factory=lambda: [400, 200])
    activation_first: bool = False
    actor_lr: float = 5e-4
    critic_lr: float = 5e-4
    model_lr: float = 3e-4
    encoder_lr_scale: float = 1.0
    adam_betas: list[float] = field(default_factory=lambda: [0.7, 0.95])
    actor_grad_norm: float = 1.0
    critic_grad_norm: float = 100.0
    wm_grad_norm: float = 20.0
    critic_iterations: int = 8
    critic_batches: int = 4
    wm_iterations: int = 8
    wm_batch_size: int = 256
    actor_iterations: int = 1
    dynamics_coef: float = 1.0
    reward_coef: float = 1.0
    termination_coef: float = 1.0
    rew_rms: bool = True
    ret_rms: bool = True
    target_rate: float = 1.0
    actor_average: float = 1.0
    value_rms: bool = True
    saturation_coef: float = 0.0
    entropy_target: float | None = None
    temperature: float = 0.01
    temperature_lr: float = 1e-3
    max_skipped_updates: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_units("alg.critic_units", self.critic_units)
        counts = ("horizon", "num_critics", "critic_iterations", "critic_batches", "wm_batch_size")
        for key in (*counts, "max_skipped_updates"):
            if getattr(self, key) < 1:
                raise ConfigError(f"alg.{key}={getattr(self, key)}; it must be at least 1")
        if self.wm_iterations < 0:
            raise ConfigError(f"alg.wm_iterations={self.wm_iterations}; it must not be negative")
        rates = ("actor_lr", "critic_lr", "model_lr", "encoder_lr_scale", "temperature", "temperature_lr")
        for key in rates:
            if not 0.0 < getattr(self, key) < math.inf:
                raise ConfigError(f"alg.{key}={getattr(self, key)}; it must be positive and finite")
        for key in ("actor_grad_norm", "critic_grad_norm", "wm_grad_norm"):
            if not getattr(self, key) > 0.0:
                raise ConfigError(f"alg.{key}={getattr(self, key)}; it must be positive (inf: no clipping)")
        if len(self.adam_betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.adam_betas):
            raise ConfigError(f"alg.adam_betas={self.adam_betas}; it must be two numbers in [0, 1)")
        for key in ("dynamics_coef", "reward_coef", "termination_coef", "saturation_coef"):
            if not 0.0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"alg.{key}={getattr(self, key)}; it must be finite and not negative")
        if self.entropy_target is not None and not math.isfinite(self.entropy_target):
            raise ConfigError(f"alg.entropy_target={self.entropy_target}; it must be finite, or null")
        for key in ("gamma", "lam", "target_rate", "actor_average"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise ConfigError(f"alg.{key}={getattr(self, key)}; it must lie in [0, 1]")


class Agent(nn.Module):
    """Everything that learns.

    Args:
        options: the training rule and the sizes of world model and critics.
        dynamics_options, actor_options: ``Options`` of the chosen components.
        obs_dim, act_dim: widths of observations and actions.
        generator: source of every random draw (noise, minibatches, flow times); on the agent's device.
    """

    def __init__(
        self,
        options: Options,
        dynamics_options: Any,
        actor_options: Any,
        obs_dim: int,
        act_dim: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.options = options
        self.generator = generator
        device = generator.device
        self.world_model = build_world_model(options, dynamics_options, obs_dim, act_dim)
        self.actor = load_actor(actor_options.name).build(actor_options, self.world_model.latent_dim, act_dim)
        self.averaged_actor = None
        if options.actor_average < 1.0:
            self.averaged_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.log_temperature = None
        if options.entropy_target is not None:
            if not self.actor.has_density:
                raise ConfigError(
                    f"alg.entropy_target={options.entropy_target} needs a policy whose density is known; "
                    f"actor={actor_options.name} does not tell it"
                )
            self.log_temperature = nn.Parameter(torch.tensor(math.log(options.temperature)))
        self.critic = CriticEnsemble(
            self.world_model.latent_dim,
            options.critic_units,
            options.num_critics,
            activation_first=options.activation_first,
        )
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        # Without prior counts, which have a size of their own: environments pay millions or millionths.
        self.reward_rms = RunningMeanStd(epsilon=0.0)
        self.return_rms = RunningMeanStd(epsilon=0.0)
        self.value_rms = MovingMeanStd()
        self.to(device)
        self.updaters = self._build_updaters()

    def _build_updaters(self) -> dict[str, Updater]:
        opts, skips = self.options, self.options.max_skipped_updates
        betas, slow_betas = (opts.adam_betas[0], opts.adam_betas[1]), (0.9, 0.999)
        encoder = self.world_model.encoder.parameters()
        actor, critic = self.actor.parameters(), self.critic.parameters()
        updaters = {
            "wm": Updater(
                "world-model",
                self.world_model.parameters(),
                opts.model_lr,
                slow_betas,
                opts.wm_grad_norm,
                skips,
                encoder,
                opts.encoder_lr_scale,
            ),
            "actor": Updater("actor", actor, opts.actor_lr, betas, opts.actor_grad_norm, skips),
            "critic": Updater("critic", critic, opts.critic_lr, betas, opts.critic_grad_norm, skips),
        }
        if self.log_temperature is not None:
            updaters["temperature"] = Updater(
                "temperature", [self.log_temperature], opts.temperature_lr, slow_betas, math.inf, skips
            )
        return updaters

    @property
    def policy(self) -> Actor:
        """What training is for: the actor, or its average."""
        return self.actor if self.averaged_actor is None else self.averaged_actor

    @torch.no_grad()
    def act(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        """Actions [N, act_dim] in [-1, 1] for observations [N, obs_dim], each encoded afresh.

        ``policy`` acts if ``deterministic``, else the actor with its noise.
        """
        z = self.world_model.encode(obs)
        return self.policy.act(z) if deterministic else self.explore(z)

    def explore(self, z: Tensor) -> Tensor:
        """Actions [N, act_dim] in [-1, 1] of the actor with its noise for latents [N, latent_dim]."""
        return self.actor.act(z, self.noise(len(z)))

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal policy noise [*shape, noise_dim], drawn from ``generator`` or the agent's own."""
        generator = self.generator if generator is None else generator
        return torch.randn(*shape, self.actor.noise_dim, generator=generator, device=generator.device)

    @property
    def reward_scale(self) -> Tensor:
        """What one unit of the model's reward is worth in environment reward, shape [1]."""
        if not self.options.rew_rms:
            return torch.ones_like(self.reward_rms.var)
        return self.reward_rms.relative_std(CONSTANT_REWARD)

    def observe(self, obs: Tensor, rewards: Tensor) -> None:
        """Fold new observations [n, obs_dim] and environment rewards [n] into the running statistics."""
        self.reward_rms.update(rewards)
        if self.world_model.obs_rms is not None:
            self.world_model.obs_rms.update(obs)

    def model_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """Loss of the world model on ``batch`` (rewards in environment units), and its parts detached."""
        opts = self.options
        scaled = batch._replace(reward=batch.reward / self.reward_scale)
        coefs = Coefs(opts.dynamics_coef, opts.reward_coef, opts.termination_coef)
        return world_model_loss(self.world_model, scaled, None, opts.gamma, coefs, generator)

    def update_world_model(self, batch: Batch) -> Metrics:
        """One gradient step on ``batch`` (rewards in environment units)."""
        self.world_model.observe(batch.obs, batch.valid)
        loss, metrics = self.model_loss(batch, self.generator)
        metrics["grad_norm"] = self.updaters["wm"].step(loss)
        self.world_model.project()
        return metrics

    def policy_loss(self, rollout: Imagined, per_entry: Tensor) -> Tensor:
        """What the actor minimises: the scaled mean of ``per_entry`` [B] (``actor_loss``) and its penalty."""
        opts = self.options
        if opts.ret_rms:
            loss = (per_entry / self.return_rms.relative_std(CONSTANT_RETURN)).mean()
        else:
            loss = per_entry.mean() / opts.horizon
        if opts.saturation_coef:
            excess = (rollout.locations.abs() - 1.0).clamp(min=0.0)
            loss = loss + opts.saturation_coef * excess.square().mean()
        if self.log_temperature is not None:
            assert rollout.log_probs is not None
            loss = loss + self.log_temperature.detach().exp() * rollout.log_probs.mean()
        return loss

    def update_temperature(self, rollout: Imagined) -> Metrics:
        """Raise the weight of the entropy where the imagined actions have less of it than their target."""
        assert self.log_temperature is not None
        assert self.options.entropy_target is not None
        assert rollout.log_probs is not None
        entropy = -rollout.log_probs.detach().mean() / rollout.actions.shape[-1]
        temperature = self.log_temperature.exp()
        self.updaters["temperature"].step(temperature * (entropy - self.options.entropy_target))
        return {"entropy": entropy, "temperature": temperature.detach()}

    def update_actor(self, z: Tensor, interrupt: Interrupt | None = None) -> tuple[Imagined, Tensor, Metrics]:
        """Imagine from ``z`` [B, L] and take one actor step.

        Returns:
            The rollout, the critic's TD(lambda) targets for its latents [H, B], and detached metrics.
        """
        opts = self.options
        rollout = imagine(
            self.world_model, self.actor, z, self.noise(opts.horizon, len(z)), opts.horizon, None, interrupt
        )
        result = actor_loss(rollout, self.target_critic, opts.gamma)
        if opts.ret_rms:
            self.return_rms.update(result.per_entry.detach())
        loss = self.policy_loss(rollout, result.per_entry)
        imagined_return = -result.per_entry.detach().mean()
        grad_norm = self.updaters["actor"].step(loss)
        self.actor.project()
        if self.averaged_actor is not None:
            follow(self.averaged_actor, self.actor, opts.actor_average)
        targets = critic_targets(rollout, result.next_values, opts.gamma, opts.lam)
        metrics = {
            "loss": loss.detach(),
            "grad_norm": grad_norm,
            "imagined_return": imagined_return,
            "std": self.actor.mean_std(),
            "saturation": rollout.locations.detach().abs().mean(),
        }
        if self.log_temperature is not None:
            metrics |= self.update_temperature(rollout)
        return rollout, targets, metrics

    def update_critic(self, z: Tensor, targets: Tensor, weights: Tensor) -> Metrics:
        """``critic_iterations`` passes of minibatch steps over latents z [N, L], targets and weights [N]."""
        opts = self.options
        if opts.value_rms:
            self.value_rms.update(targets)
            for critic in (self.critic, self.target_critic):
                critic.rescale(self.value_rms.mean, self.value_rms.std)
        losses, norms = [], []
        for _ in range(opts.critic_iterations):
            order = torch.randperm(len(z), generator=self.generator, device=z.device)
            for index in order.chunk(opts.critic_batches):
                loss = critic_loss(self.critic, z[index], targets[index], weights[index])
                norms.append(self.updaters["critic"].step(loss))
                follow(self.target_critic, self.critic, opts.target_rate)
                losses.append(loss.detach())
        return {
            "loss": torch.stack(losses).mean(),
            "grad_norm": torch.stack(norms).mean(),
            "target_mean": targets.mean(),
            "target_std": targets.std(),
        }

    def set_lr_fraction(self, fraction: float, final: float) -> dict[str, float]:
        """Set every learning rate to ``fraction`` of the way from its initial value down to ``final``."""
        rates = {}
        for name, initial in (
            ("wm", self.options.model_lr),
            ("actor", self.options.actor_lr),
            ("critic", self.options.critic_lr),
        ):
            rates[name] = initial + fraction * (min(final, initial) - initial)
            self.updaters[name].set_lr(rates[name])
        return rates

    def check_finite(self) -> None:
        """Raise NonFiniteError if any network's updates keep failing."""
        for updater in self.updaters.values():
            updater.check_finite()

    def training_state(self) -> dict[str, Any]:
        """Modules, optimisers and the random stream: all that training needs to continue."""
        return {
            "modules": self.state_dict(),
            "updaters": {name: updater.state_dict() for name, updater in self.updaters.items()},
            "generator": self.generator.get_state(),
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, which may have been saved on another device."""
        self.load_state_dict(state["modules"])
        for name, updater in self.updaters.items():
            updater.load_state_dict(state["updaters"][name])
        restore_generator(self.generator, state["generator"])
