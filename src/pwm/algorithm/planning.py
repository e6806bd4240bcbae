"""Model predictive path integral control (MPPI) in latent space: plan anew at every step.

Source: Williams et al. 2015, "Model Predictive Path Integral Control using Covariance Variable Importance
Sampling", in the form and with the settings of TD-MPC2 (Hansen et al. 2024, appendix H), but for the action,
which is the weighted mean of the elites and not a draw from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent


@dataclass(frozen=True)
class MPPI:
    """Settings of the planner.

    Attributes:
        horizon: steps of a plan; the critics value what follows.
        iterations: of sampling and fitting.
        samples: plans per iteration that are drawn around the mean.
        policy_samples: plans of the policy, the same in all iterations.
        elites: best plans, to which mean and deviation are fitted.
        min_std, max_std: bounds of the deviation, the latter also its start.
        temperature: how much better plans count more.
    """

    horizon: int = 3
    iterations: int = 6
    samples: int = 488
    policy_samples: int = 24
    elites: int = 64
    min_std: float = 0.05
    max_std: float = 2.0
    temperature: float = 0.5


class Planner:
    """Acts for N environments at once by planning in the agent's world model.

    The search of a step begins around the rest of the plan before, so every call should be for the next step
    of the same environments; where another episode has begun, it only begins in a worse place.

    Args:
        agent: world model, policy and critics of a single task.
        seed: of the sampling.
        settings: of the planner.
    """

    def __init__(self, agent: Agent, seed: int = 0, settings: MPPI = MPPI()) -> None:
        self.agent, self.settings = agent, settings
        self._generator = torch.Generator(agent.actor_critic.device).manual_seed(seed)
        self._mean: Tensor | None = None

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """Return actions [N, act_dim] in [-1, 1] for observations [N, obs_dim]."""
        opts, count = self.settings, len(obs)
        start = self.agent.world_model.encode(obs)
        z = start.repeat_interleave(opts.samples + opts.policy_samples, 0)
        ideas = self._policy_plans(start)
        shape = (opts.horizon, count, ideas.shape[-1])
        mean = torch.zeros(shape, device=obs.device)
        if self._mean is not None and self._mean.shape == shape:
            mean[:-1] = self._mean[1:]
        std = torch.full_like(mean, opts.max_std)
        for _ in range(opts.iterations):
            size = (*shape[:2], opts.samples, shape[2])
            noise = torch.randn(size, generator=self._generator, device=obs.device)
            drawn = (mean.unsqueeze(2) + std.unsqueeze(2) * noise).clamp(-1.0, 1.0)
            plans = torch.cat([drawn, ideas], dim=2)
            value = self._value(z, plans.flatten(1, 2)).view(count, -1)
            best, place = value.topk(opts.elites, dim=1)
            weight = torch.softmax(opts.temperature * (best - best[:, :1]), dim=1)[None, :, :, None]
            elite = plans.gather(2, place[None, :, :, None].expand(opts.horizon, -1, -1, shape[2]))
            mean = (weight * elite).sum(2)
            spread = (weight * (elite - mean.unsqueeze(2)).square()).sum(2).sqrt()
            std = spread.clamp(opts.min_std, opts.max_std)
        self._mean = mean
        return mean[0]

    def _policy_plans(self, start: Tensor) -> Tensor:
        """Plans [H, N, P, A] of the policy with its noise, from latents [N, L]."""
        opts, learner, model = self.settings, self.agent.actor_critic, self.agent.world_model
        z, actions = start.repeat_interleave(opts.policy_samples, 0), []
        for _ in range(opts.horizon):
            actions.append(self.agent.policy.act(z, learner.noise(len(z), generator=self._generator)))
            z = model.next(z, actions[-1])
        plans = torch.stack(actions)
        return plans.view(opts.horizon, len(start), opts.policy_samples, plans.shape[-1])

    def _value(self, z: Tensor, plans: Tensor) -> Tensor:
        """Expected discounted return [B] of plans [H, B, A] from latents [B, L], in units of the model."""
        model, gamma = self.agent.world_model, self.agent.objective.gamma
        total, reach = torch.zeros(len(z), device=z.device), torch.ones(len(z), device=z.device)
        for action in plans:
            total = total + reach * model.reward_head.decode(model.reward(z, action))
            logit = model.termination(z, action)
            reach = reach * gamma * (1.0 if logit is None else torch.sigmoid(-logit))
            z = model.next(z, action)
        value = total + reach * self.agent.critic.minimum(z)
        return torch.nan_to_num(value, nan=-torch.inf)
