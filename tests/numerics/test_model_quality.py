"""Model and value errors against answers known by construction: a perfect model, and a line with noise."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.end_to_end.tiny import NETWORKS
from torch import Tensor, nn

from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import imagination_gap, open_loop_error, value_calibration
from pwm.algorithm.rollouts import whole_windows, windows
from pwm.analysis.model_quality.diagnosis import diagnose
from pwm.analysis.model_quality.prediction import (
    BINS,
    binned,
    calibration,
    compared,
    group_sums,
    open_loop,
    return_gap,
)
from pwm.configuration.building import build_agent
from pwm.configuration.config import compose_config
from pwm.data.batch import Recorded
from pwm.envs.analytic import LQR_ACTION_COST, LQR_BONUS, LQR_STATE_COST, LqrEnv
from pwm.envs.analytic import Options as AnalyticOptions
from pwm.files import strict
from pwm.models.scalar_heads import RegressionHead
from pwm.models.world_model import WorldModel
from pwm.training.evaluation import Recording, evaluate

STATE, LENGTH, STEPS = 16, 40, 20
SIZES = [
    "env=analytic",
    "alg=pwm_small_h16_flow",
    *NETWORKS,
    "alg.horizon=5",
    # Little is worth anything beyond the horizon, so that the time limit hides few returns.
    "alg.gamma=0.1",
    "alg.rew_rms=false",
]


class ExactDynamics(nn.Module):
    """The linear system itself."""

    space = None

    def __init__(self, env: LqrEnv) -> None:
        super().__init__()
        self.transition = torch.cat((env.A, env.B), dim=1).T.float()

    def next(self, z: Tensor, a: Tensor, e: Tensor | None = None) -> Tensor:
        return torch.cat((z, a), dim=-1) @ self.transition


class ExactReward(nn.Module):
    """The quadratic reward, as a reward network's raw output."""

    def forward(self, inputs: Tensor) -> Tensor:
        z, a = inputs.split([STATE, STATE // 2], dim=-1)
        cost = LQR_STATE_COST * z.square().sum(-1) + LQR_ACTION_COST * a.square().sum(-1)
        return (LQR_BONUS - cost).unsqueeze(-1)


def agent_and_episodes(perfect: bool) -> tuple[Agent, Recorded]:
    """An agent whose world model is the environment, or an untrained one, and its own episodes."""
    env = LqrEnv(AnalyticOptions(state_dim=STATE, episode_length=LENGTH), 6, torch.device("cpu"), 0)
    agent = build_agent(compose_config(SIZES), env.spec, torch.device("cpu"))
    if perfect:
        agent.model.world_model = WorldModel(
            nn.Identity(), ExactDynamics(env), ExactReward(), RegressionHead()
        )
    recording = Recording()
    evaluate(env, lambda obs: agent.act(obs, deterministic=True), 6, recording=recording)
    return agent, recording.stacked()


def test_a_perfect_model_makes_no_error() -> None:
    agent, recorded = agent_and_episodes(perfect=True)
    found = open_loop(agent, recorded, STEPS)
    assert found is not None
    assert found["windows"] == 6 * (LENGTH - STEPS)
    assert found["share"] == (LENGTH - STEPS) / LENGTH
    for key in ("latent_error", "latent_over_variance", "reward_error", "reward_over_variance"):
        assert len(found[key]) == STEPS
        assert 0.0 <= max(found[key]) < 1e-9


def test_a_perfect_model_imagines_the_real_return() -> None:
    agent, recorded = agent_and_episodes(perfect=True)
    for layer in agent.actor_critic.target_critic.layers:
        nn.init.zeros_(layer.weight)
    found = return_gap(agent, recorded, STEPS)
    assert found is not None
    torch.testing.assert_close(
        torch.tensor(found["rewards"]["imagined"]), torch.tensor(found["rewards"]["realised"])
    )
    assert found["horizon"]["steps"] == 5
    assert found["horizon"]["slope"] == pytest.approx(1.0, abs=1e-4)
    assert found["horizon"]["correlation"] == pytest.approx(1.0, abs=1e-6)
    assert found["horizon"]["rmse"] < 1e-4
    # Five discounted rewards lack what is worth 0.1^5 of later ones.
    assert found["objective"]["slope"] == pytest.approx(1.0, abs=0.01)
    assert found["objective"]["correlation"] == pytest.approx(1.0, abs=1e-4)
    assert found["objective"]["bias"] == pytest.approx(0.0, abs=0.01)


def test_figures_agree_with_those_logged_in_training() -> None:
    agent, recorded = agent_and_episodes(perfect=False)
    found = open_loop(agent, recorded, STEPS)
    # The first of the STEPS + 1 transitions of every window only tells the last reward.
    later = Recorded(recorded.obs[1:], *(column[1:] for column in recorded[1:]))
    batch = windows(later, whole_windows(later, STEPS), STEPS)
    expected = open_loop_error(agent.world_model, batch, range(1, STEPS + 1))
    torch.testing.assert_close(torch.tensor(found["latent_error"]), expected)

    gap, logged = return_gap(agent, recorded, 5), imagination_gap(agent, recorded)
    assert gap["horizon"]["predicted"] == pytest.approx(logged["imagined_reward"], rel=1e-5, abs=1e-6)
    assert gap["horizon"]["realised"] == pytest.approx(logged["realised_reward"], rel=1e-5)

    value, logged = calibration(agent, recorded), value_calibration(agent, recorded)
    assert value["predicted"] == pytest.approx(logged["value"], rel=1e-5)
    assert value["realised"] == pytest.approx(logged["realised_value"], rel=1e-5)
    assert value["critic_spread"] == logged["critic_spread"] > 0.0
    # The actor's objective is compared with the same returns.
    assert gap["objective"]["realised"] == value["realised"]


class Frozen(nn.Module):
    """Dynamics that predict no change, in a space without structure."""

    space = None

    def next(self, z: Tensor, a: Tensor, e: Tensor | None = None) -> Tensor:
        return z


class LastReward(nn.Module):
    """Predicts the constant 2."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.full_like(inputs[..., :1], 2.0)


def test_predicting_no_change_scores_one() -> None:
    agent, recorded = agent_and_episodes(perfect=True)
    agent.world_model.dynamics = Frozen()
    agent.world_model.reward_net = LastReward()
    # Rewards that were 2 before every start: the last one seen is what is predicted.
    reward = recorded.reward.clone()
    reward[::2] = 2.0
    found = open_loop(agent, recorded._replace(reward=reward), 1)
    assert found["latent_error"] == pytest.approx([1.0])
    starts = whole_windows(recorded, 2)
    batch = windows(recorded._replace(reward=reward), starts, 2)
    last, now = batch.reward
    expected = float((2.0 - now).square().sum() / (now - last).square().sum())
    assert found["reward_error"] == pytest.approx([expected])
    even = recorded._replace(reward=torch.where(torch.arange(LENGTH)[:, None] < 1, 2.0, recorded.reward))
    first = Recorded(even.obs[:3], *(column[:2] for column in even[1:]))
    assert open_loop(agent, first, 1)["reward_error"] == pytest.approx([1.0])


def test_group_sums_of_known_latents() -> None:
    latents = torch.tensor([[[0.25, 0.75, 0.5, 0.5]], [[0.5, 1.0, -0.5, 1.0]]])
    found = group_sums(latents, 2, 1.0)
    assert found == {"mean": [1.0, 1.0], "min": [1.0, 0.5], "max": [1.0, 1.5], "negative": [0.0, 0.25]}
    assert group_sums(2 * latents, 2, 2.0) == found


def test_comparison_of_a_line_without_noise() -> None:
    predicted = torch.linspace(-1.0, 3.0, 50)
    found = compared(predicted, 2.0 * predicted + 1.0)
    assert found["states"] == 50
    assert found["slope"] == pytest.approx(2.0, rel=1e-5)
    assert found["intercept"] == pytest.approx(1.0, rel=1e-5)
    assert found["correlation"] == pytest.approx(1.0)
    assert found["bias"] == pytest.approx(1.0 - 3.0)
    assert found["relative_bias"] == pytest.approx(-2.0 / found["realised"], rel=0.2)
    assert compared(predicted, -predicted)["correlation"] == pytest.approx(-1.0)


def test_comparison_and_bins_of_a_line_with_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, noise = (torch.randn(20_000, generator=generator) for _ in range(2))
    realised = 0.5 * predicted + 0.5 * noise + 10.0
    found = compared(predicted, realised)
    assert found["slope"] == pytest.approx(0.5, abs=0.02)
    assert found["correlation"] == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert found["bias"] == pytest.approx(-10.0, abs=0.02)
    assert found["rmse"] == pytest.approx(math.sqrt(100.5), rel=0.01)
    groups = binned(predicted, realised, BINS)
    assert [group["states"] for group in groups] == [2000] * BINS
    for low, high in itertools.pairwise(groups):
        assert low["predicted"] < high["predicted"]
    for group in groups[1:-1]:
        assert group["realised"] == pytest.approx(0.5 * group["predicted"] + 10.0, abs=0.05)
        assert group["std"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("constant", ["predicted", "realised", "both"])
def test_what_does_not_vary_has_no_slope(constant: str) -> None:
    varying, fixed = torch.arange(9.0), torch.full((9,), 0.1)
    found = compared(
        fixed if constant != "realised" else varying, fixed if constant != "predicted" else varying
    )
    assert found["slope"] is found["intercept"] is found["correlation"] is None
    assert compared(varying, torch.zeros(9))["relative_bias"] is None
    assert compared(varying[:1], varying[1:2])["slope"] is None
    assert [group["states"] for group in binned(varying[:3], varying[:3], BINS)] == [1, 1, 1]


def test_a_value_that_is_right_is_calibrated() -> None:
    """With gamma = 0 the return is the reward; a critic that returns it is perfect."""
    agent, recorded = agent_and_episodes(perfect=True)
    agent.objective.gamma = 0.0

    class Reward(nn.Module):
        """Two members: the reward of the policy's own action, and more."""

        def forward(self, z: Tensor) -> Tensor:
            reward = ExactReward()(torch.cat((z, agent.policy.act(z)), dim=-1)).squeeze(-1)
            return torch.stack((reward + 2.0, reward))

    agent.actor_critic.critic = Reward()
    found = calibration(agent, recorded)
    assert found["bias"] == pytest.approx(0.0, abs=1e-5)
    assert found["slope"] == pytest.approx(1.0, abs=1e-4)
    assert found["critic_spread"] == pytest.approx(math.sqrt(2.0))
    for group in found["bins"]:
        assert group["predicted"] == pytest.approx(group["realised"], abs=1e-5)


def test_every_section_is_measured_and_repeatable() -> None:
    agent, recorded = agent_and_episodes(perfect=False)
    first, again = (strict(diagnose(agent, recorded, 8, seed)) for seed in (1, 1))
    assert None not in first.values()
    assert first == again
    assert first["open_loop"]["steps"] == LENGTH - 1


def test_json_knows_no_infinity() -> None:
    value = {"a": [1.0, math.nan, (math.inf, 2)], "b": {"c": -math.inf, "d": "text", "e": None, "f": True}}
    assert strict(value) == {"a": [1.0, None, [None, 2]], "b": {"c": None, "d": "text", "e": None, "f": True}}
