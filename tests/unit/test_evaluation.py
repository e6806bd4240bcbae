"""Returns of training episodes and of evaluations, where every return is known."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from pwm.envs import analytic
from pwm.envs.base import StepResult, VectorEnv
from pwm.errors import ConfigError, EnvError
from pwm.training.episode_statistics import EpisodeStatistics, episode_means
from pwm.training.evaluation import Recording, evaluate, random_policy, reference_scores, zero_policy

CPU = torch.device("cpu")


def counting(lengths: list[int], copies: int) -> VectorEnv:
    options = analytic.Options(task="counting", episode_lengths=lengths, ends=["terminated", "truncated"])
    return analytic.build(options, copies, CPU, 0)


def oscillators(copies: int, length: int = 5) -> VectorEnv:
    return analytic.build(analytic.Options(episode_length=length), copies, CPU, 0)


def flushed(episodes: EpisodeStatistics) -> dict[str, float]:
    return episode_means({name: float(value) for name, value in episodes.flush().items()})


def test_training_episodes_are_counted_once_and_whole() -> None:
    env, still = counting([2, 3, 5], 3), torch.zeros(3, 2)
    whole, resumed = EpisodeStatistics(3, CPU), EpisodeStatistics(3, CPU)
    for _ in range(7):
        whole.add(env.step(still))
    # In 7 steps: three episodes of 2 steps, two of 3, one of 5; one of length L returns L (L - 1) / 2.
    # Rewards of all steps: 3, 6 and 11.
    assert flushed(whole) == {
        "train/reward": pytest.approx(20 / 21),
        "train/episode_return": pytest.approx((3 * 1 + 2 * 3 + 10) / 6),
        "train/episode_length": pytest.approx((3 * 2 + 2 * 3 + 5) / 6),
        "train/episodes": 6,
    }
    assert flushed(whole) == {}
    # Unfinished episodes go on, also from a state that was saved in their middle.
    resumed.load_state_dict(whole.state_dict())
    last = env.step(still)
    for counted in (whole, resumed):
        counted.add(last)
        assert flushed(counted) == {
            "train/reward": pytest.approx((1 + 1 + 2) / 3),
            "train/episode_return": 1.0,
            "train/episode_length": 2.0,
            "train/episodes": 1,
        }


def test_an_evaluation_takes_the_first_episode_of_every_copy() -> None:
    recording = Recording()
    result = evaluate(counting([2, 4, 3], 3), zero_policy(2), 5, recording=recording)
    assert recording.stacked().running.sum(0).tolist() == [2, 4, 3]
    assert result.lengths == [2, 4, 3, 2, 4]
    assert result.returns == [1.0, 6.0, 3.0, 1.0, 6.0]
    assert result.summary() == {
        "episodes": 5,
        "mean": pytest.approx(3.4),
        "std": pytest.approx(statistics.stdev(result.returns)),
        "min": 1.0,
        "max": 6.0,
        "mean_length": 3.0,
        "returns": result.returns,
        "lengths": result.lengths,
    }
    assert evaluate(counting([4], 1), zero_policy(2), 1).std == 0.0


def test_every_round_of_an_evaluation_has_a_seed_of_its_own() -> None:
    env = oscillators(3)
    returns = evaluate(env, zero_policy(2), 6, seed=5).returns
    assert len(set(returns)) == 6
    assert evaluate(env, zero_policy(2), 3, seed=5).returns == returns[:3]
    assert evaluate(env, zero_policy(2), 3, seed=6).returns == returns[3:]
    assert evaluate(env, zero_policy(2), 3).returns == evaluate(env, zero_policy(2), 3, 1_000_000).returns


def test_reference_scores_are_those_of_doing_nothing_and_of_uniform_actions() -> None:
    env, looks = oscillators(4), []
    found = reference_scores(env, 8, seed=3, safe_point=lambda: looks.append(0))
    assert found == {
        "zero_action": evaluate(env, zero_policy(2), 8, 3).mean,
        "random_action": evaluate(env, random_policy(2), 8, 3).mean,
    }
    assert len(looks) == 2 * 2 * 5
    actions = random_policy(3)(torch.zeros(4000, 5))
    assert actions.shape == (4000, 3)
    assert -1 <= actions.min() < -0.99 < 0.99 < actions.max() <= 1
    assert abs(actions.mean()) < 0.02
    assert actions.var() == pytest.approx(1 / 3, rel=0.03)
    assert not zero_policy(3)(torch.ones(7, 5)).any()


def test_evaluations_that_give_no_number_are_refused() -> None:
    env = oscillators(2)
    with pytest.raises(ConfigError, match="episodes=0"):
        evaluate(env, zero_policy(2), 0)
    step = env.step

    def broken(action: Tensor) -> StepResult:
        result = step(action)
        result.reward[1] = math.nan
        return result

    env.step = broken  # type: ignore[method-assign]
    with pytest.raises(EnvError, match=r"environments \[1\]"):
        evaluate(env, zero_policy(2), 2)
