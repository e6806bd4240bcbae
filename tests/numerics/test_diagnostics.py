"""Diagnostics against answers known by construction, and losses that must not see padding."""

from __future__ import annotations

import pytest
import torch
from tests.end_to_end.tiny import NETWORKS
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import imagination_gap, open_loop_error, value_calibration
from pwm.algorithm.losses import Coefs, world_model_loss
from pwm.algorithm.rollouts import SAMPLES, realised_rewards, spread_out, whole_windows, windows
from pwm.configuration.building import build_agent
from pwm.configuration.config import compose_config
from pwm.data.batch import Batch, Recorded
from pwm.envs.analytic import Options as AnalyticOptions
from pwm.envs.analytic import build
from pwm.models.dynamics.base import unroll
from pwm.models.world_model import WorldModel
from pwm.training.evaluation import Recording, evaluate

H, B, OBS, ACT = 5, 7, 4, 2
SIZES = [
    "alg=pwm_small_h16_flow",
    *NETWORKS,
    "alg.horizon=5",
]


@pytest.fixture
def recorded() -> Recorded:
    """A copy that terminates after 4 of 6 steps, and one that the time limit stops."""
    running = torch.tensor([[True, True]] * 4 + [[False, True]] * 2)
    terminated = torch.zeros(6, 2, dtype=torch.bool)
    terminated[3, 0] = True
    reward = torch.arange(1.0, 7.0)[:, None].repeat(1, 2)
    reward[4:, 0] = 1000.0
    return Recorded(torch.randn(7, 2, OBS), torch.zeros(6, 2, ACT), reward, terminated, running)


def batch(valid: Tensor | None = None) -> Batch:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(H + 1, B, OBS, generator=generator)
    action = torch.rand(H, B, ACT, generator=generator) * 2 - 1
    reward = torch.randn(H, B, generator=generator)
    never = torch.zeros(H, B, dtype=torch.bool)
    return Batch(draw, action, reward, never, ~never if valid is None else valid)


def small_agent(*overrides: str):
    config = compose_config(["env=analytic", *SIZES, *overrides])
    env = build(AnalyticOptions(), 6, torch.device("cpu"), 0)
    return build_agent(config, env.spec, torch.device("cpu")), env


def test_rewards_of_the_next_steps_are_known_if_recorded_or_after_the_end(recorded: Recorded) -> None:
    # Row 0 of each copy is flat index 0 and 1, row 1 is 2 and 3, and so on.
    chosen, rewards = realised_rewards(recorded, 3)
    found = dict(zip(chosen.tolist(), rewards.tolist(), strict=True))
    ended = {0: [1, 2, 3], 2: [2, 3, 4], 4: [3, 4, 0]}
    assert found == ended | {1: [1, 2, 3], 3: [2, 3, 4], 5: [3, 4, 5]}
    # Cut by the time limit instead, the first copy has no three steps after its second.
    cut = recorded._replace(terminated=torch.zeros_like(recorded.terminated))
    assert realised_rewards(cut, 3)[0].tolist() == [0, 1, 3, 5]
    for horizon in (6, 7):
        assert not len(realised_rewards(recorded, horizon)[0])
    # Of six steps only the first is followed by five more.
    assert realised_rewards(recorded, 5)[0].tolist() == [0, 1]


def agent_with_values(*values: float, gamma: float) -> Agent:
    """An agent whose three critics give the same values everywhere."""
    agent, env = small_agent(f"alg.gamma={gamma}")
    env.close()
    for layer in agent.critic.layers:
        torch.nn.init.zeros_(layer.weight)
    agent.critic.layers[-1].bias.data.copy_(torch.tensor(values)[:, None])
    return agent


@pytest.mark.parametrize(("gamma", "states"), [(0.1, 5), (0.995, 4)])
def test_value_calibration_compares_the_critic_with_the_return(
    recorded: Recorded, gamma: float, states: int
) -> None:
    agent = agent_with_values(3.0, 4.0, 5.0, gamma=gamma)
    agent.model.reward_rms.var.fill_(4.0)
    scale = float(agent.reward_scale)
    found = value_calibration(agent, recorded)
    assert found["value"] == pytest.approx(3.0 * scale)
    assert found["critic_spread"] == pytest.approx(scale)

    def earned(start: int, end: int, after: float) -> float:
        return after if start == end else start + 1.0 + gamma * earned(start + 1, end, after)

    # Of the cut episode, states in its first half, or before steps that discount the rest to 5 %.
    expected = [earned(t, 4, 0.0) for t in range(4)] + [earned(t, 6, 3.0 * scale) for t in range(states)]
    assert found["realised_value"] == pytest.approx(sum(expected) / len(expected))


@pytest.mark.parametrize("excess", [0.0, 50.0])
def test_short_episodes_show_over_estimation_where_steps_follow(recorded: Recorded, excess: float) -> None:
    """A reward of 1 for ever is worth 200; a right value is found right, a wrong one by 1 - gamma^n."""
    gamma = 0.995
    agent = agent_with_values(*[200.0 + excess] * 3, gamma=gamma)
    agent.model.reward_rms.var.fill_(1.0 - 1e-5)
    never = torch.zeros_like(recorded.terminated)
    cut = recorded._replace(reward=torch.ones(6, 2), terminated=never, running=~never)
    found = value_calibration(agent, cut)
    shown = sum(1 - gamma**n for n in (6, 5, 4, 3)) / 4
    assert found["value"] - found["realised_value"] == pytest.approx(excess * shown, abs=1e-3)


def test_imagination_gap_measures_what_a_recorded_policy_earned() -> None:
    agent, env = small_agent()
    recording = Recording()
    evaluate(env, lambda obs: agent.act(obs, deterministic=True), 6, recording=recording)
    recorded = recording.stacked()
    assert recorded.running.all()
    found = imagination_gap(agent, recorded)
    windows = recorded.reward.unfold(0, H, 1).sum(-1)[:-1]
    assert found["realised_reward"] == pytest.approx(float(windows.mean()), rel=0.1)
    # An untrained reward head predicts exactly zero.
    assert found["imagined_reward"] == 0.0
    assert set(found) == {"imagined_reward", "realised_reward"} | {f"latent_error_k{k}" for k in (1, 4, 5)}
    env.close()


def test_imagined_rewards_are_summed_over_the_horizon_in_the_units_of_the_environment() -> None:
    agent, env = small_agent("alg.predict_termination=false")
    env.close()
    agent.model.reward_rms.var.fill_(9.0)
    agent.world_model.reward_net[-1].bias.data.fill_(0.5)
    never = torch.zeros(9, 2, dtype=torch.bool)
    recorded = Recorded(torch.randn(10, 2, OBS), torch.zeros(9, 2, ACT), torch.ones(9, 2), never, ~never)
    found = imagination_gap(agent, recorded)
    assert found["imagined_reward"] == pytest.approx(H * 0.5 * 3.0, rel=1e-4)
    assert found["realised_reward"] == H


def test_one_critic_has_no_spread(recorded: Recorded) -> None:
    agent, env = small_agent("alg.num_critics=1")
    env.close()
    assert value_calibration(agent, recorded)["critic_spread"] == 0.0


@pytest.mark.parametrize("count", [0, 1, SAMPLES, SAMPLES + 1, 5000])
def test_looked_at_states_are_spread_from_the_first_to_the_last(count: int) -> None:
    mask = torch.zeros(2, 6000, dtype=torch.bool)
    mask[1, :count] = True
    chosen = spread_out(mask) - 6000
    assert len(chosen) == len(chosen.unique()) == min(count, SAMPLES)
    if count:
        assert (int(chosen[0]), int(chosen[-1])) == (0, count - 1)
    if len(chosen) > 1:
        gaps = chosen.diff()
        assert int(gaps.max() - gaps.min()) <= 1


def test_recordings_keep_the_last_observation_of_every_episode() -> None:
    options = AnalyticOptions(task="counting", episode_lengths=[2, 4], ends=["terminated", "truncated"])
    env = build(options, 3, torch.device("cpu"), 0)
    recording = Recording()
    evaluate(env, lambda obs: torch.zeros(3, 2), 3, recording=recording)
    recorded = recording.stacked()
    env.close()
    assert recorded.running.sum(0).tolist() == [2, 4, 2]
    for copy, length in enumerate([2, 4, 2]):
        assert recorded.obs[: length + 1, copy, :3].tolist() == [[copy, t, 0] for t in range(length + 1)]
    # Two windows of three steps in the long episode; the last one ends with it.
    starts = whole_windows(recorded, 3)
    assert starts.tolist() == [1, 4]
    assert windows(recorded, starts, 3).obs[:, :, 1].T.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]
    assert not len(whole_windows(recorded, 5))


class Frozen(torch.nn.Module):
    """Dynamics that predict no change."""

    def next(self, z: Tensor, a: Tensor, e: Tensor | None = None) -> Tensor:
        return z


def test_predicting_no_change_scores_one_and_padding_does_not_count() -> None:
    agent, env = small_agent()
    env.close()
    model: WorldModel = agent.world_model
    model.dynamics = Frozen()
    valid = torch.ones(H, B, dtype=torch.bool)
    valid[2:, 3] = False
    torch.testing.assert_close(open_loop_error(model, batch(valid), [1, 4, 5]), torch.ones(3))


def test_relative_error_is_squared_error_over_squared_change() -> None:
    agent, env = small_agent()
    env.close()
    model, data = agent.world_model, batch()
    with torch.no_grad():
        z = model.encode(data.obs)
        predicted = unroll(model.dynamics, z[0], data.action)
    expected = (predicted - z)[4].square().sum() / (z[4] - z[0]).square().sum()
    torch.testing.assert_close(open_loop_error(model, data, [4])[0], expected)


@pytest.mark.parametrize("dynamics", ["mlp", "residual", "flow"])
def test_padding_changes_neither_loss_nor_gradient(dynamics: str) -> None:
    agent, env = small_agent(f"dynamics={dynamics}", "alg.dynamics.units=[16]")
    env.close()
    model = agent.world_model
    valid = torch.ones(H, B, dtype=torch.bool)
    valid[3:, 0] = valid[1:, 4] = False
    results = []
    for noise in (0.0, 5.0):
        data = batch(valid)
        # What lies behind the padding's first row is seen by nothing; its first row is a real observation.
        obs, reward, terminated = data.obs.clone(), data.reward.clone(), data.terminated.clone()
        for column, last in ((0, 3), (4, 1)):
            obs[last + 1 :, column] += noise
            reward[last:, column] += noise
            terminated[last:, column] = noise > 0
        changed = data._replace(obs=obs, reward=reward, terminated=terminated)
        model.zero_grad()
        generator = torch.Generator().manual_seed(1)
        draws = model.dynamics.draw((H, B), obs, generator)
        loss, _ = world_model_loss(model, changed, 0.9, Coefs(2.0, 0.5, 0.3), draws)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_padding_is_not_in_the_average() -> None:
    """A batch whose second half is padding costs what its first half alone costs."""
    agent, env = small_agent("dynamics=residual", "alg.dynamics.units=[16]")
    env.close()
    whole = batch()
    short = Batch(whole.obs[:3], *(x[:2] for x in whole[1:5]))
    valid = torch.ones(H, B, dtype=torch.bool)
    valid[2:] = False
    padded, _ = world_model_loss(agent.world_model, batch(valid))
    alone, _ = world_model_loss(agent.world_model, short)
    torch.testing.assert_close(padded, alone)
