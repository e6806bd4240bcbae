"""The replay buffer against a naive model that keeps every row of every environment in a list."""

from __future__ import annotations

import io
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pwm.data.replay import ReplayBuffer
from pwm.errors import ConfigError, DataError

OBS_DIM, ACT_DIM = 3, 2
GOES_ON, TERMINATED, TRUNCATED = 0, 1, 2

# One window as plain numbers: observations, actions, rewards, terminated flags, validity.
Window = tuple[tuple[Any, ...], ...]


class Naive:
    """Environments whose every number names its origin, and the plain list of rows they produced.

    A row is ``[episode, obs, action, reward, terminated]``; an END row has no action. The row of the
    observation reached last is always present, so the retained rows are simply the last ``rows_per_env``.
    """

    def __init__(self, num_envs: int, horizon: int, rows_per_env: int) -> None:
        self.num_envs, self.horizon, self.rows_per_env = num_envs, horizon, rows_per_env
        self.rows: list[list[list[Any]]] = [[] for _ in range(num_envs)]
        self.episode = [0] * num_envs
        self.step = [0] * num_envs
        self.count = 0

    def obs(self, env: int) -> tuple[float, ...]:
        return (float(env), float(self.episode[env]), float(self.step[env]))

    def advance(self, kinds: list[int]) -> dict[str, torch.Tensor]:
        """Make one transition of each kind; returns the arguments of ``ReplayBuffer.add``."""
        lists: dict[str, list[Any]] = {key: [] for key in ("obs", "action", "reward", "final_obs")}
        for env, kind in enumerate(kinds):
            self.count += 1
            obs, episode = self.obs(env), self.episode[env]
            action, reward = (float(self.count), float(-self.count)), self.count / 2
            self.step[env] += 1
            final = self.obs(env)
            if self.step[env] > 1:
                self.rows[env].pop()  # the row of the reached observation becomes a transition row
            self.rows[env].append([episode, obs, action, reward, kind == TERMINATED])
            self.rows[env].append([episode, final, None, None, None])
            for key, value in zip(lists, (obs, action, reward, final), strict=True):
                lists[key].append(value)
            if kind != GOES_ON:
                self._next_episode(env)
        flags = torch.tensor(kinds)
        tensors = {key: torch.tensor(value, dtype=torch.float32) for key, value in lists.items()}
        return {**tensors, "terminated": flags == TERMINATED, "truncated": flags == TRUNCATED}

    def cut(self) -> None:
        for env in range(self.num_envs):
            if self.step[env] > 0:
                self._next_episode(env)

    def _next_episode(self, env: int) -> None:
        self.episode[env] += 1
        self.step[env] = 0

    def retained(self, env: int) -> list[list[Any]]:
        return self.rows[env][-self.rows_per_env :]

    def windows(self) -> list[Window]:
        """H transitions from every retained one on, padded after its episode; oldest first."""
        found: list[Window] = []
        for env in range(self.num_envs):
            rows = self.retained(env)
            for start, first in enumerate(rows):
                if first[2] is None:
                    continue
                part = [row for row in rows[start : start + self.horizon + 1] if row[0] == first[0]]
                last = part[-1][1]
                moves = [row for row in part[: self.horizon] if row[2] is not None]
                missing = self.horizon - len(moves)
                observations = [row[1] for row in moves] + [last] * (missing + 1)
                moves += [[None, None, (0.0,) * ACT_DIM, 0.0, False]] * missing
                fields = [tuple(row[i] for row in moves) for i in (2, 3, 4)]
                valid = (True,) * (self.horizon - missing) + (False,) * missing
                found.append((tuple(observations), *fields, valid))
        return found

    def age(self) -> float:
        """Mean number of steps of every environment since the retained transitions were made."""
        steps = self.count // self.num_envs
        # The first entry of the action is the number of the transition, counted over all environments.
        made = [
            (row[2][0] - 1) // self.num_envs
            for env in range(self.num_envs)
            for row in self.retained(env)
            if row[2] is not None
        ]
        return sum(steps - 1 - step for step in made) / len(made)

    def transitions(self) -> int:
        return sum(row[2] is not None for env in range(self.num_envs) for row in self.retained(env))


def _plain(batch: Any) -> list[Window]:
    """The windows of a batch in the form ``Naive.windows`` returns."""
    obs, action = batch.obs.transpose(0, 1).tolist(), batch.action.transpose(0, 1).tolist()
    flat = [column.T.tolist() for column in (batch.reward, batch.terminated, batch.valid)]
    return [
        (tuple(map(tuple, o)), tuple(map(tuple, a)), *map(tuple, rest))
        for o, a, *rest in zip(obs, action, *flat, strict=True)
    ]


def _stored(buffer: ReplayBuffer) -> list[Window]:
    return _plain(buffer.gather(torch.arange(len(buffer), device=buffer.device)))


def _buffer(naive: Naive, spare: int = 0, device: str = "cpu") -> ReplayBuffer:
    """A buffer as large as the model; ``spare`` rows of capacity are too few for one more row each."""
    capacity = naive.rows_per_env * naive.num_envs + spare
    return ReplayBuffer(capacity, naive.num_envs, OBS_DIM, ACT_DIM, naive.horizon, device)


def _kinds(generator: torch.Generator, num_envs: int, mean_length: float) -> list[int]:
    done = torch.rand(num_envs, generator=generator) < 1 / mean_length
    return (done * torch.randint(1, 3, (num_envs,), generator=generator)).tolist()


def _run(naive: Naive, buffer: ReplayBuffer, steps: int, mean_length: float, seed: int) -> None:
    """Feed both with the same random episodes, with an outside reset now and then."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        buffer.add(**naive.advance(_kinds(generator, naive.num_envs, mean_length)))
        if float(torch.rand((), generator=generator)) < 0.03:
            naive.cut()
            buffer.cut_episodes()


@st.composite
def sizes(draw: st.DrawFn) -> Naive:
    horizon = draw(st.integers(1, 5))
    return Naive(draw(st.integers(1, 4)), horizon, horizon + 2 + draw(st.integers(0, 12)))


@settings(max_examples=150, deadline=None)
@given(sizes(), st.data())
def test_windows_equal_naive_model_after_every_step(naive: Naive, data: st.DataObject) -> None:
    buffer = _buffer(naive, spare=data.draw(st.integers(0, naive.num_envs - 1)))
    assert buffer.rows_per_env == naive.rows_per_env
    kind = st.sampled_from([GOES_ON, GOES_ON, GOES_ON, TERMINATED, TRUNCATED])
    step = st.lists(kind, min_size=naive.num_envs, max_size=naive.num_envs)
    # A drawn length, because lists of free length are mostly too short to wrap around.
    length = data.draw(st.integers(1, 40))
    moves = st.lists(st.one_of(step, step, step, step, st.none()), min_size=length, max_size=length)
    for kinds in data.draw(moves):
        if kinds is None:
            naive.cut()
            buffer.cut_episodes()
        else:
            buffer.add(**naive.advance(kinds))
        assert _stored(buffer) == naive.windows()
        assert len(buffer) == naive.transitions()
        assert buffer.total_added == naive.count
        assert buffer.mean_age == pytest.approx(naive.age() if len(buffer) else math.nan, nan_ok=True)


@settings(max_examples=80, deadline=None)
@given(sizes(), st.integers(1, 150), st.floats(1.0, 40.0), st.integers(0, 2**31))
def test_windows_equal_naive_model_after_many_wraps(
    naive: Naive, steps: int, mean_length: float, seed: int
) -> None:
    buffer = _buffer(naive)
    _run(naive, buffer, steps, mean_length, seed)
    expected = naive.windows()
    assert _stored(buffer) == expected
    drawn = _plain(buffer.sample(200, torch.Generator().manual_seed(seed)))
    assert set(drawn) <= set(expected)
    for obs, _, _, terminated, valid in drawn:
        envs, episodes, steps_of = zip(*obs, strict=True)
        assert len(set(envs)) == len(set(episodes)) == 1
        length = sum(valid)
        assert 1 <= length <= naive.horizon
        assert all(valid[:length])
        expected_steps = [steps_of[0] + min(t, length) for t in range(naive.horizon + 1)]
        assert list(steps_of) == expected_steps
        assert not any(terminated[: length - 1]), "a window goes on after the end of its episode"


@pytest.mark.parametrize("kind", [TERMINATED, TRUNCATED])
def test_terminal_observation_is_stored_and_only_termination_is_flagged(kind: int) -> None:
    naive = Naive(1, 2, 8)
    buffer = _buffer(naive)
    for done in (GOES_ON, GOES_ON, kind, GOES_ON):
        buffer.add(**naive.advance([done]))
    batch = buffer.gather(torch.tensor([1, 2, 3]))
    assert batch.obs[:, 0].tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 3]]
    assert batch.obs[:, 1].tolist() == [[0, 0, 2], [0, 0, 3], [0, 0, 3]]
    assert batch.terminated.T.tolist() == [
        [False, kind == TERMINATED],
        [kind == TERMINATED, False],
        [False] * 2,
    ]
    assert batch.valid.T.tolist() == [[True, True], [True, False], [True, False]]


def test_every_transition_of_a_short_episode_is_learned_from_equally_often() -> None:
    naive = Naive(1, 4, 30)
    buffer = _buffer(naive)
    for done in (GOES_ON, GOES_ON, TERMINATED, GOES_ON):
        buffer.add(**naive.advance([done]))
    # Of the windows that start anywhere in the 3-step episode, k contain its k-th transition.
    valid = buffer.gather(torch.arange(3)).valid
    assert int(valid.sum()) == 1 + 2 + 3
    assert buffer.gather(torch.arange(3)).terminated.sum() == 3


def test_latest_transition_can_be_sampled_at_once() -> None:
    naive = Naive(2, 1, 5)
    buffer = _buffer(naive)
    step = naive.advance([GOES_ON, GOES_ON])
    buffer.add(**step)
    batch = buffer.gather(torch.tensor([0, 1]))
    assert torch.equal(batch.obs[1], step["final_obs"])


def test_batch_has_documented_shapes_and_types() -> None:
    naive = Naive(3, 4, 20)
    buffer = _buffer(naive)
    _run(naive, buffer, 15, 1e9, seed=0)
    batch = buffer.sample(7, torch.Generator().manual_seed(0))
    assert [tuple(t.shape) for t in batch[:5]] == [(5, 7, OBS_DIM), (4, 7, ACT_DIM), (4, 7), (4, 7), (4, 7)]
    assert [t.dtype for t in batch[:5]] == [torch.float32] * 3 + [torch.bool] * 2
    assert batch.task is None


def test_values_are_copied_in_and_out_without_gradients() -> None:
    naive = Naive(2, 1, 6)
    buffer = _buffer(naive)
    step = naive.advance([GOES_ON, GOES_ON])
    step["action"].requires_grad_(True)
    buffer.add(**step)
    before = _stored(buffer)
    step["obs"].fill_(99)
    batch = buffer.gather(torch.arange(2))
    batch.obs.fill_(77)
    assert not batch.action.requires_grad
    assert _stored(buffer) == before


def test_sampling_is_uniform_over_windows_not_over_environments() -> None:
    # One environment has long episodes and the others short ones, so their window counts differ a lot.
    naive = Naive(3, 3, 16)
    buffer = _buffer(naive)
    for t in range(37):
        buffer.add(**naive.advance([GOES_ON, TRUNCATED * (t % 5 == 4), TERMINATED * (t % 2)]))
    expected = naive.windows()
    counts = Counter(window[0][0][0] for window in expected)
    assert counts[0.0] == 15
    assert 0 < counts[2.0] < counts[1.0] < counts[0.0]
    draws = 40_000
    generator = torch.Generator().manual_seed(3)
    seen = Counter(_plain(buffer.sample(draws, generator)))
    assert set(seen) == set(expected)
    mean = draws / len(expected)
    chi_square = sum((seen[w] - mean) ** 2 / mean for w in expected)
    freedom = len(expected) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("recency", [1.0, 2.0, 3.5])
def test_recent_transitions_are_drawn_as_often_as_documented(recency: float) -> None:
    # The age of a sample, as a share of the stored data of its environment, is distributed like u^recency.
    n, steps, draws = 3, 40, 60_000
    buffer = ReplayBuffer(n * 64, n, 1, 1, 4, recency=recency)
    for t in range(steps):
        # Every environment ends its episodes at another pace: ranks, not rows, have to be what counts.
        ended = torch.tensor([t % 5 == 4, t % 7 == 6, False])
        buffer.add(
            torch.full((n, 1), float(t)),
            torch.zeros(n, 1),
            torch.zeros(n),
            ended,
            torch.zeros(n, dtype=torch.bool),
            torch.full((n, 1), t + 1.0),
        )
    drawn = buffer.sample(draws, torch.Generator().manual_seed(7)).obs[0, :, 0].long()
    share = torch.arange(steps + 1, dtype=torch.float64) / steps
    expected = draws * (share ** (1 / recency)).diff()
    seen = torch.bincount(steps - 1 - drawn, minlength=steps)
    chi_square = ((seen - expected) ** 2 / expected).sum()
    assert chi_square < steps + 5 * (2 * steps) ** 0.5
    if recency == 2.0:
        assert abs((drawn >= steps * 3 // 4).double().mean() - 0.5) < 0.01


def test_same_generator_state_gives_same_samples() -> None:
    naive = Naive(2, 2, 12)
    buffer = _buffer(naive)
    _run(naive, buffer, 30, 8.0, seed=1)
    first, second = (buffer.sample(64, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[:5], second[:5], strict=True))


@settings(max_examples=60, deadline=None)
@given(sizes(), st.integers(0, 60), st.floats(1.5, 40.0), st.integers(0, 2**31), st.booleans())
def test_restored_buffer_samples_and_evolves_identically(
    naive: Naive, steps: int, mean_length: float, seed: int, into_used: bool
) -> None:
    buffer = _buffer(naive)
    _run(naive, buffer, steps, mean_length, seed)
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    other = Naive(naive.num_envs, naive.horizon, naive.rows_per_env)
    restored = _buffer(other)
    if into_used:
        _run(other, restored, 25, 6.0, seed + 1)
        assert _stored(restored) == other.windows()
        assert len(restored) == other.transitions()
    restored.load_state_dict(torch.load(file, weights_only=True))

    generator = torch.Generator().manual_seed(seed)
    for _ in range(25):
        assert _stored(restored) == _stored(buffer) == naive.windows()
        assert len(restored) == len(buffer)
        assert restored.total_added == buffer.total_added
        if len(buffer):
            draws = [b.sample(32, torch.Generator().manual_seed(seed)) for b in (buffer, restored)]
            assert all(torch.equal(a, b) for a, b in zip(*(d[:5] for d in draws), strict=True))
        step = naive.advance(_kinds(generator, naive.num_envs, mean_length))
        buffer.add(**step)
        restored.add(**step)


@settings(max_examples=40, deadline=None)
@given(
    gaps=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    rows_per_env=st.integers(6, 40),
    mean_length=st.floats(1.5, 30.0),
    cut=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_increments_add_up_to_the_buffer(
    gaps: list[int], rows_per_env: int, mean_length: float, cut: bool, seed: int
) -> None:
    """Increments that were overwritten by the end may be missing, any other one is missed."""
    naive = Naive(3, 2, rows_per_env)
    buffer = _buffer(naive)
    states, since = [], None
    for number, steps in enumerate(gaps):
        _run(naive, buffer, steps, mean_length, seed + number)
        states.append(buffer.state_dict(since))
        since = buffer.cursor
    if cut:
        needed = since - (buffer._episode_step == 0).long() + 1 - rows_per_env
        while len(states) > 1 and bool((states[1]["first"] <= needed.clamp(min=0)).all()):
            states.pop(0)
    restored = _buffer(naive)
    restored.load_state_dict(*states)
    assert _stored(restored) == _stored(buffer) == naive.windows()
    assert restored.total_added == buffer.total_added
    steps = naive.advance(_kinds(torch.Generator().manual_seed(seed), 3, mean_length))
    buffer.add(**steps)
    restored.add(**steps)
    assert _stored(restored) == _stored(buffer)


def test_a_missing_increment_is_noticed() -> None:
    naive = Naive(2, 2, 40)
    buffer = _buffer(naive)
    states, since = [], None
    for seed in range(3):
        _run(naive, buffer, 5, 1e9, seed)
        states.append(buffer.state_dict(since))
        since = buffer.cursor
    restored = _buffer(naive)
    with pytest.raises(DataError, match="increment is missing"):
        restored.load_state_dict(states[0], states[2])
    with pytest.raises(DataError, match="increment is missing"):
        restored.load_state_dict(states[1], states[2])
    assert len(restored) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_stores_the_same_windows_and_adds_without_waiting_for_the_device() -> None:
    naive = Naive(3, 2, 9)
    buffer = _buffer(naive, device="cuda")
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        step = {k: v.cuda() for k, v in naive.advance(_kinds(generator, 3, 5.0)).items()}
        torch.cuda.set_sync_debug_mode("error")
        try:
            buffer.add(**step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert _stored(buffer) == naive.windows()
    drawn = _plain(buffer.sample(32, torch.Generator("cuda").manual_seed(0)))
    assert set(drawn) <= set(naive.windows())


def test_state_is_a_trimmed_snapshot() -> None:
    naive = Naive(2, 2, 1000)
    buffer = _buffer(naive)
    _run(naive, buffer, 5, 1e9, seed=0)
    state = buffer.state_dict()
    kept = {k: v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)}
    assert sum(v.untyped_storage().nbytes() for v in kept.values()) < 1000
    assert all(
        v.untyped_storage().nbytes() == v.nbytes for v in state.values() if isinstance(v, torch.Tensor)
    )
    _run(naive, buffer, 2000, 20.0, seed=1)
    assert all(torch.equal(state[k], v) for k, v in kept.items())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"capacity": 11}, ["capacity=11", "minimum is 12"]),
        ({"horizon": 0}, ["horizon=0", "minimum is 1"]),
        ({"num_envs": 0}, ["num_envs=0", "minimum is 1"]),
    ],
)
def test_sizes_too_small_are_refused(changed: dict[str, int], named: list[str]) -> None:
    def build(capacity: int = 12, num_envs: int = 3, horizon: int = 2) -> ReplayBuffer:
        return ReplayBuffer(capacity, num_envs, OBS_DIM, ACT_DIM, horizon)

    build()
    with pytest.raises(ConfigError) as error:
        build(**changed)
    assert all(text in str(error.value) for text in named)


def test_sampling_what_is_not_there_is_refused() -> None:
    naive = Naive(2, 3, 9)
    buffer = _buffer(naive)
    with pytest.raises(DataError, match="empty"):
        buffer.sample(1, torch.Generator())
    buffer.add(**naive.advance([GOES_ON, GOES_ON]))
    assert len(buffer) == 2
    with pytest.raises(DataError, match="batch_size=0"):
        buffer.sample(0, torch.Generator())
    for rank in (-1, 2):
        with pytest.raises(DataError, match="2 transitions are stored"):
            buffer.gather(torch.tensor([rank]))
        with pytest.raises(DataError, match="2 transitions are stored"):
            buffer.gather(torch.tensor([0, rank]))
    assert buffer.gather(torch.tensor([1, 1])).action.shape == (3, 2, ACT_DIM)


def test_ages_count_the_steps_since_a_transition_was_stored() -> None:
    naive = Naive(2, 2, 7)
    buffer = _buffer(naive)
    for step in range(20):
        buffer.add(**naive.advance([GOES_ON, GOES_ON]))
        # One of the seven rows is that of the observation reached last.
        assert buffer.mean_age == (min(step + 1, 6) - 1) / 2


@pytest.mark.parametrize("key", ["obs", "action", "reward", "terminated", "truncated", "final_obs"])
def test_wrong_step_is_refused_and_not_stored(key: str) -> None:
    naive = Naive(2, 1, 6)
    buffer = _buffer(naive)
    step = naive.advance([GOES_ON, GOES_ON])
    with pytest.raises(DataError, match=f"^{key} has shape"):
        buffer.add(**{**step, key: step[key][:1]})
    if step[key].dtype is torch.bool:
        with pytest.raises(DataError, match=f"^{key} has dtype torch.float32"):
            buffer.add(**{**step, key: step[key].float()})
    assert len(buffer) == buffer.total_added == 0


@pytest.mark.parametrize(
    ("key", "value"), [("num_envs", 4), ("obs_dim", 5), ("act_dim", 1), ("horizon", 3), ("rows_per_env", 7)]
)
def test_state_of_other_sizes_is_refused(key: str, value: int) -> None:
    size = {"num_envs": 2, "obs_dim": OBS_DIM, "act_dim": ACT_DIM, "horizon": 2, "rows_per_env": 9}

    def build(num_envs: int, obs_dim: int, act_dim: int, horizon: int, rows_per_env: int) -> ReplayBuffer:
        return ReplayBuffer(num_envs * rows_per_env, num_envs, obs_dim, act_dim, horizon)

    with pytest.raises(DataError, match=f"{key} is {value} in the saved state but {size[key]} here"):
        build(**size).load_state_dict(build(**{**size, key: value}).state_dict())


def test_damaged_state_is_refused_and_changes_nothing() -> None:
    naive = Naive(2, 2, 8)
    buffer = _buffer(naive)
    _run(naive, buffer, 12, 6.0, seed=0)
    before, state = _stored(buffer), buffer.state_dict()
    with pytest.raises(DataError, match="incomplete: cursor"):
        buffer.load_state_dict({k: v for k, v in state.items() if k != "cursor"})
    with pytest.raises(DataError, match="inconsistent"):
        buffer.load_state_dict({**state, "cursor": state["cursor"][:-1]})
    # One row more than fit, in one of the two environments.
    longer = {
        "first": state["first"] - torch.tensor([1, 0]),
        "rows": torch.cat([state["rows"][:1], state["rows"]]),
        "is_transition": torch.cat([state["is_transition"][:1], state["is_transition"]]),
    }
    with pytest.raises(DataError, match="inconsistent"):
        buffer.load_state_dict({**state, **longer})
    assert _stored(buffer) == before
