"""A plain eager PyTorch epoch of PWM: the yardstick an optimised epoch is timed against.

The training rule is that of PWM (Georgiev et al. 2024, "PWM: Policy Learning with Multi-Task World
Models"), written down from its formulas the way they read: one call per network and time step, a
Python loop over environments to store transitions, a ``vmap`` over the critics, stock optimisers.
Nothing is compiled, fused or batched over time, and nothing is slowed down on purpose. As in the
paper's equations the bootstrap is discounted by gamma^H, and an episode ending on a window's last
step keeps its reward. Learning-rate decay is left out: it costs no time. The environment costs
nothing, so no simulator's speed enters.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_


@dataclass(frozen=True)
class EpochSizes:
    """Sizes and hyperparameters of one epoch; the defaults are those published for ant."""

    num_envs: int = 128
    horizon: int = 16
    obs_dim: int = 37
    act_dim: int = 8
    episode_length: int = 1000
    latent_dim: int = 512
    simnorm_dim: int = 8
    encoder_units: tuple[int, ...] = (256,)
    units: tuple[int, ...] = (512, 512)
    actor_units: tuple[int, ...] = (400, 200, 100)
    critic_units: tuple[int, ...] = (400, 200)
    num_critics: int = 3
    critic_iterations: int = 8
    critic_batches: int = 4
    model_iterations: int = 8
    model_batch: int = 256
    buffer_size: int = 1_000_000
    gamma: float = 0.99
    lam: float = 0.95
    actor_lr: float = 5e-4
    critic_lr: float = 5e-4
    model_lr: float = 3e-4
    betas: tuple[float, float] = (0.7, 0.95)
    actor_clip: float = 1.0
    critic_clip: float = 100.0
    model_clip: float = 20.0
    init_logstd: float = -1.0
    min_logstd: float = -1.427


_TWO = (128, 128)
_SMALL = EpochSizes(32, latent_dim=128, encoder_units=(128,), units=_TWO, model_batch=64)
PRESETS = {"ant": EpochSizes(), "small": replace(_SMALL, actor_units=_TWO, critic_units=_TWO)}


class SimNorm(nn.Module):
    """Softmax inside consecutive groups of ``group`` entries of the last axis."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.group)).softmax(dim=-1).flatten(-2)


def mlp(dims: Sequence[int], head: Sequence[nn.Module], norm_first: bool) -> nn.Sequential:
    """Layers Mish(LayerNorm(W x + b)), or LayerNorm(Mish(W x + b)), through ``dims``, then ``head``."""
    layers: list[nn.Module] = []
    for width_in, width in pairwise(dims):
        tail = [nn.LayerNorm(width), nn.Mish()] if norm_first else [nn.Mish(), nn.LayerNorm(width)]
        layers += [nn.Linear(width_in, width), *tail]
    return nn.Sequential(*layers, *head)


class WorldModel(nn.Module):
    """Latent world model z = E(s), z' = F(z, a), r = R(z, a) with SimNorm latents."""

    def __init__(self, sizes: EpochSizes) -> None:
        super().__init__()
        latent, pair = sizes.latent_dim, sizes.latent_dim + sizes.act_dim

        def simnorm_head(width: int) -> list[nn.Module]:
            return [nn.Linear(width, latent), nn.LayerNorm(latent), SimNorm(sizes.simnorm_dim)]

        encoder_dims = (sizes.obs_dim, *sizes.encoder_units)
        self.encode = mlp(encoder_dims, simnorm_head(encoder_dims[-1]), norm_first=True)
        self.dynamics = mlp((pair, *sizes.units), simnorm_head(sizes.units[-1]), norm_first=True)
        self.reward_head = mlp((pair, *sizes.units), [nn.Linear(sizes.units[-1], 1)], norm_first=True)

    def next(self, z: Tensor, action: Tensor) -> Tensor:
        return self.dynamics(torch.cat([z, action], dim=-1))

    def reward(self, z: Tensor, action: Tensor) -> Tensor:
        return self.reward_head(torch.cat([z, action], dim=-1)).squeeze(-1)


class Actor(nn.Module):
    """Stochastic policy a = tanh(mu(z) + exp(logstd) * noise), reparameterised."""

    def __init__(self, sizes: EpochSizes) -> None:
        super().__init__()
        dims = (sizes.latent_dim, *sizes.actor_units)
        self.mu_net = mlp(dims, [nn.Linear(dims[-1], sizes.act_dim)], norm_first=False)
        self.logstd = nn.Parameter(torch.full((sizes.act_dim,), sizes.init_logstd))
        self.min_logstd = sizes.min_logstd

    def forward(self, z: Tensor) -> Tensor:
        self.logstd.data.clamp_(min=self.min_logstd)
        mu = self.mu_net(z)
        return torch.tanh(mu + self.logstd.exp() * torch.randn_like(mu))


class CriticEnsemble:
    """Independent value functions evaluated together by ``vmap`` over stacked parameters."""

    def __init__(self, sizes: EpochSizes) -> None:
        dims, count = (sizes.latent_dim, *sizes.critic_units), sizes.num_critics
        members = [mlp(dims, [nn.Linear(dims[-1], 1)], norm_first=False) for _ in range(count)]
        self.params, self.buffers = stack_module_state(members)
        # The first member only lends its structure; the weights used are always the stacked ones.
        self._call_all = vmap(lambda p, b, z: functional_call(members[0], (p, b), (z,)), (0, 0, None))

    def all_values(self, z: Tensor) -> Tensor:
        """Values of every member, shape [critics, batch]; the ensemble's value is their minimum."""
        return self._call_all(self.params, self.buffers, z).squeeze(-1)


class RunningMeanStd:
    """Running mean and biased variance, merged batch by batch (parallel variance formula)."""

    def __init__(self) -> None:
        self.mean, self.var, self.count = torch.zeros(()), torch.ones(()), 1e-4

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        n, delta, total = x.numel(), x.mean() - self.mean, self.count + x.numel()
        self.mean = self.mean + delta * n / total
        between = delta**2 * self.count * n / total
        self.var = (self.var * self.count + x.var(unbiased=False) * n + between) / total
        self.count = total

    def std(self) -> Tensor:
        return torch.sqrt(self.var + 1e-5)

    def normalise(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std()).clamp(-5.0, 5.0)


class Step(NamedTuple):
    """What one environment step returns; ``obs`` is already the reset one where the episode is over."""

    obs: Tensor
    true_obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor


class ZeroCostEnv:
    """Serves observations drawn beforehand; episodes are staggered so that they end evenly in time."""

    def __init__(self, sizes: EpochSizes, pool: int = 64) -> None:
        n = sizes.num_envs
        self.observations = torch.randn(pool, n, sizes.obs_dim)
        self.rewards = torch.randn(pool, n)
        self.length, self.clock = sizes.episode_length, 0
        self.age = torch.arange(n) * sizes.episode_length // n
        # Both kinds of ending are exercised: every other environment terminates, the rest time out.
        self.terminates = torch.arange(n) % 2 == 0

    def step(self, action: Tensor) -> Step:
        self.clock = (self.clock + 1) % len(self.observations)
        true_obs, reset_obs = self.observations[self.clock], self.observations[self.clock - 1]
        self.age += 1
        done = self.age >= self.length
        self.age[done] = 0
        obs, terminated = torch.where(done[:, None], reset_obs, true_obs), done & self.terminates
        return Step(obs, true_obs, self.rewards[self.clock], terminated, done & ~terminated)


class EpisodeBuffer:
    """Finished episodes; row t holds o_t with the action and reward that led to it (row 0: NaN)."""

    def __init__(self, sizes: EpochSizes) -> None:
        self.capacity, self.horizon, self.batch = sizes.buffer_size, sizes.horizon, sizes.model_batch
        self.episodes: list[dict[str, Tensor]] = []
        self.rows = 0

    def push(self, episode: dict[str, Tensor]) -> None:
        if len(episode["obs"]) <= self.horizon:
            return  # too short to hold one window
        self.episodes.append(episode)
        self.rows += len(episode["obs"])
        while self.rows > self.capacity:
            self.rows -= len(self.episodes.pop(0)["obs"])

    def sample(self) -> tuple[Tensor, Tensor, Tensor]:
        """Windows of H+1 rows: obs [H+1, B, O], action [H, B, A], reward [H, B]."""
        obs, action, reward = [], [], []
        for episode in random.choices(self.episodes, k=self.batch):
            start = random.randint(0, len(episode["obs"]) - self.horizon - 1)
            stop = start + self.horizon + 1
            obs.append(episode["obs"][start:stop])
            # A row's action and reward led TO it, so those of the first row belong to no transition.
            action.append(episode["action"][start + 1 : stop])
            reward.append(episode["reward"][start + 1 : stop])
        return torch.stack(obs, dim=1), torch.stack(action, dim=1), torch.stack(reward, dim=1)


class Rollout(NamedTuple):
    """What the critic is trained on, each [H, num_envs] (latents [H, num_envs, L])."""

    latents: Tensor
    rewards: Tensor
    next_values: Tensor
    done: Tensor


class PlainEpoch:
    """Modules, optimisers, environment and replay of one PWM training run; ``run`` does one epoch."""

    def __init__(self, sizes: EpochSizes | None = None, seed: int = 0) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        self.sizes = s = sizes or EpochSizes()
        self.env, self.buffer = ZeroCostEnv(s), EpisodeBuffer(s)
        self.model, self.actor, self.critic = WorldModel(s), Actor(s), CriticEnsemble(s)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=s.actor_lr, betas=s.betas)
        self.critic_optimizer = torch.optim.Adam(self.critic.params.values(), lr=s.critic_lr, betas=s.betas)
        self.model_optimizer = torch.optim.Adam(self.model.parameters(), lr=s.model_lr)
        self.return_stats, self.reward_stats = RunningMeanStd(), RunningMeanStd()
        self.obs = self.env.observations[0]
        self.open_episodes = [self._new_episode(self.obs[i]) for i in range(s.num_envs)]
        for _ in range(s.num_envs):
            rows = s.episode_length + 1
            shapes = {"obs": (rows, s.obs_dim), "action": (rows, s.act_dim), "reward": (rows,)}
            self.buffer.push({key: torch.randn(shape) for key, shape in shapes.items()})

    def _new_episode(self, first_obs: Tensor) -> dict[str, list[Tensor]]:
        no_action, no_reward = torch.full((self.sizes.act_dim,), torch.nan), torch.tensor(torch.nan)
        return {"obs": [first_obs], "action": [no_action], "reward": [no_reward]}

    def store(self, step: Step, action: Tensor) -> None:
        """Append each environment's transition to its episode; push finished episodes."""
        done = step.terminated | step.truncated
        for i in range(self.sizes.num_envs):
            episode = self.open_episodes[i]
            episode["obs"].append(step.true_obs[i])
            episode["action"].append(action[i])
            episode["reward"].append(step.reward[i])
            if done[i]:
                self.buffer.push({key: torch.stack(rows) for key, rows in episode.items()})
                self.open_episodes[i] = self._new_episode(step.obs[i])

    def actor_loss(self) -> tuple[Tensor, Rollout]:
        """Imagined return from the current observations, in lockstep with the environment.

        Per environment, for each segment between real episode ends (PWM, policy objective):
        loss = -(sum_{h<k} gamma^h R(z_h, a_h) + gamma^k min_i V_i(z_k)), V = 0 after a termination.
        Losses are divided by the running standard deviation of the return, not centred.
        """
        s = self.sizes
        z = self.model.encode(self.obs)
        loss, gathered, discount = torch.zeros(s.num_envs), torch.zeros(s.num_envs), torch.ones(s.num_envs)
        rows = []
        for t in range(s.horizon):
            latent = z.detach()
            action = self.actor(z)
            reward = self.model.reward(z, action)
            z = self.model.next(z, action)
            step = self.env.step(action.detach())
            self.store(step, action.detach())
            done = step.terminated | step.truncated
            value = torch.where(step.terminated, 0.0, self.critic.all_values(z).min(dim=0).values)
            gathered = gathered + discount * reward
            discount = discount * s.gamma
            # The window's end closes every segment, exactly as a finished episode does.
            cut = torch.ones_like(done) if t == s.horizon - 1 else done
            loss = loss - torch.where(cut, gathered + discount * value, 0.0)
            if done.any():
                z = torch.where(done[:, None], self.model.encode(step.obs), z)
                gathered = torch.where(done, 0.0, gathered)
                discount = torch.where(done, 1.0, discount)
            self.obs = step.obs
            rows.append((latent, reward.detach(), value.detach(), cut.float()))
        self.return_stats.update(loss)
        rollout = Rollout(*(torch.stack(column) for column in zip(*rows, strict=True)))
        return (loss / self.return_stats.std()).mean(), rollout

    def train_actor(self) -> Rollout:
        """One first-order policy-gradient step through the imagined rollout."""
        self.actor_optimizer.zero_grad()
        loss, rollout = self.actor_loss()
        # The pass also reaches the model's and the critics' gradients; their own phases clear them.
        loss.backward()
        clip_grad_norm_(self.actor.parameters(), self.sizes.actor_clip)
        self.actor_optimizer.step()
        return rollout

    @torch.no_grad()
    def td_lambda(self, rollout: Rollout) -> Tensor:
        """TD(lambda) targets G_t = r + gamma (d V + (1 - d)((1 - lam) V + lam G_{t+1}))."""
        s = self.sizes
        target = torch.zeros(s.num_envs)
        targets = torch.zeros_like(rollout.rewards)
        for t in reversed(range(s.horizon)):
            value, done = rollout.next_values[t], rollout.done[t]
            blend = (1 - s.lam) * value + s.lam * target
            target = rollout.rewards[t] + s.gamma * (done * value + (1 - done) * blend)
            targets[t] = target
        return targets

    def train_critic(self, rollout: Rollout) -> None:
        """Regress every critic on the TD(lambda) targets of the imagined latents (mean squared error)."""
        s = self.sizes
        latents, targets = rollout.latents.flatten(0, 1), self.td_lambda(rollout).flatten()
        for _ in range(s.critic_iterations):
            for rows in torch.randperm(len(latents)).chunk(s.critic_batches):
                self.critic_optimizer.zero_grad()
                loss = ((self.critic.all_values(latents[rows]) - targets[rows]) ** 2).mean()
                loss.backward()
                clip_grad_norm_(self.critic.params.values(), s.critic_clip)
                self.critic_optimizer.step()

    def model_loss(self, obs: Tensor, action: Tensor, reward: Tensor) -> Tensor:
        """World-model loss of an unrolled window (PWM, dynamics and reward terms).

        1/H sum_t gamma^t (mean (z_{t+1} - sg E(o_{t+1}))^2 + 1/H mean (R(z_t, a_t) - r_t)^2)
        with z_0 = E(o_0) and z_{t+1} = F(z_t, a_t); gradients run through the whole unroll.
        """
        s = self.sizes
        with torch.no_grad():
            goals = self.model.encode(obs[1:])
        z = self.model.encode(obs[0])
        dynamics_loss, reward_loss = torch.zeros(()), torch.zeros(())
        for t in range(s.horizon):
            predicted = self.model.reward(z, action[t])
            z = self.model.next(z, action[t])
            dynamics_loss = dynamics_loss + s.gamma**t * F.mse_loss(z, goals[t])
            reward_loss = reward_loss + s.gamma**t * F.mse_loss(predicted, reward[t])
        return (dynamics_loss + reward_loss / s.horizon) / s.horizon

    def train_world_model(self) -> None:
        """Gradient steps on windows sampled from the replay buffer, rewards normalised."""
        s = self.sizes
        for _ in range(s.model_iterations):
            obs, action, reward = self.buffer.sample()
            self.reward_stats.update(reward)
            self.model_optimizer.zero_grad()
            self.model_loss(obs, action, self.reward_stats.normalise(reward)).backward()
            clip_grad_norm_(self.model.parameters(), s.model_clip)
            self.model_optimizer.step()

    def run(self) -> dict[str, float]:
        """One epoch; seconds spent per phase ("actor" includes the environment and its storage)."""
        start = time.perf_counter()
        rollout = self.train_actor()
        actor = time.perf_counter()
        self.train_critic(rollout)
        critic = time.perf_counter()
        self.train_world_model()
        end = time.perf_counter()
        phases = {"actor": actor - start, "critic": critic - actor, "world_model": end - critic}
        return {**phases, "total": end - start}


def main() -> None:
    """Time a few epochs after a warm-up and print the median and the minimum per phase."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="ant")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs after one warm-up epoch")
    options = parser.parse_args()
    epoch = PlainEpoch(PRESETS[options.preset])
    epoch.run()
    timings = [epoch.run() for _ in range(options.epochs)]
    print(f"preset {options.preset}, {options.epochs} epochs, {torch.get_num_threads()} torch threads")
    for phase in timings[0]:
        seconds = [timing[phase] for timing in timings]
        print(f"{phase:12s} median {statistics.median(seconds):7.3f} s   min {min(seconds):7.3f} s")


if __name__ == "__main__":
    main()
