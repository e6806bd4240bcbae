"""What each disturbance does to an environment, and how it is chosen and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contracts import test_envs as envs
from torch import Tensor

from pwm import components
from pwm.configuration.building import build_env, task_spec
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.envs.base import EnvSpec, StepResult, VectorEnv
from pwm.envs.disturbances import bimodal, pushes
from pwm.envs.disturbances.base import Options, disturb
from pwm.errors import ConfigError, UnknownComponentError
from pwm.runs.reference import stored_scores
from pwm.runs.run_folder import run_path

NAMES = ["bimodal", "delay", "dropout", "hidden", "pushes"]
N, LENGTH = 400, 60
CPU = torch.device("cpu")


class Echo:
    """Shows the age and number of the episode, and keeps actions; copy i ends every ``lengths[i]`` steps."""

    def __init__(self, num_envs: int = N, act_dim: int = 3) -> None:
        self.spec = EnvSpec("echo", 2, act_dim, LENGTH, 0.0)
        self.num_envs, self.device = num_envs, CPU
        self.lengths = torch.full((num_envs,), LENGTH)
        self.given: list[Tensor] = []
        self.reset()

    def reset(self, seed: int | None = None) -> Tensor:
        self._age = torch.zeros(self.num_envs, dtype=torch.int64)
        self._episode = torch.zeros(self.num_envs, dtype=torch.int64)
        return self._obs()

    def step(self, action: Tensor) -> StepResult:
        self.given.append(action.clone())
        self._age += 1
        final, truncated = self._obs(), self._age >= self.lengths
        self._episode += truncated
        self._age[truncated] = 0
        return StepResult(self._obs(), torch.zeros(self.num_envs), ~truncated & truncated, truncated, final)

    def state_dict(self) -> dict[str, Any]:
        return {"name": "echo", "age": self._age.clone(), "episode": self._episode.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._age, self._episode = state["age"].clone(), state["episode"].clone()

    def close(self) -> None:
        """Nothing to free."""

    def _obs(self) -> Tensor:
        return torch.stack([self._age, self._episode], dim=1).float()


def disturbed(name: str, strength: float | None = None, **sizes: int) -> tuple[Echo, VectorEnv]:
    echo = Echo(**sizes)
    return echo, disturb(echo, Options(name, strength), seed=3)


def executed(name: str, strength: float, action: float, steps: int = LENGTH) -> Tensor:
    """Actions [steps, N, A] that reach the environment when ``action`` is asked for."""
    echo, env = disturbed(name, strength)
    for _ in range(steps):
        env.step(torch.full((N, 3), action))
    return torch.stack(echo.given)


def test_these_are_all() -> None:
    assert components.names("disturbance") == NAMES


# --- what they do ---------------------------------------------------------------------------------


def test_pushes_come_at_random_times_and_last() -> None:
    pushed = executed("pushes", 0.5, 0.2) - 0.2
    active = (pushed != 0).any(-1)
    # Of the first steps of an episode fewer are pushed than later.
    duty = pushes.STEPS / (pushes.STEPS + (1 - pushes.RATE) / pushes.RATE)
    assert active[20:].float().mean() == pytest.approx(duty, abs=0.02)
    assert active[0].float().mean() == pytest.approx(pushes.RATE, abs=0.015)
    values = pushed[active]
    assert values.abs().max() <= 0.5 + 1e-6
    assert values.mean() == pytest.approx(0.0, abs=0.03)
    assert values.std() == pytest.approx(0.5 / 3**0.5, abs=0.03)
    # A push that begins is the same for as long as it lasts.
    begins = active[1 : 1 - pushes.STEPS] & ~active[: -pushes.STEPS]
    for later in range(1, pushes.STEPS):
        same = (
            pushed[1 + later : len(pushed) - pushes.STEPS + 1 + later] - pushed[1 : 1 - pushes.STEPS]
        ).abs()
        assert same[begins].max() < 1e-6


def test_hidden_parameters_are_those_of_an_episode() -> None:
    echo, env = disturbed("hidden", 0.3)
    for step in range(2 * LENGTH):
        env.step(torch.full((N, 3), (0.0, 1.0, -1.0)[step % 3]))
    given = torch.stack(echo.given)
    for episode in given.split(LENGTH):
        bias, up, down = episode[0], episode[1], episode[2]
        assert torch.equal(episode[3], bias)
        assert torch.equal(episode[LENGTH - 2], up)
        gain = (up - down) / 2
        torch.testing.assert_close(up, gain + bias)
        for value, middle in ((gain, 1.0), (bias, 0.0)):
            assert (value - middle).abs().max() <= 0.3 + 1e-6
            assert value.mean() == pytest.approx(middle, abs=0.03)
            assert value.std() == pytest.approx(0.3 / 3**0.5, abs=0.03)
    assert (given[0] != given[LENGTH]).all()


def test_the_coin_reverses_actuators_for_a_segment() -> None:
    sign = executed("bimodal", 0.25, 0.5) / 0.5
    assert set(sign.unique().tolist()) == {-1.0, 1.0}
    segments = sign.split(bimodal.SEGMENT)
    assert all(torch.equal(segment[0].expand_as(segment), segment) for segment in segments)
    assert (sign < 0).float().mean() == pytest.approx(0.25, abs=0.03)
    # Every segment, and every actuator, has a coin of its own.
    assert (segments[0][0] != segments[1][0]).float().mean() == pytest.approx(2 * 0.25 * 0.75, abs=0.04)
    assert (sign[0, :, 0] != sign[0, :, 1]).float().mean() == pytest.approx(2 * 0.25 * 0.75, abs=0.06)


def test_delayed_observations_are_old_ones_of_the_same_episode() -> None:
    echo, env = disturbed("delay", 3, num_envs=2)
    echo.lengths[1] = 5
    shown = [env.step(torch.zeros(2, 3)) for _ in range(8)]
    assert [r.obs[0, 0].item() for r in shown] == [0, 0, 0, 1, 2, 3, 4, 5]
    # The last observation of an episode is delayed, too; the first one of the next episode is not.
    assert [r.final_obs[1].tolist() for r in shown[3:6]] == [[1, 0], [2, 0], [0, 1]]
    assert [r.obs[1].tolist() for r in shown[3:]] == [[1, 0], [0, 1], [0, 1], [0, 1], [0, 1]]


def test_dropped_observations_are_the_last_that_was_seen() -> None:
    echo, env = disturbed("dropout", 0.4)
    echo.lengths[0] = 7
    last, repeated = env.reset(seed=3), []
    for age in range(1, LENGTH):
        result = env.step(torch.zeros(N, 3))
        again = (result.final_obs == last).all(-1)
        assert (again | (result.final_obs[:, 0] == age))[1:].all()
        repeated.append(again[1:])
        if age % 7 == 0:
            assert result.obs[0].tolist() == [0, age / 7]
        last = result.obs
    assert torch.stack(repeated).float().mean() == pytest.approx(0.4, abs=0.02)


# The least delay is one step.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "delay"])
def test_strength_zero_changes_nothing(name: str) -> None:
    plain, still = envs.make("dflex_hopper", seed=5), envs.make("dflex_hopper", seed=5)
    still = disturb(still, Options(name, 0.0), seed=5)
    for action in envs.actions(plain, 3 * envs.LENGTH):
        assert envs.same(plain.step(action), still.step(action))


def test_the_environment_inside_draws_what_it_would_draw_alone() -> None:
    plain, inside = envs.make("analytic", seed=5), envs.make("analytic", seed=5)
    env = disturb(inside, Options("dropout", 0.5), seed=5)
    for action in envs.actions(plain, 3 * envs.LENGTH):
        first, second = plain.step(action), env.step(action)
        assert torch.equal(first.reward, second.reward)
        done = first.truncated
        assert torch.equal(first.obs[done], second.obs[done])


@pytest.mark.parametrize("name", NAMES)
def test_state_in_the_middle_of_an_episode_continues_bit_identically(name: str) -> None:
    """Copies whose episodes end at different times, saved while some are pushed, reversed or waiting."""
    echo, env = disturbed(name)
    echo.lengths = 20 + torch.arange(N) % 17
    plan = torch.rand(50, N, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for action in plan[:33]:
        env.step(action)
    state = env.state_dict()
    kept = {key: value.clone() for key, value in state.items() if isinstance(value, Tensor)}
    expected = [env.step(action) for action in plan[33:]]
    assert all(torch.equal(state[key], value) for key, value in kept.items())
    other, fresh = disturbed(name)
    other.lengths = echo.lengths
    fresh.reset(seed=99)
    fresh.load_state_dict(state)
    other.given.clear()
    assert all(envs.same(a, fresh.step(b)) for a, b in zip(expected, plan[33:], strict=True))
    assert torch.equal(torch.stack(other.given), torch.stack(echo.given[33:]))


# --- how they are chosen --------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["analytic", "dflex_hopper", "gym"])
def test_any_environment_takes_one(env: str) -> None:
    words = [f"env={env}", "env.disturbance=hidden", "env.disturbance_strength=0.5"]
    config, plain = compose_config(words), compose_config(words[:1])
    spec = task_spec(config)
    assert spec.name == task_spec(plain).name + "+hidden0.5"
    assert task_spec(compose_config(words[:2])).name == task_spec(plain).name + "+hidden0.2"
    made = build_env(config, 2, 0, CPU)
    assert made.spec == spec
    made.close()
    assert run_path(config, spec.name) != run_path(plain, task_spec(plain).name)
    assert config.hash() not in (plain.hash(), compose_config(words[:2]).hash())
    assert ExperimentConfig.from_dict(config.to_dict()) == config


def test_without_one_nothing_is_different() -> None:
    plain, empty = compose_config(["env=analytic"]), compose_config(["env=analytic", "env.disturbance="])
    assert plain == empty
    assert not [key for key in plain.identity() if "disturbance" in key]
    env = build_env(empty, 2, 0, CPU)
    assert type(env) is type(envs.make("analytic"))


def test_scores_of_the_undisturbed_task_are_not_taken() -> None:
    words = ["env=dflex_hopper", "alg=pwm_small"]
    assert stored_scores(compose_config(words)) is not None
    assert stored_scores(compose_config([*words, "env.disturbance=pushes"])) is None


def test_a_configuration_file_keeps_it(tmp_path: Path) -> None:
    config = compose_config(["env=analytic", "env.disturbance=delay"])
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert ExperimentConfig.load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env.disturbance=wind"], "unknown disturbance 'wind'; choose one of: " + ", ".join(NAMES)),
        (["env.disturbance_strength=0.5"], r"env\.disturbance_strength=0\.5 without env\.disturbance"),
        (["env.disturbance=delay", "env.disturbance_strength=1.5"], "of delay it must be a whole number"),
        (["env.disturbance=delay", "env.disturbance_strength=0"], "from 1 to 100"),
        (["env.disturbance=dropout", "env.disturbance_strength=1"], r"from 0 to 0\.99"),
        (["env.disturbance=pushes", "env.disturbance_strength=nan"], "of pushes it must be a number"),
        (["env.disturbance=pushes", "env.disturbance_strength=strong"], r"env\.disturbance_strength"),
        (["env.disturbances=pushes"], r"unknown key env\.disturbances.*disturbance"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises((ConfigError, UnknownComponentError), match=message):
        compose_config(["env=analytic", *words])
