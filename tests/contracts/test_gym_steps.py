"""Rewards, flags, infos and time limits of every form, and what other environments return."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from tests.contracts.odd_envs import LENGTH
from tests.contracts.odd_rollouts import N, make, rollout, zeros

from pwm.envs.base import JudgesSuccess
from pwm.errors import ConfigError, EnvError


@pytest.mark.parametrize("name", ["Odd", "Infos", "Wrapped"])
def test_the_odd_ones_are_legal(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(gymnasium.make(f"Odd{name}-v0").unwrapped, skip_render_check=True)


# --- rewards, flags, infos ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        float,
        np.float32,
        np.float64,
        np.array,
        lambda r: np.array([r]),
        lambda r: np.array([[r]], dtype=np.float32),
        lambda r: [r],
        torch.tensor,
        lambda r: torch.tensor([r]),
    ],
)
def test_rewards_come_in_every_form(form: Any, mode: str) -> None:
    env = make("Rewards", mode, form=form)
    assert all(step.reward.tolist() == [0.5] * N for step in rollout(env, 3))
    env.close()


@pytest.mark.parametrize(
    "form", [lambda r: int(r + 1), lambda r: np.int64(1), lambda r: True, lambda r: np.bool_(1)]
)
def test_whole_rewards(form: Any) -> None:
    assert make("Rewards", form=form).step(torch.zeros(N, 2)).reward.tolist() == [1.0] * N


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (lambda r: np.array([r, r]), "step of environment 0 returned the reward an array of shape .2,."),
        (lambda r: None, "step of environment 0 returned the reward None instead of one number"),
        (lambda r: "half", "step of environment 0 returned the reward 'half' instead of one number"),
        (lambda r: float("nan"), "the reward of environment 0 is nan"),
        (lambda r: -float("inf"), "the reward of environment 0 is -inf"),
        (lambda r: 1e39, "the reward of environment 0 is 1e.39, which is no finite float32"),
    ],
)
def test_bad_rewards_are_named(form: Any, words: str, mode: str) -> None:
    env = make("Rewards", mode, form=form)
    with pytest.raises(EnvError, match=f"^OddRewards-v0: {words}"):
        rollout(env, 1)
    env.close()


@pytest.mark.parametrize(
    ("flags", "terminated", "truncated"),
    [
        ((True, True), True, False),
        ((True, False), True, False),
        ((False, True), False, True),
        ((np.bool_(True), np.array([True])), True, False),
        ((0, 1), False, True),
    ],
)
def test_termination_wins_over_truncation(flags: Any, terminated: bool, truncated: bool, mode: str) -> None:
    env = make("Ends", mode, flags=flags)
    last = [env.step(zeros(env)) for _ in range(3)][-1]
    assert last.terminated.tolist() == [terminated] * N
    assert last.truncated.tolist() == [truncated] * N
    env.close()


def test_termination_in_the_step_of_the_time_limit_wins() -> None:
    env = make("Ends", flags=(True, False), episode_length=3)
    last = [env.step(zeros(env)) for _ in range(3)][-1]
    assert last.terminated.all()
    assert not last.truncated.any()


def test_infos_of_every_name_and_length_change_nothing(mode: str) -> None:
    with_infos, without = make("Infos", mode, seed=1), make("Ends", mode, seed=1, flags=(False, False))
    for step, other in zip(rollout(with_infos), rollout(without), strict=True):
        assert torch.equal(step.reward, other.reward)
        assert torch.equal(step.truncated, other.truncated)
        ended = step.truncated
        assert torch.equal(step.obs[~ended], step.final_obs[~ended])
        assert not torch.equal(step.obs[ended], step.final_obs[ended]) or not ended.any()
    with_infos.close()
    without.close()


def test_success_is_that_of_the_last_step_of_the_first_episode_after_each_reset(mode: str) -> None:
    env = make("Judging", mode, seed=1)
    assert isinstance(env, JudgesSuccess)
    rollout(env)
    env.take_successes()
    expected = []
    for seed in range(6):
        expected += (env.reset(seed)[:, 0] > 0).tolist()
        rollout(env, 2 * LENGTH)
        if seed % 2:
            assert env.take_successes() == expected
            expected = []
    # An evaluation that was broken off leaves nothing behind.
    env.reset(7)
    rollout(env, 2)
    env.reset(8)
    assert env.take_successes() == []
    env.close()


def test_environments_that_do_not_judge_have_no_success(mode: str) -> None:
    env = make("Ends", mode, flags=(True, False))
    rollout(env)
    assert env.take_successes() == []
    env.close()


@pytest.mark.parametrize(
    ("call", "change", "words"),
    [
        ("reset", lambda obs, info: obs, r"reset of environment 0 returned an array of shape \(3,\)"),
        (
            "reset",
            lambda *r: (*r, 1),
            r"reset of environment 0 returned a tuple of 3 instead of \(observation, info\)",
        ),
        ("reset", lambda *r: None, r"reset of environment 0 returned None"),
        (
            "step",
            lambda o, r, d, t, i: (o, r, d, i),
            r"step of environment 0 raised ValueError: not enough values to unpack",
        ),
        (
            "step",
            lambda o, r, d, t, i: (o[:2], r, d, t, i),
            r"step of environment 0 returned an observation of shape",
        ),
        (
            "step",
            lambda o, r, d, t, i: (o, r, None, t, i),
            r"step of environment 0 returned terminated None instead of one truth value",
        ),
        (
            "step",
            lambda o, r, d, t, i: (o, r, d, np.array([]), i),
            r"step of environment 0 returned truncated an array of shape \(0,\)",
        ),
        (
            "step",
            lambda o, r, d, t, i: (o, np.array([]), d, t, i),
            r"step of environment 0 returned the reward an array of shape \(0,\)",
        ),
        (
            "step",
            lambda o, r, d, t, i: (o, "x" * 58, d, t, i),
            r"step of environment 0 returned the reward 'x{58}' instead of one number$",
        ),
        (
            "step",
            lambda o, r, d, t, i: (o, "x" * 59, d, t, i),
            r"step of environment 0 returned the reward 'x{59}\.\.\. instead of one number$",
        ),
        (
            "step",
            lambda o, r, d, t, i: (o, r, "no", t, i),
            r"step of environment 0 returned terminated 'no' instead of one truth value",
        ),
        (
            "step",
            lambda o, r, d, t, i: (o, r, d, t, {"is_success": "yes"}),
            r"step of environment 0 returned info\['is_success'\] 'yes' instead of one truth value",
        ),
        (
            "step",
            lambda o, r, d, t, i: (o, r, d, np.zeros(2), i),
            r"step of environment 0 returned truncated an array of shape \(2,\)",
        ),
    ],
)
def test_other_interfaces_are_named(call: str, change: Any, words: str, mode: str) -> None:
    with pytest.raises(EnvError, match=f"^OddReturns-v0: {words}"):
        rollout(make("Returns", mode, call=call, change=change), 1)


# --- time limits ----------------------------------------------------------------------------------


def limit_of(name: str, mode: str, **kwargs: Any) -> tuple[int, list[int]]:
    """The limit that the specification states, and the steps after which copies were truncated."""
    env = make(name, mode, **kwargs)
    counted = [step.truncated[0] for step in rollout(env, 45)]
    env.close()
    ends = [index + 1 for index, truncated in enumerate(counted) if truncated]
    return env.spec.episode_length, sorted({after - before for before, after in zip([0, *ends], ends)})


@pytest.mark.parametrize(
    ("name", "kwargs", "stated", "cut"),
    [
        ("Odd", {}, LENGTH, LENGTH),
        ("Odd", {"max_episode_steps": 20}, 20, 20),
        ("Odd", {"episode_length": 15}, 15, 15),
        ("Odd", {"max_episode_steps": 20, "episode_length": 15}, 15, 15),
        ("Wrapped", {}, 5, 5),
        ("Wrapped", {"limit": 9}, 9, 9),
        ("Wrapped", {"max_episode_steps": 4}, 4, 4),
        ("Wrapped", {"episode_length": 8}, 8, 8),
        ("Limited", {"attribute": "_max_episode_steps"}, 7, 7),
        ("Limited", {"attribute": "max_episode_steps"}, 7, 7),
        ("Limited", {"attribute": "_max_episode_steps", "episode_length": 3}, 3, 3),
        ("ClassLimited", {}, 7, 7),
        ("ClassLimited", {"episode_length": 5}, 5, 5),
        ("Inheriting", {}, 7, 7),
        ("Inheriting", {"episode_length": 5}, 5, 5),
        ("Late", {}, LENGTH, LENGTH),
        ("Telling", {"own": 9}, 9, 9),
        ("Telling", {"episode_length": 5}, 5, 5),
        ("Limited", {"max_episode_steps": 5}, 5, 5),
        ("Limited", {"episode_length": 30}, 30, 7),
    ],
)
def test_time_limits_are_found_wherever_they_are(
    name: str, kwargs: dict[str, Any], stated: int, cut: int, mode: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert limit_of(name, mode, **kwargs) == (stated, [cut])


@pytest.mark.parametrize(
    ("name", "kwargs", "cut"),
    [
        ("Limited", {}, [7]),
        ("Endless", {}, []),
        ("Unlimited", {}, []),
        ("Odd", {"max_episode_steps": -1}, []),
    ],
)
def test_environments_without_a_limit_get_one_and_say_so(
    name: str, kwargs: dict[str, Any], cut: list[int], mode: str
) -> None:
    with pytest.warns(
        RuntimeWarning, match=f"Odd{name}-v0 declares no time limit.* after 1000 .*episode_length"
    ):
        assert limit_of(name, mode, **kwargs) == (1000, cut)


def test_an_episode_without_an_end_is_cut() -> None:
    with pytest.warns(RuntimeWarning, match="no time limit"):
        env = make("Endless", num_envs=1)
    truncated = [bool(env.step(torch.zeros(1, 2)).truncated) for _ in range(1001)]
    assert truncated.index(True) == 999
    assert sum(truncated) == 1


def test_limits_that_evaluations_cannot_reach_are_refused(mode: str) -> None:
    with pytest.raises(
        EnvError, match=r"^OddHuge-v0 has a time limit of 1000000000 steps.*env\.episode_length"
    ):
        make("Huge", mode)
    with pytest.raises(ConfigError, match=r"env\.episode_length=1000000000: must be at most 100000"):
        make("Huge", mode, episode_length=10**9)
    make("Huge", mode, episode_length=50).close()


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [
        (0.25, 0.25),
        (np.float32(0.25), 0.25),
        (2, 2.0),
        *[(value, 0.0) for value in (True, None, "fast", 0, -0.1, float("nan"), float("inf"))],
    ],
)
def test_the_time_of_a_step_is_taken_where_it_is_one(stated: Any, seconds: float) -> None:
    assert make("Timed", dt=stated).spec.control_dt == seconds
    assert make("Late").spec.control_dt == 0.0


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_pictures_are_drawn_and_change_nothing(dtype: Any, mode: str) -> None:
    picture = np.arange(24, dtype=dtype).reshape(2, 4, 3)
    drawn, plain = (make("Drawn", mode, picture=picture) for _ in range(2))
    with pytest.raises(EnvError, match=r"^gym_OddDrawn-v0: call start_rendering before render"):
        drawn.render(0)
    for env in (drawn, plain):
        env.start_rendering()
        env.reset(3)
    for _ in range(LENGTH + 2):
        found = drawn.render(1)
        assert found.dtype == np.uint8
        assert np.array_equal(found, picture)
        assert torch.equal(drawn.step(zeros(drawn)).obs, plain.step(zeros(plain)).obs)
    drawn.close()
    plain.close()


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (None, "returned None instead of a picture"),
        ("a picture", "returned 'a picture' instead of a picture"),
        (np.full((2, 4, 3), 0.5), r"returned an array of shape \(2, 4, 3\) and dtype float64 instead of a"),
        (np.zeros((2, 4), np.uint8), r"returned an array of shape \(2, 4\) "),
        (np.zeros((2, 4, 4), np.uint8), r"returned an array of shape \(2, 4, 4\) "),
        (np.zeros((0, 4, 3), np.uint8), r"returned an array of shape \(0, 4, 3\) "),
        ([np.zeros((2, 4, 3), np.uint8)], ".* instead of a picture"),
        (np.full((2, 4, 3), 300), "returned a picture with numbers from 300 to 300 instead of 0 to 255"),
        (np.full((2, 4, 3), -1), "returned a picture with numbers from -1 to -1"),
    ],
)
def test_what_is_no_picture_is_named_before_anything_is_drawn(picture: Any, words: str) -> None:
    env = make("Drawn", picture=picture)
    with pytest.raises(EnvError, match=f"^OddDrawn-v0: drawing it {words}"):
        env.start_rendering()


def test_environments_without_pictures_are_not_made_anew(mode: str) -> None:
    env = make("Odd", mode)
    with pytest.raises(EnvError, match=r"^OddOdd-v0 has no render mode rgb_array"):
        env.start_rendering()
    rollout(env, 2)
    env.close()
