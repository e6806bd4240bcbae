"""MuJoCo Warp, on its CPU backend, against MuJoCo. `make test-newest` brings both in one environment."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from pwm.envs import dflex
from pwm.envs.dflex.env import DflexEnv
from pwm.errors import EnvError
from pwm.launch.cli import main

installed = importlib.util.find_spec("mujoco_warp") is not None
needed = pytest.mark.skipif(not installed, reason="needs the extra 'warp'; `make test-newest` has it")

N, STEPS = 6, 40
# Kernels are compiled for every model the first time.
COMPILING = pytest.mark.timeout(600)


def make(task: str, engine: str, seed: int = 3) -> DflexEnv:
    env = dflex.build(dflex.Options(task=task, engine=engine, num_threads=1), N, "cpu", seed)
    assert isinstance(env, DflexEnv)
    return env


def actions(env: DflexEnv, steps: int = STEPS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(steps, N, env.spec.act_dim, generator=generator) * 2 - 1


def state(env: DflexEnv) -> torch.Tensor:
    saved = env.state_dict()
    return torch.cat((saved["qpos"], saved["qvel"]), 1)


@needed
@COMPILING
@pytest.mark.parametrize("task", ["cartpole", "double_pendulum", "hopper", "anymal"])
def test_rollouts_are_those_of_mujoco(task: str) -> None:
    exact, env = make(task, "mujoco_cpu"), make(task, "mujoco_warp")
    for action in actions(env):
        expected, found = exact.step(action), env.step(action)
        assert torch.equal(found.terminated, expected.terminated)
        torch.testing.assert_close(found.final_obs, expected.final_obs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.reward, expected.reward, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(state(env), state(exact), rtol=1e-4, atol=1e-4)
    assert state(env).dtype == torch.float64
    env.close()


@needed
@COMPILING
@pytest.mark.parametrize("task", ["ant", "humanoid"])
def test_robots_with_steep_capsules_are_alike_in_the_air_and_on_the_ground(task: str) -> None:
    exact, env = make(task, "mujoco_cpu"), make(task, "mujoco_warp")
    saved = exact.state_dict()
    saved["qpos"][:, 2] += 2.0
    for each in (exact, env):
        each.load_state_dict(saved)
    for action in actions(env, 12):
        exact.step(action)
        env.step(action)
    # Joints have met their limits by then.
    torch.testing.assert_close(state(env), state(exact), rtol=1e-4, atol=1e-4)
    for each in (exact, env):
        each.reset(seed=1)
    still = torch.zeros(N, env.spec.act_dim)
    for _ in range(20 if task == "humanoid" else 240):
        expected, found = exact.step(still), env.step(still)
    torch.testing.assert_close(found.obs[:, 0], expected.obs[:, 0], rtol=0, atol=2e-3)
    torch.testing.assert_close(found.reward, expected.reward, rtol=0, atol=2e-2)
    env.close()


@needed
@COMPILING
def test_a_step_depends_on_its_start_alone() -> None:
    env, other = make("hopper", "mujoco_warp"), make("hopper", "mujoco_warp", seed=8)
    plan = actions(env)
    for action in plan[:20]:
        env.step(action)
    other.load_state_dict(env.state_dict())
    for action in plan[20:]:
        assert torch.equal(other.step(action).obs, env.step(action).obs)
    env.close()
    with pytest.raises(EnvError, match="closed"):
        env.step(plan[0])


@needed
@COMPILING
def test_training_and_continuing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "train",
        "env=dflex_hopper",
        "env.engine=mujoco_warp",
        "alg=pwm_small",
        f"general.logdir={tmp_path}",
    ]
    sizes = ["alg.warmup_env_steps=40", "alg.warmup_updates=1", "general.seed=1"]
    for epochs in (1, 2):
        assert main([*command, *sizes, f"general.epochs={epochs}"]) == 0
    assert "epoch 2/2" in capsys.readouterr().err


@pytest.mark.skipif(installed, reason="the extra is there")
def test_without_the_package_one_sentence_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "env=dflex_hopper", "env.engine=mujoco_warp", "alg=pwm_small"]) == 2
    said = capsys.readouterr().err
    assert "env.engine=mujoco_warp needs warp" in said
    assert 'pip install "flow-pwm[warp]"' in said
