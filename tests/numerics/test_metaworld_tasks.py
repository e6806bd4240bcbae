"""The Meta-World tasks: widths, lengths and success of all 50, against the package itself; saved states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pwm.envs import metaworld
from pwm.envs.base import VectorEnv
from pwm.envs.task_table import task_names, task_row
from pwm.errors import EnvError

pytest.importorskip("metaworld", reason="needs the extra 'metaworld'")
# The fast tests do without Meta-World, which no environment of theirs brings.
pytestmark = pytest.mark.slow

TASKS = task_names("metaworld")


def make(task: str, num_envs: int = 1, seed: int = 0, **changes: Any) -> VectorEnv:
    return metaworld.build(metaworld.Options(task, **changes), num_envs, "cpu", seed)


def random_actions(steps: int, num_envs: int = 1) -> torch.Tensor:
    return 2 * torch.rand(steps, num_envs, 4, generator=torch.Generator().manual_seed(0)) - 1


@pytest.mark.parametrize("task", TASKS)
def test_a_hundred_random_actions_give_the_tabled_widths_and_a_judgement(task: str) -> None:
    row = task_row(task)
    env = make(task)
    assert env.spec.name == f"metaworld_{task}"
    assert (env.spec.obs_dim, env.spec.act_dim) == (row.obs_dim, row.action_dim)
    assert env.spec.episode_length == row.episode_length
    assert env.spec.control_dt == pytest.approx(0.025)
    first = env.reset(1)
    assert first.shape == (1, 39)
    frame = first[:, :18]
    for step, action in enumerate(random_actions(100), start=1):
        result = env.step(action)
        assert result.final_obs.shape == (1, 39)
        assert torch.isfinite(result.final_obs).all()
        assert 0 <= float(result.reward) <= 20
        assert not result.terminated
        assert bool(result.truncated) == (step == 100)
        # The frame before is one simulator step old, and the agent's last one two.
        assert not torch.equal(result.final_obs[:, 18:36], result.final_obs[:, :18])
        assert not torch.equal(result.final_obs[:, 18:36], frame)
        frame = result.final_obs[:, :18]
        # The goal stays where it is.
        assert torch.equal(result.final_obs[:, 36:], first[:, 36:])
    assert env.take_successes() in ([False], [True])
    assert not torch.equal(result.obs, first), "every episode draws anew"
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_episodes_are_those_of_the_package(task: str) -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    from metaworld.policies import ENV_POLICY_MAP

    row = task_row(task)
    env = make(task, episode_length=20)
    world = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{row.task}-v3-goal-observable"](seed=0)
    policy = ENV_POLICY_MAP[f"{row.task}-v3"]()
    world._freeze_rand_vec, world.seeded_rand_vec = False, True
    obs = env.reset(3)
    # The adapter spreads its seed over copies.
    world.seed(int(np.random.SeedSequence(3).generate_state(1)[0]))
    for _ in range(2):
        # The last reset took place inside the step that ended the episode.
        world.reset()
        expected = world.step(np.zeros(4))[0]
        for _ in range(20):
            np.testing.assert_array_equal(obs[0].numpy(), expected.astype(np.float32))
            action = np.clip(policy.get_action(expected), -1, 1).astype(np.float32)
            rewards = []
            for _ in range(2):
                expected, reward, _, _, info = world.step(action.copy())
                rewards.append(reward)
            result = env.step(torch.from_numpy(action).unsqueeze(0))
            np.testing.assert_array_equal(result.final_obs[0].numpy(), expected.astype(np.float32))
            assert float(result.reward) == np.float32(sum(map(float, rewards)))
            obs = result.obs
        assert env.take_successes() in ([bool(info["success"])], [])
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_saved_states_continue_bit_by_bit(task: str) -> None:
    env = make(task, seed=1, episode_length=12)
    plan = random_actions(28)
    # In the second episode, so that the first one could have left something behind.
    for action in plan[:18]:
        env.step(action)
    fresh = make(task, seed=2, episode_length=12)
    fresh.load_state_dict(env.state_dict())
    # Through the rest of this episode and into the next.
    for action in plan[18:]:
        for mine, its in zip(env.step(action), fresh.step(action)):
            assert torch.equal(mine, its)
    env.close()
    fresh.close()


def test_copies_do_not_depend_on_each_other() -> None:
    many, one = make("mw-push", num_envs=3, seed=5), make("mw-push", seed=5)
    plan = random_actions(5, 3)
    first = many.reset(4)
    assert len({tuple(goal) for goal in first[:, 36:].tolist()}) == 3
    assert torch.equal(one.reset(4), first[:1])
    for action in plan:
        assert torch.equal(one.step(action[:1]).obs, many.step(action).obs[:1])
    many.close()
    one.close()


def test_the_scripted_policy_reaches_its_goal() -> None:
    from benchmarks.metaworld_speed import play, scripted

    env = make("mw-reach")
    total, success, _ = play(env, scripted("mw-reach"), 3)
    env.close()
    assert success == 1.0
    assert total > 1500


def test_a_package_that_does_not_run_here_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from pwm.envs.metaworld import adapter

    def fails(**options: Any) -> None:
        raise ValueError("could not broadcast input array from shape (11,) into shape (12,)")

    monkeypatch.setitem(adapter.ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE, "reach-v3-goal-observable", fails)
    with pytest.raises(
        EnvError, match=r"^metaworld 3\S+ does not run with mujoco \S+ \(ValueError: could not"
    ):
        make("mw-reach")


def test_pictures_show_the_robot() -> None:
    env = make("mw-reach")
    env.start_rendering()
    env.reset(0)
    before = env.render(0)
    assert before.shape == (480, 480, 3)
    assert before.std() > 10
    for action in random_actions(10):
        env.step(action)
    assert (env.render(0) != before).any()
    env.close()
