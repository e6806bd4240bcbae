"""Environments with known answers: a linear-quadratic system and a counter.

``lqr`` has an exact optimal return (Riccati recursion), so a learner can be scored against it.
``counting`` returns observations that name their environment, step and episode, so that a training
loop or a replay buffer can be checked entry by entry; stepping it costs next to nothing.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pwm.envs.base import EnvSpec, StepResult, VectorEnv, check_action, check_state, restore_generator
from pwm.errors import ConfigError

TASKS = ("lqr", "counting")
ENDS = ("terminated", "truncated")

# Lightly anti-damped oscillators with unit frequency: doing nothing lets the state grow.
LQR_DT = 0.1
LQR_STIFFNESS = 1.0
LQR_DAMPING = -0.1
LQR_GAIN = 2.0
LQR_START = 0.75
LQR_STATE_COST = 1.0
LQR_ACTION_COST = 2.0
LQR_BONUS = 1.0


@dataclass
class Options:
    """Configuration of an analytic environment.

    Attributes:
        task: ``lqr`` or ``counting``.
        episode_length: steps per episode (counting: where ``episode_lengths`` is empty).
        state_dim: lqr only: width of the state and of the observation, even, at least 2. Every
            pair of entries is one oscillator with one action.
        obs_dim: counting only: width of the observation, at least 3.
        act_dim: counting only: width of the action, at least 1.
        episode_lengths: counting only: environment i uses entry ``i % len`` for all its episodes.
        ends: counting only: episode k of environment i ends as entry ``(i + k) % len`` says,
            ``terminated`` or ``truncated``.

    Raises:
        ConfigError: a value is not allowed.
    """

    task: str = "lqr"
    episode_length: int = 100
    state_dim: int = 4
    obs_dim: int = 8
    act_dim: int = 2
    episode_lengths: list[int] = field(default_factory=list)
    ends: list[str] = field(default_factory=lambda: ["truncated"])

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            close = difflib.get_close_matches(str(self.task), TASKS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ConfigError(f"env.task={self.task!r} is unknown{hint}; choose one of: {', '.join(TASKS)}")
        for key, least in (("episode_length", 1), ("state_dim", 2), ("obs_dim", 3), ("act_dim", 1)):
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"env.{key}={value!r}: must be an integer of at least {least}")
        if self.state_dim % 2:
            raise ConfigError(f"env.state_dim={self.state_dim}: must be even (position and velocity pairs)")
        self.episode_lengths = list(self.episode_lengths)
        self.ends = list(self.ends)
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in self.episode_lengths):
            raise ConfigError(f"env.episode_lengths={self.episode_lengths!r}: must be positive integers")
        if not self.ends or any(end not in ENDS for end in self.ends):
            raise ConfigError(f"env.ends={self.ends!r}: must be a non-empty list of {' / '.join(ENDS)}")

    @property
    def task_name(self) -> str:
        """``EnvSpec.name`` of the environment."""
        return f"analytic_{self.task}"


class LqrEnv:
    """N linear-quadratic systems ``x' = A x + B u`` with reward ``1 - x.Q x - u.R u``.

    The reward belongs to the state before the step. Episodes are truncated after T steps; nothing
    terminates. Start states are uniform in [-0.75, 0.75] per entry; the action cost is chosen so that
    the optimal feedback stays inside [-1, 1] from every start, which the constructor checks, so the
    clipped problem has the same solution as the unclipped one.

    Derivation of the optimum: with ``P_T = 0``, the cost-to-go from step t is ``x.P_t x`` where
    ``K_t = (R + B' P_{t+1} B)^-1 B' P_{t+1} A``, ``P_t = Q + A' P_{t+1} (A - B K_t)``, ``u = -K_t x``
    (Bellman's equation for a quadratic value). The expected return is therefore
    ``T - trace(P_0 Cov(x_0))``, with ``Cov = 0.75^2/3 I`` for the uniform start.

    Attributes:
        gains: [T, act_dim, state_dim] float64, optimal feedback K_t.
        cost_to_go: [T + 1, state_dim, state_dim] float64, P_t.
    """

    def __init__(self, options: Options, num_envs: int, device: torch.device, seed: int) -> None:
        """Build and reset with ``seed``.

        Raises:
            ConfigError: the optimal feedback would leave [-1, 1].
        """
        n, length = options.state_dim, options.episode_length
        self.spec = EnvSpec(options.task_name, n, n // 2, length, LQR_DT)
        self.num_envs = num_envs
        self.device = device
        self.A, self.B = lqr_matrices(n)
        self.Q = LQR_STATE_COST * torch.eye(n, dtype=torch.float64)
        self.R = LQR_ACTION_COST * torch.eye(n // 2, dtype=torch.float64)
        self.gains, self.cost_to_go = riccati(self.A, self.B, self.Q, self.R, length)
        largest = largest_optimal_action(self.A, self.B, self.gains, LQR_START)
        if largest > 1.0:
            raise ConfigError(f"env.episode_length={length}: the optimal action reaches {largest:.2f} > 1")
        self._transition = torch.cat((self.A, self.B), dim=1).T.to(device)
        self._generator = torch.Generator(device=device)
        self.reset(seed)

    def optimal_return(self) -> float:
        """Return the exact expected undiscounted return of the optimal feedback over one episode."""
        covariance = LQR_START**2 / 3.0
        return LQR_BONUS * self.spec.episode_length - covariance * float(self.cost_to_go[0].trace())

    def optimal_action(self) -> Tensor:
        """Return the optimal actions [N, act_dim] float32 for the current states and steps."""
        gains = self.gains.to(self.device)[self._steps]
        return -(gains @ self._state.unsqueeze(2)).squeeze(2).to(torch.float32)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes everywhere; see ``VectorEnv.reset``. Returns [N, state_dim] float32."""
        if seed is not None:
            self._generator.manual_seed(seed)
        self._state = self._draw(self.num_envs)
        self._steps = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        return self._state.to(torch.float32)

    def step(self, action: Tensor) -> StepResult:
        """Advance every copy by one step; see ``VectorEnv.step``.

        Raises:
            ActionError: wrong shape or a non-finite entry.
        """
        check_action(action, self.num_envs, self.spec.act_dim)
        control = action.detach().to(self.device, torch.float64).clamp(-1.0, 1.0)
        cost = LQR_STATE_COST * self._state.square().sum(1) + LQR_ACTION_COST * control.square().sum(1)
        self._state = torch.cat((self._state, control), dim=1) @ self._transition
        self._steps += 1
        final_obs = self._state.to(torch.float32)
        truncated = self._steps >= self.spec.episode_length
        if bool(truncated.any()):
            index = truncated.nonzero().squeeze(1)
            self._state[index] = self._draw(index.shape[0])
            self._steps[index] = 0
        reward = (LQR_BONUS - cost).to(torch.float32)
        obs = self._state.to(torch.float32)
        return StepResult(obs, reward, torch.zeros_like(truncated), truncated, final_obs)

    def state_dict(self) -> dict[str, Any]:
        """Return states, counters and random stream; see ``VectorEnv.state_dict``."""
        return {
            "name": self.spec.name,
            "state": self._state.clone(),
            "steps": self._steps.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            EnvError: the state belongs to another task or other sizes.
        """
        check_state(state, self.spec.name, "state", self._state)
        self._state = state["state"].to(self.device, copy=True)
        self._steps = state["steps"].to(self.device, copy=True)
        restore_generator(self._generator, state["generator"])

    def close(self) -> None:
        """Nothing to free."""

    def _draw(self, count: int) -> Tensor:
        shape = (count, self.spec.obs_dim)
        unit = torch.rand(shape, generator=self._generator, dtype=torch.float64, device=self.device)
        return LQR_START * (2.0 * unit - 1.0)


def lqr_matrices(state_dim: int) -> tuple[Tensor, Tensor]:
    """Return A [n, n] and B [n, n/2] in float64: n/2 independent oscillators, exact to first order in dt."""
    block = torch.tensor(
        [[1.0, LQR_DT], [-LQR_STIFFNESS * LQR_DT, 1.0 - LQR_DAMPING * LQR_DT]], dtype=torch.float64
    )
    push = torch.tensor([[0.0], [LQR_GAIN * LQR_DT]], dtype=torch.float64)
    count = state_dim // 2
    return torch.block_diag(*[block] * count), torch.block_diag(*[push] * count)


def riccati(A: Tensor, B: Tensor, Q: Tensor, R: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return optimal gains [T, m, n] and cost-to-go matrices [T + 1, n, n] of the finite-horizon LQR."""
    cost = torch.zeros_like(Q)
    costs, gains = [cost], []
    for _ in range(steps):
        gain = torch.linalg.solve(R + B.T @ cost @ B, B.T @ cost @ A)
        cost = Q + A.T @ cost @ (A - B @ gain)
        costs.append(cost)
        gains.append(gain)
    return torch.stack(gains[::-1]), torch.stack(costs[::-1])


def largest_optimal_action(A: Tensor, B: Tensor, gains: Tensor, start: float) -> float:
    """Return the largest |u| of the optimal feedback over all starts in the box [-start, start]^n.

    ``u_t = -K_t Phi_t x_0`` is linear in the start, so its maximum over a box is a row sum of moduli.
    """
    closed = torch.eye(A.shape[0], dtype=A.dtype)
    largest = 0.0
    for gain in gains:
        largest = max(largest, start * float((gain @ closed).abs().sum(1).max()))
        closed = (A - B @ gain) @ closed
    return largest


class CountingEnv:
    """N deterministic counters.

    Observation: [environment id, step within the episode, episode index, 0, ...]. The reward of a
    step is its index within the episode, so an episode of length L returns ``L (L - 1) / 2``. Actions
    are checked and ignored.
    """

    def __init__(self, options: Options, num_envs: int, device: torch.device, seed: int) -> None:
        """Build and reset; ``seed`` changes nothing, because nothing is random."""
        lengths = options.episode_lengths or [options.episode_length]
        self.spec = EnvSpec(options.task_name, options.obs_dim, options.act_dim, max(lengths), 0.0)
        self.num_envs = num_envs
        self.device = device
        self._ids = torch.arange(num_envs, device=device)
        self._lengths = torch.tensor(lengths, device=device)[self._ids % len(lengths)]
        self._terminates = torch.tensor([end == "terminated" for end in options.ends], device=device)
        self.reset(seed)

    def reset(self, seed: int | None = None) -> Tensor:
        """Restart every counter at step 0 of episode 0. Returns [N, obs_dim] float32."""
        self._steps = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self._episodes = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        return self._observe()

    def step(self, action: Tensor) -> StepResult:
        """Count one step; see ``VectorEnv.step``.

        Raises:
            ActionError: wrong shape or a non-finite entry.
        """
        check_action(action, self.num_envs, self.spec.act_dim)
        reward = self._steps.to(torch.float32)
        self._steps = self._steps + 1
        final_obs = self._observe()
        done = self._steps >= self._lengths
        kind = self._terminates[(self._ids + self._episodes) % len(self._terminates)]
        self._steps = torch.where(done, 0, self._steps)
        self._episodes = self._episodes + done
        return StepResult(self._observe(), reward, done & kind, done & ~kind, final_obs)

    def state_dict(self) -> dict[str, Any]:
        """Return both counters; see ``VectorEnv.state_dict``."""
        return {"name": self.spec.name, "steps": self._steps.clone(), "episodes": self._episodes.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            EnvError: the state belongs to another task or other sizes.
        """
        check_state(state, self.spec.name, "steps", self._steps)
        self._steps = state["steps"].to(self.device, copy=True)
        self._episodes = state["episodes"].to(self.device, copy=True)

    def close(self) -> None:
        """Nothing to free."""

    def _observe(self) -> Tensor:
        obs = torch.zeros(self.num_envs, self.spec.obs_dim, device=self.device)
        obs[:, 0], obs[:, 1], obs[:, 2] = self._ids, self._steps, self._episodes
        return obs


def build(options: Options, num_envs: int, device: torch.device | str, seed: int) -> VectorEnv:
    """Return ``num_envs`` copies of the task, reset with ``seed``.

    Raises:
        ConfigError: ``num_envs`` is not positive, or the lqr optimum would saturate.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs={num_envs}: must be at least 1")
    kind = LqrEnv if options.task == "lqr" else CountingEnv
    return kind(options, num_envs, torch.device(device), seed)
