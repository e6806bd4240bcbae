"""Replay memory of whole transitions for many environments, sampled as windows of one episode.

Every environment owns a ring of rows ``obs | action | reward | terminated`` in one packed tensor, so a
window is gathered with a single ``index_select``. The observation reached by the latest transition is
stored at once as a row of its own (the END row): the next transition of the same episode overwrites it,
and when the episode finishes it stays. A terminal observation is therefore never lost, and no question
"did any environment finish?" has to be asked of the device while adding.

A window starts at any stored transition and follows its episode for up to H transitions. Where the episode
(or what is known of it) is shorter, the rest of the window is padding, marked invalid. Demanding H whole
transitions instead would show the last transition of an episode in one window and those in its middle in H,
so that a model would meet terminations H times too rarely, and episodes shorter than H not at all.

In one environment transitions appear in time order and are overwritten in the same order, so the live ones
form a queue. Keeping that queue makes exactly uniform sampling independent of the capacity: no search over
the stored rows is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pwm.data.batch import Batch
from pwm.data.replay_state import check_states
from pwm.errors import ConfigError, DataError

# An add writes two rows per environment (transition and END row), and moves the newest row forward by
# one, or by two when it starts an episode: at most two transitions per environment can die in it.
_ROWS_PER_ADD = 2


class ReplayBuffer:
    """The latest transitions of N environments, on one device.

    Rows are numbered per environment from 0 without wrapping; row ``i`` lives at position
    ``i % rows_per_env`` of its ring. One row per episode (its END row) holds an observation only.

    Attributes:
        num_envs: N, environments added in lockstep.
        obs_dim: width of one observation.
        act_dim: width of one action.
        horizon: H, most transitions in one window.
        rows_per_env: rows kept for each environment, ``capacity // num_envs``.
        device: where everything is stored.
        recency: p, how much samples lean to recent data.
        total_added: transitions added since construction, stored or already overwritten.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        obs_dim: int,
        act_dim: int,
        horizon: int,
        device: torch.device | str = "cpu",
        recency: float = 1.0,
    ) -> None:
        """Allocate an empty buffer.

        Args:
            capacity: rows kept over all environments; rounded down to a multiple of ``num_envs``.
            num_envs: N, environments added in lockstep.
            obs_dim: width of one observation.
            act_dim: width of one action.
            horizon: H, most transitions in one window.
            device: where everything is stored and sampled.
            recency: p >= 1. Samples are u^p of the way from the newest to the oldest transition, u uniform:
                1 draws all alike, with 2 half of the samples come from the newest quarter.

        Raises:
            ConfigError: an argument is below 1, or ``capacity`` holds fewer than H+2 rows per environment.
        """
        sizes = {"num_envs": num_envs, "obs_dim": obs_dim, "act_dim": act_dim, "horizon": horizon}
        for key, value in {**sizes, "recency": recency}.items():
            if value < 1:
                raise ConfigError(f"{key}={value} is not allowed; the minimum is 1")
        minimum = num_envs * (horizon + 2)
        if capacity < minimum:
            raise ConfigError(
                f"capacity={capacity} is too small for num_envs={num_envs} and horizon={horizon}; "
                f"the minimum is {minimum} (horizon + 2 rows per environment)"
            )
        self.num_envs, self.obs_dim, self.act_dim, self.horizon = num_envs, obs_dim, act_dim, horizon
        self.rows_per_env = capacity // num_envs
        self.device = torch.device(device)
        self.recency = recency
        self.total_added = 0
        self._allocate()

    def _allocate(self) -> None:
        n, slots, device = self.num_envs, self.num_envs * self.rows_per_env, self.device
        width = self.obs_dim + self.act_dim + 2
        # Environment-major, so that the rows of one window are neighbours in memory.
        self._rows = torch.zeros(slots, width, device=device)
        self._is_transition = torch.zeros(slots, dtype=torch.bool, device=device)
        # Queue of the live transitions of each environment: a ring of row numbers. Its head and tail never
        # wrap; every environment gains one transition per add, so all tails are one number (``_tail``).
        self._queue = torch.zeros(slots, dtype=torch.int64, device=device)
        self._head = torch.zeros(n, dtype=torch.int64, device=device)
        # Number of the row that takes the next transition, and transitions in the running episode.
        self._cursor = torch.zeros(n, dtype=torch.int64, device=device)
        self._episode_step = torch.zeros(n, dtype=torch.int64, device=device)

        self._ring_start = torch.arange(n, device=device) * self.rows_per_env
        self._pair = torch.arange(_ROWS_PER_ADD, device=device).unsqueeze(1)
        self._ahead = torch.arange(self.horizon + 1, device=device).unsqueeze(1)
        # Source of the rows an add writes: first all transitions, then all END rows.
        self._stage = torch.zeros(_ROWS_PER_ADD, n, width, device=device)
        self._stage_flags = torch.tensor([True, False], device=device).repeat_interleave(n)
        self._stage_flat = self._stage.view(-1, width)
        self._stage_parts = self._split(self._stage[0])
        self._stage_end_obs = self._stage[1, :, : self.obs_dim]
        self._forget_caches()

    def _split(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views of obs, action, reward and terminated (as a float) in packed rows [..., width]."""
        o, a = self.obs_dim, self.act_dim
        return packed[..., :o], packed[..., o : o + a], packed[..., o + a], packed[..., o + a + 1]

    def _forget_caches(self) -> None:
        self._cumulative: Tensor | None = None
        self._num_transitions = 0

    @torch.no_grad()
    def add(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        final_obs: Tensor,
    ) -> None:
        """Store one transition of every environment; the values are copied.

        Where neither flag is set, the next ``obs`` must be this ``final_obs`` (see ``cut_episodes``).

        Args:
            obs: [N, obs_dim] float, what the action was chosen on.
            action: [N, act_dim] float in [-1, 1].
            reward: [N] float.
            terminated: [N] bool, the episode ended for good.
            truncated: [N] bool, the episode ended by its time limit.
            final_obs: [N, obs_dim] float, true next observation (``StepResult.final_obs``).

        Raises:
            DataError: a tensor has another shape, or a flag is not bool; nothing is stored then.
        """
        self._check_step(obs, action, reward, terminated, truncated, final_obs)
        for part, value in zip(self._stage_parts, (obs, action, reward, terminated), strict=True):
            part.copy_(value)
        self._stage_end_obs.copy_(final_obs)
        row = self._cursor + self._pair  # [2, N]: the transition's row and the END row
        slot = ((row % self.rows_per_env) + self._ring_start).view(-1)
        self._rows.index_copy_(0, slot, self._stage_flat)
        self._is_transition.index_copy_(0, slot, self._stage_flags)
        self._episode_step += 1
        self._update_queue(*row)

        finished = terminated | truncated
        self._cursor += 1
        self._cursor += finished
        self._episode_step.masked_fill_(finished, 0)
        self._forget_caches()

    def _check_step(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        final_obs: Tensor,
    ) -> None:
        flat, wide = (self.num_envs,), (self.num_envs, self.obs_dim)
        for name, value, expected in (
            ("obs", obs, wide),
            ("action", action, (self.num_envs, self.act_dim)),
            ("reward", reward, flat),
            ("terminated", terminated, flat),
            ("truncated", truncated, flat),
            ("final_obs", final_obs, wide),
        ):
            if value.shape != expected:
                raise DataError(
                    f"{name} has shape {tuple(value.shape)}, the replay buffer expects {expected}"
                )
        for name, value in (("terminated", terminated), ("truncated", truncated)):
            if value.dtype is not torch.bool:
                raise DataError(f"{name} has dtype {value.dtype}, the replay buffer expects torch.bool")

    def _update_queue(self, added: Tensor, newest: Tensor) -> None:
        """Queue the transitions in rows ``added`` [N]; drop those that row ``newest`` [N] overwrote."""
        place = self._tail % self.rows_per_env
        self._queue.index_copy_(0, self._ring_start + place, added)
        self.total_added += self.num_envs

        oldest = self._head + self._pair  # [2, N], the only transitions that can die
        slot = (oldest % self.rows_per_env) + self._ring_start
        row = self._queue.index_select(0, slot.view(-1)).view_as(slot)
        dead = (row <= newest - self.rows_per_env) & (oldest < self._tail)
        self._head += dead.sum(0)

    @torch.no_grad()
    def cut_episodes(self) -> None:
        """End every running episode as if truncated after its latest transition.

        To be called when the environments are reset from outside, so that no window joins the observation
        before the reset to the one after it. Stored windows stay valid.
        """
        self._cursor += self._episode_step > 0
        self._episode_step.zero_()

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw windows with replacement from all stored transitions, as ``recency`` says.

        Args:
            batch_size: B, number of windows.
            generator: source of randomness, on the buffer's device.

        Returns:
            Batch of [H+1, B, ...] obs and [H, B, ...] others; see ``gather``.

        Raises:
            DataError: nothing is stored, or ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise DataError(f"cannot sample batch_size={batch_size} windows; the minimum is 1")
        count = len(self)
        if count == 0:
            raise DataError("the replay buffer is empty")
        rank = torch.randint(count, (batch_size,), generator=generator, device=self.device)
        if self.recency != 1.0:
            rank = self._more_recent(rank, torch.rand(batch_size, generator=generator, device=self.device))
        return self._gather(rank)

    def gather(self, rank: Tensor) -> Batch:
        """Return the windows that start at the transitions with the given ranks.

        Transitions are ranked by environment, then from oldest to newest; ranks shift when data are added.

        Args:
            rank: [B] int64 in [0, len(self)).

        Returns:
            Batch of copies: obs [H+1, B, obs_dim], action [H, B, act_dim], reward [H, B] float32 (views of
            one gathered tensor), terminated and valid [H, B] bool. Padding repeats the last observation
            with zero action and reward.

        Raises:
            DataError: a rank is out of range.
        """
        if rank.numel() and not 0 <= int(rank.min()) <= int(rank.max()) < len(self):
            raise DataError(
                f"ranks {int(rank.min())}..{int(rank.max())} are out of range; "
                f"{len(self)} transitions are stored"
            )
        return self._gather(rank)

    def _gather(self, rank: Tensor) -> Batch:
        env, start = self._locate(rank)
        h, ring = self.horizon, self._ring_start[env]
        slot = ((self._ahead[:h] + start) % self.rows_per_env) + ring
        # The END row stops every window: what lies behind it belongs to another episode.
        valid = self._is_transition[slot].cumprod(0)
        row = torch.minimum(self._ahead, valid.sum(0)) + start  # [H+1, B]
        slot = (row % self.rows_per_env) + ring
        packed = self._rows.index_select(0, slot.view(-1)).view(*slot.shape, self._rows.shape[1])
        obs, action, reward, terminated = self._split(packed)
        return Batch(obs, action[:h], reward[:h], terminated[:h] > 0.5, valid > 0)

    def _locate(self, rank: Tensor) -> tuple[Tensor, Tensor]:
        """Environment and row number, both [B] int64, of the transitions with ranks [B]."""
        cumulative = self._cumulative_transitions()
        env = torch.searchsorted(cumulative, rank, right=True)
        # The rank of the head of an environment's queue is the number of transitions before it.
        offset = self._head - (cumulative - (self._tail - self._head))
        place = (rank + offset[env]) % self.rows_per_env
        return env, self._queue.index_select(0, place + self._ring_start[env])

    def _more_recent(self, rank: Tensor, within: Tensor) -> Tensor:
        """Ranks in the same environments, u^recency of the way back where u is that of ``rank + within``."""
        cumulative = self._cumulative_transitions()
        env = torch.searchsorted(cumulative, rank, right=True)
        newest, count = cumulative[env] - 1, (self._tail - self._head)[env]
        age = count * ((newest - rank + within) / count) ** self.recency
        return newest - torch.minimum(age.long(), count - 1)

    def _cumulative_transitions(self) -> Tensor:
        """Transitions of environments 0..e for every e, [N] int64, counted once per change of data."""
        if self._cumulative is None:
            self._cumulative = (self._tail - self._head).cumsum(0)
            self._num_transitions = int(self._cumulative[-1])
        return self._cumulative

    @property
    def _tail(self) -> int:
        return self.total_added // self.num_envs

    def __len__(self) -> int:
        """Transitions stored now, each the start of one window; END rows do not count."""
        self._cumulative_transitions()
        return self._num_transitions

    @property
    def mean_age(self) -> Tensor:
        """Mean steps its environment made since a transition was stored, a scalar; NaN if none is stored."""
        # Every add gives every environment one transition: the n stored ones have the ages 0..n-1.
        stored = (self._tail - self._head).double()
        return (stored * (stored - 1)).sum() / (2 * stored.sum())

    @property
    def cursor(self) -> Tensor:
        """Copy of the number of the row that takes each environment's next transition, [N] int64."""
        return self._cursor.clone()

    def state_dict(self, since: Tensor | None = None) -> dict[str, Any]:
        """Return a CPU copy of the stored rows; tensors and numbers only.

        Args:
            since: ``cursor`` at an earlier moment, [N] int64; only what was written from then on is copied.

        Returns:
            The sizes (int), ``total_added`` (int), ``cursor`` and ``episode_step`` [N] int64, and the rows
            ``first``..newest of every environment one after the other: ``first`` [N] int64, ``rows``
            [M, obs_dim + act_dim + 2] float32, ``is_transition`` [M] bool.
        """
        oldest = (self._newest() + 1 - self.rows_per_env).clamp(min=0)
        first = oldest if since is None else torch.maximum(since.to(self.device), oldest)
        slot = self._slots(first)
        tensors = {
            "rows": self._rows[slot],
            "is_transition": self._is_transition[slot],
            "first": first,
            "cursor": self._cursor,
            "episode_step": self._episode_step,
        }
        copies = {key: value.to("cpu", copy=True) for key, value in tensors.items()}
        return {**self._sizes(), "total_added": self.total_added, **copies}

    @torch.no_grad()
    def load_state_dict(self, *states: dict[str, Any]) -> None:
        """Continue from a state and its increments: same samples from the same generator, same evolution.

        Args:
            states: what ``state_dict`` returned at successive moments, oldest first, each with ``since``
                the ``cursor`` of the one before.

        Raises:
            DataError: a state was saved by a buffer of other sizes, is incomplete or inconsistent, or does
                not follow the one before; the buffer is then unchanged.
        """
        check_states(states, self._sizes())
        self._is_transition.zero_()
        for state in states:
            self._cursor.copy_(state["cursor"])
            self._episode_step.copy_(state["episode_step"])
            slot = self._slots(state["first"].to(self.device))
            self._rows[slot] = state["rows"].to(self.device)
            self._is_transition[slot] = state["is_transition"].to(self.device)
        self.total_added = int(states[-1]["total_added"])
        self._rebuild_queue()
        self._forget_caches()

    def _sizes(self) -> dict[str, int]:
        keys = ("num_envs", "obs_dim", "act_dim", "horizon", "rows_per_env")
        return {key: getattr(self, key) for key in keys}

    def _newest(self) -> Tensor:
        """Number of the newest row, [N]: the END row, at the cursor while an episode runs, else before it."""
        return self._cursor - (self._episode_step == 0).to(torch.int64)

    def _slots(self, first: Tensor) -> Tensor:
        """Places [M] of rows ``first`` [N] to the newest, one environment after the other."""
        count = self._newest() + 1 - first
        env = torch.arange(self.num_envs, device=self.device).repeat_interleave(count)
        # Position in the packed rows, minus the number of rows of the environments before.
        offset = torch.arange(len(env), device=self.device) - (count.cumsum(0) - count)[env]
        return (first[env] + offset) % self.rows_per_env + self._ring_start[env]

    def _rebuild_queue(self) -> None:
        """List the live transitions anew from the stored rows: the last ``rows_per_env`` of every ring."""
        c = self.rows_per_env
        row = self._newest().unsqueeze(1) + torch.arange(1 - c, 1, device=self.device)  # [N, C], oldest first
        slot = (row % c) + self._ring_start.unsqueeze(1)
        live = self._is_transition[slot] & (row >= 0)
        count = live.sum(1, keepdim=True)
        self._head.copy_(self._tail - count.squeeze(1))
        place = (self._tail - count + live.cumsum(1) - 1) % c
        self._queue.index_copy_(0, (place + self._ring_start.unsqueeze(1))[live], row[live])
