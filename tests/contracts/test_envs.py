"""Every environment keeps the contract of ``pwm.envs.base.VectorEnv``."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import pwm.envs
from pwm import components
from pwm.envs.base import VectorEnv
from pwm.envs.disturbances.base import Options as Disturbance
from pwm.envs.disturbances.base import disturb
from pwm.errors import ActionError, ConfigError, EnvError, UnknownComponentError

CONFIGS = Path(pwm.envs.__file__).parents[1] / "configs" / "env"
LENGTH = 12
N = 3

CASES: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(CONFIGS.glob("*.yaml"))
}
# Every MuJoCo environment of Gymnasium's current version.
GYM_ROBOTS = [
    *("Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "HumanoidStandup-v5", "Pusher-v5"),
    *("InvertedDoublePendulum-v5", "InvertedPendulum-v5", "Reacher-v5", "Swimmer-v5", "Walker2d-v5"),
]
CASES["counting"] = {"name": "analytic", "task": "counting", "ends": ["terminated", "truncated"]}
# A disturbed environment keeps the contract as well, whatever is inside.
CASES |= {
    f"lqr+{name}": {"name": "analytic", "disturbance": name} for name in components.names("disturbance")
}
CASES["gym+delay"] = {**CASES["gym"], "disturbance": "delay"}
CASES["dflex_ant+bimodal"] = {**CASES["dflex_ant"], "disturbance": "bimodal"}


def make(case: str, num_envs: int = N, seed: int = 0, **changes: Any) -> VectorEnv:
    """Build the environment of one YAML file with short episodes."""
    config = dict(CASES[case])
    module = components.load("env", config.pop("name"))
    disturbance = Disturbance(config.pop("disturbance", ""))
    fields = {field.name for field in dataclasses.fields(module.Options)}
    if "episode_length" in fields:
        config["episode_length"] = LENGTH
    config.update(changes)
    assert set(config) <= fields, "YAML keys must be exactly the component's options"
    return disturb(module.build(module.Options(**config), num_envs, "cpu", seed), disturbance, seed)


def actions(env: VectorEnv, steps: int, seed: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(steps, env.num_envs, env.spec.act_dim, generator=generator) * 2 - 1


def same(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Environments that an installation may lack: the package that they need, by their name and extra.
PACKAGES = {"dmc": "dm_control", "metaworld": "metaworld"}


def marks(name: str) -> list[pytest.MarkDecorator]:
    """Skip what is not installed."""
    if name not in PACKAGES:
        return []
    missing = importlib.util.find_spec(PACKAGES[name]) is None
    return [pytest.mark.skipif(missing, reason=f"needs the extra '{name}'")]


@pytest.fixture(params=[pytest.param(name, marks=marks(name)) for name in sorted(CASES)])
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_shapes_types_and_finite_values(case: str) -> None:
    env = make(case)
    assert isinstance(env, VectorEnv)
    assert env.num_envs == N
    assert env.device == torch.device("cpu")
    obs = env.reset(seed=1)
    assert obs.shape == (N, env.spec.obs_dim)
    assert obs.dtype == torch.float32
    for action in actions(env, 3 * LENGTH):
        result = env.step(action)
        for value in (result.obs, result.final_obs):
            assert value.shape == (N, env.spec.obs_dim)
            assert value.dtype == torch.float32
            assert torch.isfinite(value).all()
        assert result.reward.shape == (N,)
        assert result.reward.dtype == torch.float32
        assert torch.isfinite(result.reward).all()
        for flag in (result.terminated, result.truncated):
            assert flag.shape == (N,)
            assert flag.dtype == torch.bool
        assert not (result.terminated & result.truncated).any()
    env.close()


def test_auto_reset_in_the_same_step(case: str) -> None:
    env = make(case)
    env.reset(seed=0)
    steps, finished = torch.zeros(N, dtype=torch.int64), 0
    for action in actions(env, 3 * LENGTH):
        result = env.step(action)
        steps += 1
        done = result.terminated | result.truncated
        assert torch.equal(result.obs[~done], result.final_obs[~done])
        assert (result.obs[done] != result.final_obs[done]).any(-1).all()
        assert (steps[result.truncated] == env.spec.episode_length).all()
        assert (steps <= env.spec.episode_length).all()
        steps[done] = 0
        finished += int(done.sum())
    assert finished >= N
    env.close()


def test_the_same_seed_gives_the_same_run(case: str) -> None:
    first, second, other = make(case, seed=3), make(case, seed=9), make(case, seed=4)
    second.reset(seed=3)
    plan = actions(first, 2 * LENGTH)
    runs = [[env.step(action) for action in plan] for env in (first, second, other)]
    # ``first`` continues from its constructor's reset, ``second`` from an explicit one.
    assert all(same(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    if case != "counting":
        assert not torch.equal(runs[0][0].obs, runs[2][0].obs)
    for env in (first, second, other):
        env.close()


def test_environments_differ_from_each_other(case: str) -> None:
    obs = make(case).reset(seed=0)
    assert not torch.equal(obs[0], obs[1])


def test_state_round_trip_continues_bit_identically(case: str) -> None:
    env = make(case, seed=1)
    plan = actions(env, 3 * LENGTH)
    for action in plan[: LENGTH // 2]:
        env.step(action)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    expected = [env.step(action) for action in plan]
    expected_start = env.reset()
    file.seek(0)
    fresh = make(case, seed=2)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert all(same(a, fresh.step(action)) for a, action in zip(expected, plan, strict=True))
    assert torch.equal(expected_start, fresh.reset())
    env.close()
    fresh.close()


def test_foreign_states_are_refused(case: str) -> None:
    env = make(case)
    state = env.state_dict()
    with pytest.raises(EnvError, match="cannot be loaded"):
        env.load_state_dict({**state, "name": "another"})
    with pytest.raises(EnvError, match="expected"):
        make(case, num_envs=N + 1).load_state_dict(state)


def test_bad_actions_raise(case: str) -> None:
    env = make(case)
    good = torch.zeros(N, env.spec.act_dim)
    with pytest.raises(ActionError, match="shape"):
        env.step(good[:-1])
    bad = good.clone()
    bad[1, 0] = float("nan")
    with pytest.raises(ActionError, match="not finite"):
        env.step(bad)
    with pytest.raises(ActionError, match="not finite"):
        env.step(good + float("inf"))
    env.step(good)


def test_actions_are_clipped(case: str) -> None:
    wide, edge = make(case, seed=5), make(case, seed=5)
    sign = torch.sign(actions(wide, 4))
    # The largest ones cannot even be added up.
    for scale, action in zip((10.0, 1e30, 3e38, 3e38), sign, strict=True):
        assert same(wide.step(scale * action), edge.step(action))
    assert same(wide.step(torch.full_like(sign[0], 3e38)), edge.step(torch.ones_like(sign[0])))


def test_callers_may_change_what_they_were_given(case: str) -> None:
    touched, clean = make(case, seed=5), make(case, seed=5)
    for action in actions(clean, LENGTH + 2):
        expected = clean.step(action)
        given = action.clone()
        result = touched.step(given)
        assert same(result, expected)
        given.fill_(0.5)
        for value in result:
            value.zero_()


def test_no_environments_is_an_error(case: str) -> None:
    with pytest.raises(ConfigError, match="num_envs"):
        make(case, num_envs=0)


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(UnknownComponentError, match=r"analytic.*dflex.*dmc.*gym.*metaworld"):
        components.load("env", "dflexx")
    with pytest.raises(ConfigError, match=r"did you mean 'hopper'.*cartpole.*humanoid"):
        make("dflex_hopper", task="hoper")
    with pytest.raises(ConfigError, match=r"lqr, counting"):
        make("analytic", task="linear")


@pytest.mark.parametrize(
    ("case", "change", "words"),
    [
        ("dflex_ant", {"substeps": 0}, "env.substeps=0"),
        ("dflex_ant", {"episode_length": 0}, "env.episode_length=0"),
        ("dflex_ant", {"num_threads": -1}, "env.num_threads=-1"),
        ("dflex_ant", {"substeps": True}, "env.substeps=True"),
        ("analytic", {"state_dim": 3}, "even"),
        ("counting", {"obs_dim": 2}, "env.obs_dim=2"),
        ("counting", {"ends": ["crash"]}, "terminated / truncated"),
        ("counting", {"episode_lengths": [3, 0]}, "positive"),
        ("dmc", {"task": "walker-wlak"}, "did you mean 'walker-walk'.*pendulum-spin"),
        ("dmc", {"task": "mw-push"}, "env.task='mw-push'"),
        ("dmc", {"engine": "mjx"}, "rollout, dm_control"),
        ("dmc", {"num_threads": -1}, "env.num_threads=-1"),
        ("dmc", {"episode_length": 0}, "env.episode_length=0"),
        ("metaworld", {"task": "mw-raech"}, "did you mean 'mw-reach'.*mw-hand-insert"),
        ("metaworld", {"task": "walker-walk"}, "env.task='walker-walk'"),
        ("metaworld", {"episode_length": 0}, "env.episode_length=0"),
        ("gym", {"vectorization": "threads"}, "sync, async"),
        ("gym", {"id": ""}, "Gymnasium id"),
    ],
)
def test_bad_options_name_the_key(case: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(case, **change)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HalfCheeta-v5", "HalfCheetah-v5"),
        ("CartPole-v1", "discrete"),
        ("no_such_module:Thing-v0", "no_such_module"),
    ],
)
def test_gym_explains_unusable_ids(name: str, words: str) -> None:
    with pytest.raises(EnvError, match=words):
        make("gym", id=name)


def test_gym_explains_bad_arguments() -> None:
    with pytest.raises(EnvError, match=r"env\.kwargs"):
        make("gym", kwargs={"no_such_argument": 1})


@pytest.mark.parametrize("name", GYM_ROBOTS)
def test_gym_mujoco_state_is_exact(name: str) -> None:
    first = make("gym", id=name, num_envs=2)
    plan = actions(first, 2 * LENGTH)
    for action in plan[:5]:
        first.step(action)
    second = make("gym", id=name, num_envs=2, seed=8)
    second.load_state_dict(first.state_dict())
    # What rewards and observations of these environments do not read is in the state, too.
    clocks = [[copy.unwrapped.data.time for copy in env._env.envs] for env in (first, second)]
    assert clocks[0] == clocks[1]
    assert min(clocks[0]) > 0.0
    assert all(same(first.step(action), second.step(action)) for action in plan)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda saved: saved["arrays"].pop("qpos"), r"another model, or .*mujoco \d.*: qpos differ"),
        (lambda saved: saved["arrays"].update(new=torch.zeros(2)), ": new differ"),
        (lambda saved: saved["arrays"].update(qpos=torch.zeros(1)), ": qpos differ"),
        (lambda saved: saved.update(physics=saved["physics"][:-1]), ": physics differ"),
        (lambda saved: saved.update(family="classic_control"), "family 'classic_control'"),
    ],
)
def test_gym_states_of_other_models_are_refused_and_change_nothing(change: Any, words: str) -> None:
    env = make("gym", id="Hopper-v5", num_envs=1)
    same_env = make("gym", id="Hopper-v5", num_envs=1)
    other = make("gym", id="Hopper-v5", num_envs=1, seed=8)
    state = other.state_dict()
    change(state["envs"][0])
    with pytest.raises(EnvError, match=words):
        env.load_state_dict(state)
    for action in actions(env, 3):
        assert same(env.step(action), same_env.step(action))


def test_gym_rescales_actions_to_the_bounds() -> None:
    env = make("gym", num_envs=1, seed=0)
    env.step(torch.ones(1, 1))
    assert env._env.envs[0].unwrapped.last_u == pytest.approx(2.0)


def test_gym_in_other_processes_steps_and_saves_like_in_this_one() -> None:
    env = make("gym", vectorization="async", seed=1)
    plain = make("gym", seed=1)
    plan = actions(env, 2 * LENGTH).split(LENGTH + 1)
    for action in plan[0]:
        assert same(env.step(action), plain.step(action))
    for saved, vectorization in ((env, "sync"), (plain, "async")):
        fresh = make("gym", vectorization=vectorization, seed=2)
        fresh.load_state_dict(saved.state_dict())
        for action in plan[1]:
            assert same(saved.step(action), fresh.step(action))
        fresh.close()
    env.close()


def test_counting_names_every_transition() -> None:
    env = make("counting", num_envs=2, episode_lengths=[2, 3], ends=["terminated", "truncated"], obs_dim=4)
    assert env.spec.episode_length == 3
    assert env.reset().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    action = torch.zeros(2, env.spec.act_dim)
    seen = [env.step(action) for _ in range(4)]
    assert [r.reward.tolist() for r in seen] == [[0, 0], [1, 1], [0, 2], [1, 0]]
    assert [r.terminated.tolist() for r in seen] == [
        [False, False],
        [True, False],
        [False, False],
        [False, False],
    ]
    assert [r.truncated.tolist() for r in seen] == [
        [False, False],
        [False, False],
        [False, True],
        [True, False],
    ]
    assert seen[1].final_obs.tolist() == [[0, 2, 0, 0], [1, 2, 0, 0]]
    assert seen[1].obs.tolist() == [[0, 0, 1, 0], [1, 2, 0, 0]]
    assert seen[2].final_obs.tolist() == [[0, 1, 1, 0], [1, 3, 0, 0]]
