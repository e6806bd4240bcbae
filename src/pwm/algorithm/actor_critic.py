"""An actor that learns in imagination, and the critics that tell it what lies beyond the horizon."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pwm import checks
from pwm.algorithm import objective, updates
from pwm.algorithm.losses import (
    Imagined,
    Interrupt,
    Metrics,
    actor_loss,
    critic_loss,
    critic_targets,
    imagine,
)
from pwm.algorithm.updates import Updater, Vector, follow
from pwm.errors import ConfigError
from pwm.models.actors.base import Actor
from pwm.models.critic import CriticEnsemble
from pwm.models.layers import check_units, concat_inputs, device_of
from pwm.models.normalization import MovingMeanStd, RunningMeanStd
from pwm.models.tasks import TaskInputs, told_critic, told_policy
from pwm.models.world_model import WorldModel

# Least standard deviation of imagined returns as a share of their mean.
CONSTANT_RETURN = 0.01
TEMPERATURE_BETAS = (0.9, 0.999)


@dataclass
class Options:
    """Training of actor and critics.

    Attributes:
        lam: TD(lambda) trace decay.
        num_critics, critic_units: ensemble size and hidden widths.
        activation_first: critics apply the activation before LayerNorm (published PWM).
        actor_lr, critic_lr: initial learning rates.
        adam_betas: Adam decay rates of actor and critic.
        actor_grad_norm, critic_grad_norm: gradient-norm clips.
        actor_iterations: actor updates per epoch, each followed by updates of the critics.
        critic_iterations, critic_batches: passes over the imagined states of one actor update, minibatches
            per pass.
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
        behaviour_coef: weight of the squared distance between the first imagined action and the recorded one
            (Fujimoto & Gu 2021, TD3+BC), where that was one of the better ones (``Examples``). It keeps a
            policy that learns from recorded data alone where the world model knows what follows; used by
            extraction only.
        temperature, temperature_lr: initial weight of the entropy, and learning rate of its logarithm.
    """

    lam: float = 0.95
    num_critics: int = 3
    critic_units: list[int] = field(default_factory=lambda: [400, 200])
    activation_first: bool = False
    actor_lr: float = 5e-4
    critic_lr: float = 5e-4
    adam_betas: list[float] = field(default_factory=lambda: [0.7, 0.95])
    actor_grad_norm: float = 1.0
    critic_grad_norm: float = 100.0
    actor_iterations: int = 1
    critic_iterations: int = 8
    critic_batches: int = 4
    ret_rms: bool = True
    target_rate: float = 1.0
    actor_average: float = 1.0
    value_rms: bool = True
    saturation_coef: float = 0.0
    behaviour_coef: float = 0.0
    entropy_target: float | None = None
    temperature: float = 0.01
    temperature_lr: float = 1e-3

    def __post_init__(self) -> None:
        check_units("alg.critic_units", self.critic_units)
        checks.at_least_one(self, "num_critics", "critic_iterations", "critic_batches", "actor_iterations")
        checks.positive(self, "actor_lr", "critic_lr", "temperature", "temperature_lr")
        checks.norm_limit(self, "actor_grad_norm", "critic_grad_norm")
        checks.not_negative(self, "saturation_coef", "behaviour_coef")
        checks.share(self, "lam", "target_rate", "actor_average")
        if len(self.adam_betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.adam_betas):
            raise ConfigError(f"alg.adam_betas={self.adam_betas}; it must be two numbers in [0, 1)")
        if self.entropy_target is not None and not math.isfinite(self.entropy_target):
            raise ConfigError(f"alg.entropy_target={self.entropy_target}; it must be finite, or null")


class Examples(NamedTuple):
    """Recorded actions in the states that an imagined rollout begins with.

    Attributes:
        actions: [B, act_dim].
        weights: [B], how much the policy is to stay near each of them.
    """

    actions: Tensor
    weights: Tensor


class ActorCritic(nn.Module):
    """Actor, its average, critics, their slow copy, and all that trains them.

    Args:
        options: how they are trained.
        target: horizon and discount.
        optimisation: what all optimisers share.
        actor: the policy.
        latent_dim: width of what actor and critics read: latents, behind them the task's embedding if there
            are several tasks.
        tasks: the action mask of every task, float32 [n_tasks, act_dim]; None for a single task.
        generator: source of noise and of the order of minibatches; None draws from the global one.

    Raises:
        ConfigError: an entropy is to be held of a policy whose density is not known.
    """

    action_masks: Tensor | None

    def __init__(
        self,
        options: Options,
        target: objective.Options,
        optimisation: updates.Options,
        actor: Actor,
        latent_dim: int,
        generator: torch.Generator | None,
        tasks: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.options, self.objective, self.generator = options, target, generator
        self.device = device_of(actor)
        self.actor = actor
        self.averaged_actor = None
        if options.actor_average < 1.0:
            self.averaged_actor = copy.deepcopy(actor).requires_grad_(False)
        self.log_temperature = None
        if options.entropy_target is not None:
            if not actor.has_density:
                raise ConfigError(
                    f"alg.entropy_target={options.entropy_target} needs a policy whose density is known; "
                    f"{type(actor).__name__} does not tell it"
                )
            self.log_temperature = nn.Parameter(torch.tensor(math.log(options.temperature)))
        self.critic = CriticEnsemble(
            latent_dim,
            options.critic_units,
            options.num_critics,
            options.activation_first,
            1 if tasks is None else len(tasks),
        )
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        # Without prior counts, which have a size of their own.
        groups = 0 if tasks is None else len(tasks)
        self.return_rms = RunningMeanStd(epsilon=0.0, groups=groups)
        self.value_rms = MovingMeanStd(groups=groups)
        # Follows from the tasks, so not part of a checkpoint.
        self.register_buffer("action_masks", tasks, persistent=False)
        self.to(self.device)
        self.updaters = self._build_updaters(optimisation.max_skipped_updates)
        self._slow_critic = Vector(self.target_critic.parameters())
        self._slow_actor = None
        if self.averaged_actor is not None:
            self._slow_actor = Vector(self.averaged_actor.parameters())

    def _build_updaters(self, skips: int) -> dict[str, Updater]:
        opts = self.options
        betas = (opts.adam_betas[0], opts.adam_betas[1])
        actor, critic = self.actor.parameters(), self.critic.parameters()
        updaters = {
            "actor": Updater("actor", actor, opts.actor_lr, betas, opts.actor_grad_norm, skips),
            "critic": Updater("critic", critic, opts.critic_lr, betas, opts.critic_grad_norm, skips),
        }
        if self.log_temperature is not None:
            updaters["temperature"] = Updater(
                "temperature",
                [self.log_temperature],
                opts.temperature_lr,
                TEMPERATURE_BETAS,
                math.inf,
                skips,
                decays=False,
            )
        return updaters

    @property
    def policy(self) -> Actor:
        """The policy that is evaluated and kept: the actor, or its average."""
        return self.actor if self.averaged_actor is None else self.averaged_actor

    def explore(self, z: Tensor, inputs: TaskInputs | None = None) -> Tensor:
        """Return actions [N, act_dim] in [-1, 1] of the actor with its noise for latents [N, L]."""
        return told_policy(self.actor, inputs).act(z, self.noise(len(z)))

    def noise(
        self, *shape: int, generator: torch.Generator | None = None, width: int | None = None
    ) -> Tensor:
        """Draw standard normal noise [*shape, width], from ``generator`` or the learner's own.

        ``width`` is the policy's ``noise_dim`` unless told otherwise.
        """
        generator = self.generator if generator is None else generator
        width = self.actor.noise_dim if width is None else width
        return torch.randn(*shape, width, generator=generator, device=self.device)

    def inputs(self, model: WorldModel, task: Tensor | None) -> TaskInputs | None:
        """Return what actor and critics are told of the tasks int64 [B]; None where there is a single one."""
        if self.action_masks is None:
            return None
        embedding = model.embed(task)
        assert task is not None
        assert embedding is not None
        return TaskInputs(task, embedding.detach(), self.action_masks[task])

    def imagine(
        self,
        model: WorldModel,
        z: Tensor,
        inputs: TaskInputs | None = None,
        generator: torch.Generator | None = None,
        interrupt: Interrupt | None = None,
    ) -> Imagined:
        """Roll the actor with its noise through ``model`` for H steps from ``z`` [B, L].

        Dynamics that are not certain are sampled; others draw nothing.
        """
        horizon, width = self.objective.horizon, model.dynamics.noise_dim
        noise = self.noise(horizon, len(z), generator=generator)
        model_noise = self.noise(horizon, len(z), generator=generator, width=width) if width else None
        task = None if inputs is None else inputs.task
        policy = told_policy(self.actor, inputs)
        return imagine(model, policy, z, noise, horizon, task, interrupt, model_noise)

    def loss(self, rollout: Imagined, per_entry: Tensor, inputs: TaskInputs | None = None) -> Tensor:
        """Return what the actor minimises: the scaled mean of ``per_entry`` [B] (``actor_loss``), its penalty
        on saturated actions, and what it pays for a lack of entropy."""
        opts = self.options
        if opts.ret_rms:
            spread = self.return_rms.relative_std(CONSTANT_RETURN)
            loss = (per_entry / (spread if inputs is None else spread[inputs.task])).mean()
        else:
            loss = per_entry.mean() / self.objective.horizon
        if opts.saturation_coef:
            excess = (rollout.locations.abs() - 1.0).clamp(min=0.0)
            loss = loss + opts.saturation_coef * excess.square().mean()
        if self.log_temperature is not None:
            assert rollout.log_probs is not None
            loss = loss + self.log_temperature.detach().exp() * rollout.log_probs.mean()
        return loss

    def update_actor(
        self,
        model: WorldModel,
        z: Tensor,
        interrupt: Interrupt | None = None,
        inputs: TaskInputs | None = None,
        examples: Examples | None = None,
    ) -> tuple[Imagined, Tensor, Metrics]:
        """Imagine in ``model`` from ``z`` [B, L] and take one actor step.

        Args:
            model: the world model.
            z: start latents.
            interrupt: see ``losses.imagine``.
            inputs: tasks of the start latents.
            examples: what was done there; read if ``behaviour_coef`` is positive.

        Returns:
            The rollout, the critic's TD(lambda) targets for its latents [H, B], and detached metrics.
        """
        opts, gamma = self.options, self.objective.gamma
        rollout = self.imagine(model, z, inputs, None, interrupt)
        result = actor_loss(rollout, told_critic(self.target_critic, inputs), gamma)
        if opts.ret_rms:
            self.return_rms.update(result.per_entry.detach(), None if inputs is None else inputs.task)
        loss = self.loss(rollout, result.per_entry, inputs)
        distance = None
        if examples is not None and opts.behaviour_coef:
            apart = (rollout.actions[0] - examples.actions).square().mean(-1)
            distance = (examples.weights * apart).mean()
            loss = loss + opts.behaviour_coef * distance
        imagined_return = -result.per_entry.detach().mean()
        grad_norm = self.updaters["actor"].step(loss)
        self.actor.project()
        if self._slow_actor is not None:
            follow(self._slow_actor, self.updaters["actor"].vectors[0], opts.actor_average)
        targets = critic_targets(rollout, result.next_values, gamma, opts.lam)
        metrics = {
            "loss": loss.detach(),
            "grad_norm": grad_norm,
            "imagined_return": imagined_return,
            "std": self.actor.mean_std(),
            "saturation": rollout.locations.detach().abs().mean(),
        }
        if distance is not None:
            metrics["behaviour_distance"] = distance.detach()
        if self.log_temperature is not None:
            metrics |= self._update_temperature(rollout, inputs)
        return rollout, targets, metrics

    def _update_temperature(self, rollout: Imagined, inputs: TaskInputs | None) -> Metrics:
        """Raise the weight of the entropy where the imagined actions have less of it than their target."""
        assert self.log_temperature is not None
        assert self.options.entropy_target is not None
        assert rollout.log_probs is not None
        entries = rollout.actions.shape[-1] if inputs is None else inputs.action_mask.sum(-1)
        entropy = -(rollout.log_probs.detach() / entries).mean()
        temperature = self.log_temperature.exp()
        self.updaters["temperature"].step(temperature * (entropy - self.options.entropy_target))
        return {"entropy": entropy, "temperature": temperature.detach()}

    def update_critic(
        self, z: Tensor, targets: Tensor, weights: Tensor, inputs: TaskInputs | None = None
    ) -> Metrics:
        """Take ``critic_iterations`` passes of minibatch steps over latents z [N, L].

        Args:
            z: latents.
            targets: their values [N].
            weights: how much each of them counts [N].
            inputs: their tasks.
        """
        opts, task = self.options, None
        if inputs is not None:
            z, task = concat_inputs(z, inputs.embedding), inputs.task
        if opts.value_rms:
            self.value_rms.update(targets, task)
            for critic in (self.critic, self.target_critic):
                critic.rescale(self.value_rms.mean, self.value_rms.std)
        losses, norms = [], []
        for _ in range(opts.critic_iterations):
            order = torch.randperm(len(z), generator=self.generator, device=z.device)
            for index in order.chunk(opts.critic_batches):
                of = None if task is None else task[index]
                loss = critic_loss(self.critic, z[index], targets[index], weights[index], of)
                norms.append(self.updaters["critic"].step(loss))
                follow(self._slow_critic, self.updaters["critic"].vectors[0], opts.target_rate)
                losses.append(loss.detach())
        return {
            "loss": torch.stack(losses).mean(),
            "grad_norm": torch.stack(norms).mean(),
            "target_mean": targets.mean(),
            "target_std": targets.std(),
        }
