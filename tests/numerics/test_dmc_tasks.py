"""The dm_control tasks: batched ones against the suite, rewards against closed forms, start states."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from pwm.envs import dmc
from pwm.envs.task_table import TaskRow, task_names, task_row
from pwm.errors import EnvError

pytest.importorskip("dm_control", reason="needs the extra 'dmc'")

from benchmarks.dmc_speed import largest_deviation

from pwm.envs.dmc.env import DmcEnv
from pwm.envs.dmc.oracle import flat
from pwm.envs.dmc.physics import Moment, Physics
from pwm.envs.dmc.suite_tasks import load
from pwm.envs.dmc.tasks import ball_in_cup, load_task, pendulum
from pwm.envs.dmc.tasks.common import Start, random_joints, uniform

TASKS = task_names("dm_control")
CUSTOM = [name for name in TASKS if task_row(name).custom]
AGREEMENT = 1e-6
# Beyond so many standard errors two means, or two deviations, are taken to differ.
SIGNIFICANT = 5.0


def make(task: str, num_envs: int = 4, seed: int = 0, **changes: Any) -> Any:
    return dmc.build(dmc.Options(task, **{"num_threads": 1, **changes}), num_envs, "cpu", seed)


def starts(task: str, count: int, seed: int = 0) -> tuple[Physics, Start]:
    record = load_task(task)
    physics = Physics(record.recipe, count, 1)
    return physics, record.start(physics, torch.Generator().manual_seed(seed), count)


def moments(task: str, count: int, steps: int) -> tuple[Physics, Moment]:
    """What copies of a task meet after some steps of random actions."""
    record = load_task(task)
    physics, (qpos, qvel, target) = starts(task, count)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        ctrl = 2 * torch.rand(count, physics.nu, generator=generator, dtype=torch.float64) - 1
        moment = physics.step(qpos, qvel, ctrl, target).every_second()
        qpos, qvel = moment.qpos, moment.qvel
    assert record.observe(moment).shape == (count, task_row(task).obs_dim)
    return physics, moment


# Widths and steps of all tasks.


@pytest.mark.parametrize("task", TASKS)
def test_a_hundred_random_actions_give_the_tabled_widths(task: str) -> None:
    row: TaskRow = task_row(task)
    env = make(task)
    assert isinstance(env, DmcEnv)
    assert env.spec.name == f"dmc_{task}"
    assert (env.spec.obs_dim, env.spec.act_dim) == (row.obs_dim, row.action_dim)
    assert env.spec.episode_length == row.episode_length
    assert env.reset(1).shape == (4, row.obs_dim)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        result = env.step(2 * torch.rand(4, row.action_dim, generator=generator) - 1)
        assert result.obs.shape == (4, row.obs_dim)
        assert torch.isfinite(result.obs).all()
        assert (result.reward >= 0).all()
        assert (result.reward <= 2).all()
        assert not (result.terminated | result.truncated).any()
    assert env.invalid_states == 0
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_the_suite_has_the_tabled_widths(task: str) -> None:
    row = task_row(task)
    suite_env = load(task, seed=0)
    limits = suite_env.action_spec()
    assert limits.shape == (row.action_dim,)
    assert (limits.minimum == -1).all()
    assert (limits.maximum == 1).all()
    assert 2 * suite_env.control_timestep() == pytest.approx(2 * load_task(task).recipe.control_dt)
    assert flat(suite_env.reset().observation).shape == (row.obs_dim,)
    for action in np.random.default_rng(0).uniform(-1, 1, (10, row.action_dim)):
        result = suite_env.step(action)
        assert np.isfinite(flat(result.observation)).all()
        assert 0 <= result.reward <= 1
    assert not result.last()


# Batched against the suite.


# All bodies that can fall have fallen after 60 steps; 200 are what results/dmc states.
@pytest.mark.parametrize("steps", [60, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", TASKS)
def test_batched_and_suite_agree(task: str, steps: int) -> None:
    deviation = largest_deviation(task, steps)
    assert max(deviation.values()) < AGREEMENT, deviation


def test_a_deviation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(pendulum.TASKS["pendulum-spin"], reward=pendulum.swingup)
    monkeypatch.setitem(pendulum.TASKS, "pendulum-spin", other)
    assert largest_deviation("pendulum-spin", 20)["reward"] > 1e-3


def test_steps_are_two_control_steps_with_summed_rewards() -> None:
    env = make("cheetah-jump", 3)
    record, physics = env.task, env.physics
    action = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pair = physics.step(env._qpos, env._qvel, action.double(), env._kept)
    result = env.step(action)
    reward = record.reward(pair)
    torch.testing.assert_close(result.reward.double(), reward[::2] + reward[1::2], rtol=1e-6, atol=0)
    assert torch.equal(result.obs, record.observe(pair)[1::2].float())
    env.close()


def test_the_suite_runs_behind_the_same_interface() -> None:
    env = make("walker-walk", 3, engine="dm_control", episode_length=4)
    same = make("walker-walk", 3, engine="dm_control", episode_length=4)
    batched = make("walker-walk", 3, episode_length=4)
    assert env.spec == batched.spec
    first = env.reset(5)
    assert torch.equal(first, same.reset(5))
    assert not torch.equal(first[0], first[1])
    action = torch.full((3, 6), 0.3)
    for step in range(9):
        result, again = env.step(action), same.step(action)
        assert all(torch.equal(a, b) for a, b in zip(result, again, strict=True))
        assert result.truncated.tolist() == [step % 4 == 3] * 3
        assert not result.terminated.any()
        assert ((result.reward > 0) & (result.reward <= 2)).all()
    for each in (env, same, batched):
        each.close()


def test_the_suite_adds_up_two_rewards() -> None:
    env = make("cartpole-balance", 1, engine="dm_control")
    copy = env._env.envs[0].unwrapped.suite_env
    state = copy.physics.get_state()
    total = float(env.step(torch.full((1, 1), 0.5)).reward)
    with copy.physics.reset_context():
        copy.physics.set_state(state)
    rewards = [copy.step(np.array([0.5])).reward for _ in range(2)]
    assert total == pytest.approx(sum(rewards), rel=1e-6)
    env.close()


# Rewards of our own tasks against the closed forms of the specification.


def kinematics(model: mujoco.MjModel, qpos: np.ndarray, qvel: np.ndarray) -> mujoco.MjData:
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = qpos, qvel
    mujoco.mj_forward(model, data)
    mujoco.mj_subtreeVel(model, data)
    return data


def closed_form(task: str, model: mujoco.MjModel, data: mujoco.MjData, target: np.ndarray) -> float:
    """The reward of one control step as the specification writes it."""

    def clip(x: float) -> float:
        return min(1.0, max(0.0, x))

    def G(x: float, b: float, m: float) -> float:
        return 1.0 if x >= b else 0.1 ** (((b - x) / m) ** 2)

    def z(body: str) -> float:
        return data.body(body).xpos[2]

    if task in {"pendulum-spin"}:
        return min(1.0, abs(data.qvel[0]) / 9)
    if task.startswith("reacher"):
        finger = data.geom("finger").xpos[:2]
        return float(np.hypot(*(target - finger)) <= (0.06 if task.endswith("easy") else 0.025))
    if task == "cup-spin":
        dx, _, dz = data.site("target").xpos - data.body("ball").xpos
        inside = abs(dx) < 0.025 and abs(dz) < 0.025
        s = float(np.hypot(data.joint("ball_x").qvel[0], data.joint("ball_z").qvel[0]))
        return (1 - inside) * (min(1, 2 * float(np.hypot(dx, dz))) + 2 * min(1, s / 6)) / 3
    v = data.subtree_linvel[model.body("torso").id][0]
    if task.startswith("walker"):
        s = 1 if task == "walker-walk-backwards" else 8
        u = data.body("torso").xmat[8]
        return (3 * G(z("torso"), 1.2, 0.6) + (1 + u) / 2) / 4 * (5 * clip(-v / s) + 1) / 6
    if task == "cheetah-run-backwards":
        return clip(-v / 8)
    if task in {"cheetah-run-front", "cheetah-run-back"}:
        f = "bfoot" if task == "cheetah-run-front" else "ffoot"
        up = (3 * G(z(f), 1.2, 0.6) + 2 * G(z("torso"), 1.2, 0.6)) / 5
        return up * (5 * clip(v / 6) + 1) / 6
    if task == "cheetah-jump":
        both = [
            (5 * G((z("torso") + z(f)) / 2, 1.2, 0.6) + clip(2 - 2 * abs(v))) / 6 for f in ("bfoot", "ffoot")
        ]
        return sum(both) / 2
    assert task == "hopper-hop-backwards"
    h = data.body("torso").xipos[2] - data.body("foot").xipos[2]
    return float(0.6 <= h <= 2) * clip(-v)


@pytest.mark.parametrize("task", CUSTOM)
def test_custom_rewards_are_their_closed_forms(task: str) -> None:
    physics, moment = moments(task, 60, 3)
    # Wide enough that every branch of the formulas is met.
    generator = torch.Generator().manual_seed(2)
    qvel = moment.qvel * 4 * torch.rand(60, 1, generator=generator, dtype=torch.float64)
    qpos = moment.qpos.clone()
    # Coordinates along x and z: the walker's are the other way round.
    x, z = (1, 0) if task.startswith("walker") else (0, 1)
    qvel[:, x] += 8 * torch.randn(60, generator=generator, dtype=torch.float64)
    if task_row(task).domain in {"walker", "cheetah", "hopper"}:
        qpos[:, z] += torch.rand(60, generator=generator, dtype=torch.float64)
    target = moment.target
    if task.startswith("reacher"):
        # Every second finger lies near the edge of its target.
        finger = physics.look(qpos, qvel, target).read("finger")[:, :2]
        near = 0.08 * torch.rand(60, 1, generator=generator, dtype=torch.float64)
        target = torch.where(torch.arange(60).unsqueeze(1) % 2 == 0, finger + near / 2**0.5, target)
    found = load_task(task).reward(physics.look(qpos, qvel, target)).numpy()
    wanted = np.empty(60)
    suite_env = load(task, seed=0)
    suite_env.reset()
    for i in range(60):
        data = kinematics(physics.model, qpos[i].numpy(), qvel[i].numpy())
        wanted[i] = closed_form(task, physics.model, data, target[i].numpy())
        if task.startswith("reacher"):
            suite_env.physics.named.model.geom_pos["target", ["x", "y"]] = target[i].numpy()
        with suite_env.physics.reset_context():
            suite_env.physics.data.qpos[:], suite_env.physics.data.qvel[:] = qpos[i], qvel[i]
        assert suite_env.task.get_reward(suite_env.physics) == pytest.approx(wanted[i], abs=1e-12)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    assert wanted.std() > 0.03
    physics.close()


def test_three_link_reacher_has_the_specified_arm() -> None:
    model = load("reacher-three-hard", seed=0).physics.model.ptr
    for body, offset in (("arm1", 0.09), ("hand", 0.09), ("finger", 0.09)):
        np.testing.assert_allclose(model.body(body).pos, [offset, 0, 0])
    np.testing.assert_allclose(model.body("arm0").pos, [0, 0, 0.01])
    for geom, length in (("arm0", 0.09), ("arm1", 0.09), ("hand", 0.10)):
        np.testing.assert_allclose(model.geom(geom).size[:2], [0.01, length / 2])
    np.testing.assert_allclose(model.geom("finger").size[0], 0.01)
    names = [model.joint(i).name for i in range(model.njnt)]
    assert names == ["shoulder0", "shoulder1", "wrist"]
    assert [model.actuator(i).trnid[0] for i in range(model.nu)] == [0, 1, 2]
    np.testing.assert_allclose(model.jnt_range[1:], np.deg2rad([[-80, 80], [-80, 80]]))
    assert model.jnt_limited.tolist() == [0, 1, 1]
    np.testing.assert_allclose(model.dof_damping, 0.01)
    np.testing.assert_allclose(model.actuator_gear[:, 0], 0.05)
    np.testing.assert_allclose(model.actuator_ctrlrange, [[-1, 1]] * 3)
    assert model.opt.timestep == 0.02
    assert model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT


# Start states.


# One task for every way to begin an episode.
BEGINNINGS = {(load_task(name).recipe.name, load_task(name).start): name for name in reversed(TASKS)}


@pytest.mark.parametrize("task", BEGINNINGS.values())
def test_start_states_are_distributed_as_in_the_suite(task: str) -> None:
    physics, start = starts(task, 2000)
    mine = load_task(task).observe(physics.look(*start)).numpy()
    suite_env = load(task, seed=1)
    theirs = np.stack([flat(suite_env.reset().observation) for _ in range(400)])
    physics.close()
    # Of the observation and of its squares, so that means and deviations are compared.
    for power in (1, 2):
        a, b = mine**power, theirs**power
        error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
        gap = np.abs(a.mean(0) - b.mean(0))
        assert (gap <= SIGNIFICANT * error + 1e-9).all(), (power, gap / np.maximum(error, 1e-12))
    # Two samples of one distribution have nearly the same extremes, up to their rare ones.
    low, high = np.quantile(theirs, [0.01, 0.99], axis=0)
    share = ((mine >= low - 1e-9) & (mine <= high + 1e-9)).mean(0)
    assert (share > 0.93).all(), share


def test_cheetahs_settle_as_in_the_suite() -> None:
    task = "cheetah-run"
    physics, start = starts(task, 4, seed=5)
    # The joints' draws again, from the same random numbers.
    limited = physics.model.jnt_limited.astype(bool)
    low, high = physics.model.jnt_range[limited].T
    unit = torch.rand(4, physics.nq, generator=torch.Generator().manual_seed(5), dtype=torch.float64).numpy()
    suite_env = load(task, seed=0)
    for i in range(4):
        suite = suite_env.physics
        with suite.reset_context():
            suite.data.qpos[limited] = low + (high - low) * unit[i, limited]
            suite.step(nstep=1)
            # The batched task begins its rollout with a cold solver.
            suite.data.qacc_warmstart[:] = 0
            suite.step(nstep=199)
        np.testing.assert_allclose(start.qpos[i].numpy(), suite.data.qpos, atol=1e-9)
        np.testing.assert_allclose(start.qvel[i].numpy(), suite.data.qvel, atol=1e-9)
    physics.close()


@pytest.mark.parametrize("task", ["cup-catch", "cup-spin", "finger-spin", "finger-turn-hard"])
def test_nothing_touches_at_the_start(task: str) -> None:
    physics, start = starts(task, 500)
    contacts = [kinematics(physics.model, q, v).ncon for q, v in zip(start.qpos.numpy(), start.qvel.numpy())]
    assert contacts == [0] * 500
    physics.close()


@pytest.mark.parametrize("task", ["cup-catch", "finger-spin"])
def test_clearance_is_negative_exactly_where_mujoco_finds_a_contact(task: str) -> None:
    record = load_task(task)
    physics = Physics(record.recipe, 2000, 1)
    generator = torch.Generator().manual_seed(3)
    qpos = random_joints(physics, generator, 2000)
    if task == "cup-catch":
        low, high = torch.tensor([ball_in_cup.LOW, ball_in_cup.HIGH], dtype=torch.float64)
        qpos[:, 2:] = uniform(generator, 2000, low, high)
    touching = [kinematics(physics.model, q, np.zeros(physics.nv)).ncon > 0 for q in qpos.numpy()]
    assert 20 < sum(touching) < 1900
    assert (physics.clearance(qpos) < 0).tolist() == touching
    physics.close()


def test_nine_of_ten_spinning_balls_begin_in_the_cup() -> None:
    physics, start = starts("cup-spin", 4000)
    share = float(ball_in_cup.caught(physics.look(*start)).mean())
    # One in ten may lie anywhere that is free, which is seldom in the cup.
    assert share == pytest.approx(0.9 + 0.1 * 0.02, abs=0.02)
    physics.close()


# The environment.


@pytest.mark.parametrize(
    "task", ["reacher-three-easy", "finger-turn-hard", "cup-spin", "fish-swim", "hopper-hop"]
)
def test_a_saved_state_continues_bit_identically(task: str) -> None:
    env = make(task, 3, seed=1, episode_length=9)
    plan = 2 * torch.rand(30, 3, env.spec.act_dim, generator=torch.Generator().manual_seed(7)) - 1
    for action in plan[:5]:
        env.step(action)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    fresh = make(task, 3, seed=2, episode_length=9, num_threads=2)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for action in plan:
        pairs = zip(env.step(action), fresh.step(action), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(env.reset(), fresh.reset())
    env.close()
    fresh.close()


def test_a_blown_up_copy_is_cut_without_reward() -> None:
    env = make("walker-walk")
    action = torch.zeros(4, 6)
    before = env.step(action).obs
    env._qvel[2, 0] = 1e12
    result = env.step(action)
    assert result.truncated.tolist() == [False, False, True, False]
    assert not result.terminated.any()
    assert result.reward[2] == 0
    assert torch.equal(result.final_obs[2], before[2])
    assert not torch.equal(result.obs[2], before[2])
    assert torch.isfinite(result.obs).all()
    assert env.invalid_states == 1
    assert env.state_dict()["invalid_states"] == 1
    assert not env.step(action).truncated.any()
    env.close()


def test_a_simulator_that_does_not_fit_is_named() -> None:
    code = (
        "import mujoco; del mujoco.mj_forward\n"
        "from pwm.envs import dmc\n"
        "from pwm.errors import EnvError\n"
        "try:\n    dmc.build(dmc.Options(engine='dm_control'), 1, 'cpu', 0)\n"
        "except EnvError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"does not run with mujoco {mujoco.__version__} (" in done.stdout, done.stdout + done.stderr
    assert 'pip install "flow-pwm[dmc]"' in done.stdout


def test_a_closed_environment_says_so() -> None:
    env = make("pendulum-spin")
    env.close()
    env.close()
    with pytest.raises(EnvError, match="closed"):
        env.step(torch.zeros(4, 1))
