"""Model-free baselines: what their agents see of our environments, and what is kept of a run."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from pwm.envs import analytic
from pwm.errors import ConfigError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NEEDED = "needs the extra 'baselines'"


@pytest.fixture
def model_free(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("model_free")


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    pytest.importorskip("stable_baselines3", reason=NEEDED)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("vec_env_adapter").VecEnvAdapter


def counting(num_envs: int, ends: list[str]) -> analytic.CountingEnv:
    options = analytic.Options(task="counting", episode_length=3, ends=ends, obs_dim=3, act_dim=1)
    return analytic.build(options, num_envs, "cpu", 0)


def test_agents_see_ends_of_episodes_and_true_last_observations(adapter: Callable[..., object]) -> None:
    env = adapter(counting(2, ["terminated", "truncated"]))
    assert (env.observation_space.shape, env.action_space.low, env.action_space.high) == ((3,), [-1], [1])
    assert env.reset().tolist() == [[0, 0, 0], [1, 0, 0]]
    actions = np.zeros((2, 1), dtype=np.float32)
    for step in range(2):
        obs, rewards, ended, infos = env.step(actions)
        assert (rewards.tolist(), ended.tolist(), infos) == ([step, step], [False, False], [{}, {}])
    obs, rewards, ended, infos = env.step(actions)
    assert obs.tolist() == [[0, 0, 1], [1, 0, 1]]
    assert ended.tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    assert [info["terminal_observation"].tolist() for info in infos] == [[0, 3, 0], [1, 3, 0]]


def test_rewards_may_be_changed_in_place(adapter: Callable[..., object]) -> None:
    env = adapter(counting(1, ["truncated"]))
    env.reset()
    before = env.step(np.zeros((1, 1), dtype=np.float32))
    obs, rewards = before[0].copy(), before[1]
    rewards += 5
    before[0][:] = 9
    assert env.step(np.zeros((1, 1), dtype=np.float32))[0].tolist() == [[0, 2, 0]]
    assert obs.tolist() == [[0, 1, 0]]


def test_a_seed_restarts_the_environment(adapter: Callable[..., object]) -> None:
    env = adapter(analytic.build(analytic.Options(), 2, "cpu", 7))
    first, drawn_on = env.reset(), env.reset()
    env.seed(7)
    seeded = env.reset()
    assert seeded.tolist() == analytic.build(analytic.Options(), 2, "cpu", 7).reset(7).numpy().tolist()
    assert not np.array_equal(first, drawn_on)
    assert not np.array_equal(env.reset(), seeded)


def test_time_limits_are_bootstrapped_and_terminations_are_not(adapter: Callable[..., object]) -> None:
    from stable_baselines3 import SAC

    agent = SAC("MlpPolicy", adapter(counting(1, ["terminated", "truncated"])), buffer_size=12, seed=0)
    agent.learn(12)
    buffer = agent.replay_buffer
    assert buffer.next_observations[:, 0, 1].tolist() == [1, 2, 3] * 4
    drawn = buffer._get_samples(np.arange(12))
    assert drawn.dones.flatten().tolist() == [0, 0, 1, 0, 0, 0] * 2


class Agent:
    """Acts by its state, which is the number of its steps: as little as ``Recorder`` needs."""

    def __init__(self) -> None:
        self.num_timesteps = 0
        self.policy = SimpleNamespace(actor_state=0)

    def predict(self, obs: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
        assert deterministic
        # The cost of an action grows with its square; the policy after 4 steps does nothing.
        size = abs(4 - self.policy.actor_state) / 10
        return np.full((len(obs), 2), size, dtype=np.float32), None

    def learn(self, callback: Callable[[dict, dict], bool]) -> None:
        while True:
            self.num_timesteps += 1
            self.policy.actor_state = self.num_timesteps
            # As on-policy agents ask.
            if callback({}, {}) is False:
                return


def test_a_run_ends_when_every_budget_is_spent_and_keeps_its_best_policy(
    model_free: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = analytic.build(analytic.Options(), 4, "cpu", 0)
    agent, path = Agent(), tmp_path / "curves" / "run.csv"
    # Every look at the clocks is a second later than the one before.
    now = iter(range(10_000))
    monkeypatch.setattr(model_free, "clocks", lambda: np.full(2, float(next(now))))
    job = model_free.Job("sac", "analytic", 1, minutes=0.5, env_steps=3, eval_every=2)
    recorder = model_free.Recorder(job, agent, env, 4, path)
    recorder.measure()
    agent.learn(recorder)
    recorder.measure()
    with path.open(newline="") as file:
        curve = list(csv.DictReader(file))
    steps = [int(r["env_steps"]) for r in curve]
    assert steps[:3] == [0, 2, 4]
    assert steps[-1] == agent.num_timesteps > 4
    assert recorder.best_policy == 4
    wall, training = ([float(r[key]) for r in curve] for key in ("wall_time", "train_time"))
    assert training[-2] < 30 <= training[-1]
    # One second per evaluation.
    assert [w - t for w, t in zip(wall, training, strict=True)] == list(range(1, len(curve) + 1))
    assert curve[-1]["eval/latent_error_k1"] == ""


def test_policies_are_evaluated_as_those_of_our_runs(model_free: ModuleType, tmp_path: Path) -> None:
    from pwm.training.evaluation import EVALUATION_SEED, evaluate, zero_policy

    agent = Agent()
    agent.policy.actor_state = 4
    env = analytic.build(analytic.Options(), 4, "cpu", 0)
    job = model_free.Job("sac", "analytic", 1, 1, 0, 10)
    recorder = model_free.Recorder(job, agent, env, 8, tmp_path / "curve.csv")
    recorder.measure()
    expected = evaluate(env, zero_policy(2), 8, EVALUATION_SEED)
    assert recorder.records[0]["eval/episode_return"] == expected.mean
    assert recorder.records[0]["eval/episode_return_std"] == expected.std


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minutes": 0.0, "env_steps": 0}, "--minutes 0 --env-steps 0"),
        ({"minutes": -1.0}, "--minutes -1"),
        ({"minutes": float("nan")}, "--minutes nan"),
        ({"eval_every": 0}, "--eval-every 0"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**32}, "--seed 4294967296"),
        ({"gamma": 1.0}, "--gamma 1: it must lie in"),
    ],
)
def test_numbers_that_cannot_work_are_refused(
    model_free: ModuleType, change: dict[str, float], message: str
) -> None:
    values = {"algorithm": "sac", "task": "Pendulum-v1", "seed": 1, "minutes": 1.0, "env_steps": 0}
    with pytest.raises(ConfigError, match=message):
        model_free.Job(**(values | {"eval_every": 100} | change))


def test_agents_have_the_discount_that_the_suite_names_for_a_task(
    model_free: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = importlib.import_module("model_free_suite")
    found = {job.task: job for job in suite.jobs(["sac"], 1.0, ["*/1"], ["seeds=[1]"])}
    assert found["dflex_hopper"].command.endswith("--gamma 0.99")
    assert found["Swimmer-v5"].gamma == 0.999
    assert found["HalfCheetah-v5"].gamma is None
    assert "--gamma" not in found["HalfCheetah-v5"].command


def test_a_discount_reaches_the_agent(model_free: ModuleType) -> None:
    pytest.importorskip("sbx", reason=NEEDED)
    jobs = [model_free.Job("sac", "analytic", 1, 1, 0, 100, gamma) for gamma in (0.9, None)]
    assert [model_free.build_agent(job, counting(1, ["truncated"])).gamma for job in jobs] == [0.9, 0.99]


@pytest.mark.parametrize(
    ("task", "env_name", "key", "value"),
    [
        ("dflex_hopper", "dflex", "task", "hopper"),
        ("analytic", "analytic", "task", "lqr"),
        ("HalfCheetah-v5", "gym", "id", "HalfCheetah-v5"),
    ],
)
def test_tasks_are_presets_or_gymnasium_ids(
    model_free: ModuleType, task: str, env_name: str, key: str, value: str
) -> None:
    config = model_free.Job("sac", task, 3, 1, 0, 100).config()
    assert (config.env_name, getattr(config.env, key), config.general.seed) == (env_name, value, 3)


def test_a_stored_result_counts_for_its_own_command_only(model_free: ModuleType, tmp_path: Path) -> None:
    job = model_free.Job("sac", "Pendulum-v1", 1, 20, 0, 2500)
    assert not model_free.finished(job, tmp_path)
    records = [
        {"env_steps": 2500.0 * i, "wall_time": 9.0 * i, "train_time": 8.0 * i, "eval/episode_return": r}
        for i, r in enumerate((1.0, 5.0, 3.0))
    ]
    new = model_free.row(job, "gym_Pendulum-v1", records, {"zero_action": 0.0, "random_action": -1.0})
    assert (new["peak"], new["final"], new["last10"], new["env_steps"]) == (5.0, 3.0, 3.0, 5000)
    assert (new["retention"], new["latent_error_k1"], new["zero_action"]) == (0.6, "", 0.0)
    model_free.merge(tmp_path, [new])
    assert model_free.finished(job, tmp_path)
    assert not model_free.finished(model_free.Job("sac", "Pendulum-v1", 1, 30, 0, 2500), tmp_path)
