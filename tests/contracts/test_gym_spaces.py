"""Actions meet their spaces to the last bit, and observations of every kind become rows of numbers."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tests.contracts.odd_envs import UNIT, OwnSpace
from tests.contracts.odd_rollouts import N, make, rollout, zeros

from pwm.envs.gym.precision import PrecisionWatch
from pwm.envs.gym.spaces import ActionScaling
from pwm.errors import EnvError

# --- actions --------------------------------------------------------------------------------------

BOXES = {
    "rounding passes the bound": spaces.Box(-3.0, 0.9, (1,), np.float32),
    "bounds of each dimension": spaces.Box(
        np.array([-0.1, 2.0, -7.3]), np.array([0.3, 2.0, 1e-3]), dtype=np.float64
    ),
    "doubles": spaces.Box(-0.7, 0.1, (2,), np.float64),
    "halves": spaces.Box(-0.7, 0.1, (2,), np.float16),
    "integers": spaces.Box(0, 10, (2,), np.int64),
    "bytes": spaces.Box(0, 255, (2,), np.uint8),
    "signed bytes": spaces.Box(-128, 127, (2,), np.int8),
    "all integers": spaces.Box(-(2**63) + 3, 2**63 - 3, (1,), np.int64),
    "whole range of a float": spaces.Box(
        np.finfo(np.float32).min, np.finfo(np.float32).max, (2,), np.float32
    ),
    "matrix": spaces.Box(-2.0, 1.0, (2, 3), np.float32),
    "scalar": spaces.Box(-2.0, 1.0, (), np.float32),
    "scalar integer": spaces.Box(3, 5, (), np.int32),
}


@pytest.mark.parametrize("name", BOXES)
def test_actions_reach_their_bounds_and_never_pass_them(name: str, mode: str) -> None:
    space = BOXES[name]
    # The environment asserts in every step that the action is in its space.
    env = make("Actions", mode, space=space)
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    with np.errstate(over="ignore"):
        edges = [torch.from_numpy(bound.astype(np.float32)).expand(N, -1) for bound in (low, high)]
    middle = torch.from_numpy((low / 2 + high / 2).astype(np.float32))
    for unit, expected in ((-1.0, edges[0]), (1.0, edges[1]), (5.0, edges[1])):
        assert torch.equal(env.step(zeros(env) + unit).final_obs, expected)
    if space.dtype.kind == "f":
        resolution = float(np.finfo(space.dtype).eps) + 1e-7
        found = env.step(zeros(env)).final_obs
        torch.testing.assert_close(found, middle.expand(N, -1), rtol=resolution, atol=1e-7)
    rollout(env)
    env.close()


@pytest.mark.parametrize(
    "space",
    [
        UNIT,
        spaces.Box(np.array([-3.0, 0.0], np.float32), np.array([5.0, 1e-3], np.float32)),
        spaces.Box(-7, 12, (2, 3), np.int64),
        spaces.Box(np.finfo(np.float64).min, np.finfo(np.float64).max, (1,), np.float64),
    ],
)
def test_actions_are_mapped_back(space: spaces.Box) -> None:
    scaling = ActionScaling("any", space)
    between = (0.7 * space.low + 0.3 * space.high).astype(space.dtype)
    actions = np.stack([space.low, space.high, between])
    unit = scaling.inverse(actions)
    assert unit.shape == (3, scaling.dim)
    assert (unit[0] == -1).all()
    assert (unit[1] == 1).all()
    np.testing.assert_allclose(scaling(unit).astype(np.float64), actions, rtol=1e-6, atol=1e-6)


def test_dimensions_without_a_choice_are_mapped_back_to_zero() -> None:
    space = spaces.Box(np.array([2.0, -1.0], np.float32), np.array([2.0, 1.0], np.float32))
    assert ActionScaling("any", space).inverse(np.array([[2.0, 0.5]])).tolist() == [[0.0, 0.5]]


def test_every_integer_can_be_reached_and_is_the_nearest() -> None:
    env = make("Actions", num_envs=401, space=spaces.Box(-3, 7, (1,), np.int64))
    unit = torch.linspace(-1, 1, 401).unsqueeze(1)
    taken = env.step(unit).final_obs.squeeze(1)
    assert sorted(set(taken.tolist())) == list(range(-3, 8))
    exact = -3 + (unit.double().squeeze(1) + 1) * 5
    assert ((taken - exact).abs() <= 0.5 + 1e-6).all()
    env.close()


def test_actions_within_plus_minus_one_arrive_as_they_are() -> None:
    env = make("Actions", num_envs=64, space=UNIT)
    unit = torch.rand(64, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(env.step(unit).final_obs, unit, rtol=1e-7, atol=1e-9)
    env.close()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Discrete(3), "discrete"),
        (spaces.MultiDiscrete([2, 3]), "discrete"),
        (spaces.Dict({"a": UNIT}), "only continuous"),
        (OwnSpace(), "only continuous"),
        (None, "only continuous"),
        (spaces.Box(-np.inf, np.inf, (2,), np.float32), "unbounded"),
        (spaces.Box(0.0, np.inf, (2,), np.float32), "unbounded"),
        (spaces.Box(-np.inf, np.inf, (2,), np.int64), "unbounded"),
        (spaces.Box(-1.0, 1.0, (0,), np.float32), "without entries"),
    ],
)
def test_other_action_spaces_are_refused(space: spaces.Space, words: str, mode: str) -> None:
    with pytest.raises(EnvError, match=rf"^OddAnyAction-v0 .*{words}") as caught:
        make("AnyAction", mode, space=space)
    assert "\n" not in str(caught.value)


def test_the_whole_range_of_doubles_does_not_overflow() -> None:
    space = spaces.Box(np.finfo(np.float64).min, np.finfo(np.float64).max, (1,), np.float64)
    actions = ActionScaling("wide", space)(np.linspace(-1, 1, 5, dtype=np.float32)[:, None])
    assert np.array_equal(actions[::4, 0], [space.low[0], space.high[0]])
    np.testing.assert_allclose(
        actions[:, 0] / space.high, [-1.0, -0.5, 0.0, 0.5, 1.0], rtol=1e-15, atol=1e-15
    )


# --- observations ---------------------------------------------------------------------------------

PARTS = OrderedDict(
    observation=spaces.Box(-np.inf, np.inf, (2,), np.float64),
    goal=spaces.Dict(z=spaces.Box(-1, 1, (1, 2), np.float32), a=spaces.MultiBinary(2)),
    pair=spaces.Tuple((spaces.Box(0, 1, (), np.float32), spaces.Discrete(3))),
)
SPACES = {
    "doubles": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "integers": spaces.Box(-1000, 1000, (3,), np.int64),
    "picture": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    "matrix": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
    "scalar": spaces.Box(-1.0, 1.0, (), np.float64),
    "truth values": spaces.Box(0, 1, (3,), np.bool_),
    "dictionary": spaces.Dict(dict(PARTS)),
    "ordered dictionary": spaces.Dict(PARTS),
    "tuple": spaces.Tuple((UNIT, spaces.MultiDiscrete([2, 3]))),
    "number of a state": spaces.Discrete(4),
}


@pytest.mark.parametrize("name", SPACES)
def test_observations_are_flattened_as_gymnasium_does_it(name: str, mode: str) -> None:
    space = SPACES[name]
    env = make("Observations", mode, space=space)
    plain = gymnasium.make("OddObservations-v0", space=space)
    seeds = [int(word) for word in np.random.SeedSequence(3).generate_state(N)]
    obs = env.reset(3)
    for row, seed in zip(obs, seeds, strict=True):
        # The spaces of an environment are seeded with it.
        plain.unwrapped.observation_space.seed(seed)
        expected, _ = plain.reset(seed=seed)
        assert np.array_equal(row.numpy(), spaces.flatten(space, expected).astype(np.float32))
    assert env.spec.obs_dim == spaces.flatdim(space)
    assert len({tuple(row.tolist()) for row in obs}) > 1
    rollout(env)
    env.close()


def test_keys_are_taken_in_the_order_of_the_space() -> None:
    value = {
        "b": np.array([1.0, 2.0]),
        "a": np.array([3.0]),
        "c": {"y": np.array([4.0]), "x": np.array([5.0])},
    }
    reals = {size: spaces.Box(-9, 9, (size,), np.float64) for size in (1, 2)}
    inner = spaces.Dict({"y": reals[1], "x": reals[1]})
    sorted_keys = spaces.Dict({"b": reals[2], "a": reals[1], "c": inner})
    given_keys = spaces.Dict(OrderedDict(b=reals[2], a=reals[1], c=inner))
    for space, expected in ((sorted_keys, [3, 1, 2, 5, 4]), (given_keys, [1, 2, 3, 5, 4])):
        assert make("Constant", num_envs=1, space=space, value=value).reset().tolist() == [expected]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(UNIT, None),
        spaces.Dict(a=spaces.Sequence(UNIT)),
        spaces.Box(-1, 1, (0,), np.float32),
        OwnSpace(),
        spaces.Dict(a=OwnSpace()),
        spaces.OneOf((spaces.Sequence(UNIT), UNIT)),
        None,
        "Box(3)",
    ],
)
def test_other_observation_spaces_are_refused(space: spaces.Space, mode: str) -> None:
    with pytest.raises(
        EnvError, match=r"^OddConstant-v0 has observation space .*(flattened|without entries)"
    ):
        make("Constant", mode, value=None, space=space)


BYTES = spaces.Box(0, 255, (3,), np.uint8)
MIXED = spaces.Dict(a=spaces.Box(0, 9, (2,), np.uint8), b=spaces.Discrete(2), c=spaces.MultiBinary(2))


@pytest.mark.parametrize(
    ("space", "value", "row"),
    [
        # Lists and numbers of Python have no dtype: what counts are their values.
        (BYTES, [0, 7, 255], [0, 7, 255]),
        (BYTES, (1, 2, 3), [1, 2, 3]),
        (BYTES, np.array([0, 7, 255]), [0, 7, 255]),
        (spaces.Box(0, 255, (), np.uint8), 7, [7]),
        (spaces.Box(0, 1, (3,), np.bool_), [0, 1, 1], [0, 1, 1]),
        (spaces.Box(-9, 9, (3,), np.float32), [1, 2.5, True], [1, 2.5, 1]),
        (spaces.Box(-9, 9, (), np.float64), 2, [2]),
        (spaces.Discrete(2), True, [0, 1]),
        (spaces.Discrete(3, start=-1), np.array([1]), [0, 0, 1]),
        (spaces.MultiDiscrete([2, 3], start=[5, -2]), [6, -2], [0, 1, 1, 0, 0]),
        (spaces.MultiDiscrete([[2], [2]]), np.array([[0], [1]]), [1, 0, 0, 1]),
        (spaces.MultiBinary(3), [0.0, 1.0, 1.0], [0, 1, 1]),
        (MIXED, {"a": [9, 8], "b": np.bool_(True), "c": [True, False]}, [9, 8, 0, 1, 1, 0]),
        (spaces.Tuple((UNIT, spaces.Discrete(2))), [[0.5, -0.5], 0], [0.5, -0.5, 1, 0]),
        (spaces.Text(2, charset="ab"), "b", [1, 2]),
        (spaces.OneOf((UNIT, spaces.Discrete(2))), (0, np.array([0.5, 1.0], np.float32)), [0, 0.5, 1]),
    ],
)
def test_observations_may_be_lists_and_numbers_of_python(
    space: spaces.Space, value: Any, row: list[float]
) -> None:
    env = make("Constant", space=space, value=value)
    assert env.reset()[1].tolist() == row
    assert rollout(env, 2)[1].obs[2].tolist() == row


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (BYTES, [0, 7, 256], "of dtype int64 with numbers beyond uint8"),
        (BYTES, [0, -1, 255], "of dtype int64 with numbers beyond uint8"),
        (
            spaces.Box(-128, 127, (3,), np.int8),
            np.array([300, 1, 2]),
            "of dtype int64 with numbers beyond int8",
        ),
        (spaces.Box(0, 1, (3,), np.bool_), [0, 1, 2], "of dtype int64 with numbers beyond bool"),
        (BYTES, [0.5, 1.0, 2.0], "of dtype float64, its space says uint8"),
        (spaces.Discrete(3), 3, r"of 3, its space says Discrete\(3\)"),
        (spaces.Discrete(3), -1, r"of -1, its space says Discrete\(3\)"),
        (spaces.Discrete(3), 1.0, r"of 1\.0, its space says Discrete\(3\)"),
        (spaces.Discrete(3), [0, 1], "that is none of its space"),
        (spaces.MultiDiscrete([2, 3]), [2, 0], r"of \[2 0\], its space says MultiDiscrete"),
        (spaces.MultiBinary(2), [2, 0], r"of \[2 0\], its space says MultiBinary"),
        (spaces.Text(2, charset="ab"), "c", "of c, its space says Text"),
        (MIXED, {"a": [1, 2], "b": -1, "c": [0, 0]}, r"of -1, its space says Discrete\(2\)"),
        # As many numbers as there should be, but not where they should be.
        (spaces.Dict(a=UNIT, b=spaces.Box(-1, 1, (1,))), {"a": [0.5], "b": [0.5, 0.5]}, r"of shape \(1,\)"),
        (spaces.Dict(a=spaces.Box(-1, 1, (1, 2))), {"a": np.zeros((2, 1))}, r"of shape \(2, 1\)"),
        (spaces.Tuple((UNIT,)), ([0.5, 0.5], 1), "that is none of its space"),
        (spaces.Dict(a=UNIT), {"a": np.array([1j, 0])}, "of dtype complex128, its space says float32"),
    ],
)
def test_values_beyond_their_space_are_named(space: spaces.Space, value: Any, words: str, mode: str) -> None:
    with pytest.raises(
        EnvError, match=rf"^OddConstant-v0: reset of environment 0 returned an observation {words}"
    ):
        make("Constant", mode, space=space, value=value)


def test_an_array_that_the_environment_uses_again_is_copied() -> None:
    env = make("Ends", flags=(True, False), num_envs=1)
    steps = [env.step(zeros(env)) for _ in range(4)]
    assert [float(step.final_obs[0, 0]) for step in steps] == [1, 2, 3, 1]
    assert [float(step.obs[0, 0]) for step in steps] == [1, 2, 0, 1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            np.array([1.0, np.nan, -np.inf]),
            r"observation of environment 0 at reset is not finite, entries \[1, 2\]",
        ),
        (np.array([1e39, 0.0, 0.0]), r"observation of environment 0 at reset exceeds float32, entries \[0\]"),
        (
            np.zeros(4),
            r"reset of environment 0 returned an observation of shape \(4,\), its space says \(3,\)",
        ),
        (np.zeros((3, 1)), r"shape \(3, 1\), its space says \(3,\)"),
        (None, r"reset of environment 0 returned an observation of shape \(\)"),
        (np.array(["a", "b", "c"]), r"an observation of dtype <U1, its space says float64"),
        ([1.0, [2.0], 3.0], r"an observation that is none of its space"),
    ],
)
def test_bad_observations_are_named(value: Any, words: str, mode: str) -> None:
    with pytest.raises(EnvError, match=f"^OddConstant-v0: .*{words}"):
        make("Constant", mode, value=value)


@pytest.mark.parametrize(
    "value", [{"a": np.zeros(2)}, {"a": np.zeros(3), "b": np.zeros(1)}, np.zeros(3), None]
)
def test_bad_dictionaries_are_named(value: Any, mode: str) -> None:
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,), np.float32), b=spaces.Box(-1, 1, (1,), np.float32))
    with pytest.raises(EnvError, match=r"^OddConstant-v0: reset of environment 0 returned an observation"):
        make("Constant", mode, value=value, space=space)


def test_entries_of_dictionaries_are_named() -> None:
    space = spaces.Dict(
        speed=spaces.Box(-9, 9, (), np.float32), goal=spaces.Dict(x=spaces.Box(-9, 9, (2,), np.float32))
    )
    value = {"speed": np.float32("nan"), "goal": {"x": np.array([0, np.inf], np.float32)}}
    with pytest.raises(EnvError, match=r"entries \[speed, goal\.x\[1\]\]"):
        make("Constant", space=space, value=value)


@pytest.mark.parametrize(
    ("values", "entries"),
    [
        (lambda steps: [1.7e9 + steps, 0.0, 1.0], "[0]"),
        (lambda steps: [0.0, -5e5 + 0.01 * steps, 3e7], "[2]"),
        (lambda steps: [0.0, -5e5 + 0.01 * steps, 0.1], "[1]"),
        (lambda steps: [3e4 * steps, 1e4, 1.0 + 1e-9 * steps], None),
    ],
)
def test_precision_that_float32_lacks_is_told_once(values: Any, entries: str | None, mode: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = make("Moving", mode, values=values, episode_length=100)
        rollout(env, 80)
    told = [str(warning.message) for warning in caught if "float32" in str(warning.message)]
    if entries is None:
        assert told == []
    else:
        assert len(told) == 1
        assert told[0].startswith(
            f"OddMoving-v0: changes of observation entries {entries} are lost in float32"
        )
    env.close()


@pytest.mark.parametrize(
    ("values", "entries"),
    [
        (lambda steps: [1.0 * steps, 1e-6 * steps, 0.0], "[1]"),
        (lambda steps: [1e-5 * steps, 2e-5 * steps, 4e-5 * steps], "[0, 1]"),
        # Entries that do not change, and what rounding leaves of them, are no loss.
        (lambda steps: [3.0, 1.0 + 1e-7 * (steps % 2), 1e-17 * steps], None),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_changes_that_the_model_hardly_sees_are_told_once(
    values: Any, entries: str | None, dtype: Any, mode: str
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = make("Moving", mode, values=values, dtype=dtype, episode_length=9)
        for _ in range(600):
            env.step(zeros(env))
    expected = f"OddMoving-v0: changes of observation entries {entries} stay below 0.0003, where the model"
    assert [str(warning.message).startswith(expected) for warning in caught] == [True] * (entries is not None)
    env.close()


def first_loss(rows: Callable[[int], list[list[float]]], calls: int = 200) -> tuple[int, list[int]] | None:
    """The call at which entries are found whose changes are lost, and which ones."""
    watch = PrecisionWatch(len(rows(1)[0]))
    for call in range(1, calls + 1):
        if (lost := watch.lost(np.array(rows(call)))) is not None:
            return call, np.flatnonzero(lost).tolist()
    return None


# Between 2^19 and 2^20 float32 has steps of 1/16, so a thousand of them are 62.5.
STEP = 2.0**-4
BASE = 2.0**19


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        # Sizes are looked at in every call, in every copy, and on both sides of zero.
        (lambda call: [[0.0, 2.0**24], [0.0, 0.0]], None),
        (lambda call: [[0.0, 2.0**24 + 2], [0.0, 0.0]], (1, [1])),
        (lambda call: [[0.0, 0.0], [-(2.0**24) - 2, 0.0]], (1, [0])),
        (lambda call: [[0.0, 2.0**24 + 2 if call == 40 else 0.0]], (40, [1])),
        # Widths after 32 calls, 64, 128: what has only begun to move may go far.
        (lambda call: [[BASE + STEP * call]], (32, [0])),
        (lambda call: [[BASE + STEP * 40 * call]], None),
        (lambda call: [[BASE + (STEP if call > 32 else 0.0)]], (64, [0])),
        (lambda call: [[BASE + (STEP if call > 64 else 0.0)]], (128, [0])),
        # What never moves loses nothing; neither does what moves by a thousand steps.
        (lambda call: [[BASE, -BASE]], None),
        (lambda call: [[BASE], [BASE + 999 * STEP]], (32, [0])),
        (lambda call: [[BASE], [BASE + 1000 * STEP]], None),
        (lambda call: [[-BASE], [-BASE - 999 * STEP]], (32, [0])),
        # Below ten thousand it is rounding.
        (lambda call: [[9999.0, 10001.0], [9999.001, 10001.001]], (32, [1])),
    ],
)
def test_precision_is_judged_by_sizes_and_widths(rows: Any, found: tuple[int, list[int]] | None) -> None:
    assert first_loss(rows) == found
