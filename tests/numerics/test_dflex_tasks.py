"""The dflex tasks against the numbers and formulas of the task specification (sections 0 to 2)."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest
import torch

from pwm.envs import dflex
from pwm.envs.dflex import common
from pwm.envs.dflex.env import DflexEnv
from pwm.envs.engines.mujoco_cpu import MujocoCpuEngine
from pwm.errors import EnvError

FREE_ROOT = ("ant", "anymal", "humanoid")
ROBOTS = ("hopper", *FREE_ROOT)


def model_of(task: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(dflex.ASSETS / dflex.load_task(task).model_file))


def make(task: str, num_envs: int = 4, seed: int = 0, **options: int) -> DflexEnv:
    env = dflex.build(dflex.Options(task=task, **options), num_envs, "cpu", seed)
    assert isinstance(env, DflexEnv)
    return env


def random_states(task: str, count: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return states far from rest, and actions beyond what a reset gives."""
    record = dflex.load_task(task)
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(count, record.noise_dim, generator=generator, dtype=torch.float64) * 2 - 1
    qpos, qvel = record.sample_reset(noise)
    if task in FREE_ROOT:
        quaternion = torch.randn(count, 4, generator=generator, dtype=torch.float64)
        qpos[:, 3:7] = quaternion / quaternion.norm(dim=1, keepdim=True)
        qpos[:, 2] -= 0.3 * torch.rand(count, generator=generator)
    else:
        qpos = 20 * qpos
    qvel = 10 * qvel
    return qpos, qvel, torch.rand(count, record.act_dim, generator=generator) * 2 - 1


# An independent scalar reading of the specification, one environment at a time.


def quaternion_product(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    w, v = p[0] * q[0] - p[1:] @ q[1:], p[0] * q[1:] + q[0] * p[1:] + np.cross(p[1:], q[1:])
    return np.array([w, *v])


def scalar_free_root(qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray, target: float) -> np.ndarray:
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, qpos[3:7])
    rotation = rotation.reshape(3, 3)
    turn = np.array([math.sqrt(0.5), -math.sqrt(0.5), 0, 0])
    w, x, y, z = quaternion_product(turn, qpos[3:7])
    to_dflex = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    ahead = np.array([target - qpos[0], -qpos[1], 0.0])
    heading = rotation[:, 0] @ (ahead / np.linalg.norm(ahead))
    parts = [[qpos[2]], [x, y, z, w], to_dflex @ qvel[:3], to_dflex @ (rotation @ qvel[3:6])]
    parts += [qpos[7:], 0.1 * qvel[6:], [rotation[2, 2]], [heading], action]
    return np.concatenate(parts)


def scalar_observe(task: str, q: np.ndarray, v: np.ndarray, a: np.ndarray) -> np.ndarray:
    if task == "cartpole":
        return np.array([q[0], v[0], math.sin(q[1]), math.cos(q[1]), v[1]])
    if task == "double_pendulum":
        return np.array([math.cos(q[0]), math.sin(q[0]), math.cos(q[1]), math.sin(q[1]), v[0], v[1]])
    if task == "hopper":
        return np.array([q[1], q[2], q[3], q[4], q[5], v[0], v[1], v[2], v[3], v[4], v[5]])
    return scalar_free_root(q, v, a, 200.0 if task == "humanoid" else 10000.0)


def scalar_reward(task: str, o: np.ndarray, a: np.ndarray) -> float:
    effort = float((a * a).sum())
    if task == "cartpole":
        theta = math.atan2(o[2], o[3])
        return -(theta**2) - 0.1 * o[4] ** 2 - 0.05 * o[0] ** 2 - 0.1 * o[1] ** 2
    if task == "double_pendulum":
        one, two = math.atan2(o[1], o[0]), math.atan2(o[3], o[2])
        return -(one**2) - two**2 - 0.1 * o[4] ** 2 - 0.1 * o[5] ** 2
    if task == "hopper":
        d = min(max(o[0] - (-0.45 + 0.15), -1.0), 0.3)
        return o[5] + (-200 * d * d if d < 0 else d) + 1 - (o[1] / 0.524) ** 2 - 0.1 * effort
    if task == "ant":
        return o[5] + 0.1 * o[27] + o[28] + o[0] - 0.27
    if task == "anymal":
        return o[5] + 0.1 * o[35] + o[36] + o[0] - 0.25 - 0.005 * effort
    d = min(max(o[0] - 0.74 - 0.1, -1.0), 0.1)
    return o[5] + 0.1 * o[53] + o[54] + (-200 * d * d if d < 0 else 10 * d) - 0.002 * effort


@pytest.mark.parametrize("task", dflex.TASKS)
def test_observation_and_reward_match_the_scalar_formulas(task: str) -> None:
    record = dflex.load_task(task)
    qpos, qvel, action = random_states(task)
    obs = record.observe(qpos, qvel, action)
    reward = record.reward(obs, action)
    assert obs.shape == (16, record.obs_dim)
    for i in range(16):
        expected = scalar_observe(task, qpos[i].numpy(), qvel[i].numpy(), action[i].double().numpy())
        np.testing.assert_allclose(obs[i].numpy(), expected, atol=1e-12)
        value = scalar_reward(task, expected, action[i].double().numpy())
        assert float(reward[i]) == pytest.approx(value, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("hopper", 1.30),
        ("ant", 1.58),
        ("anymal", 1.40),
        ("humanoid", 2.10),
        ("cartpole", 0.0),
        ("double_pendulum", 0.0),
    ],
)
def test_first_reward_of_a_noise_free_reset(task: str, expected: float) -> None:
    record = dflex.load_task(task)
    qpos, qvel = record.sample_reset(torch.zeros(1, record.noise_dim, dtype=torch.float64))
    still = torch.zeros(1, record.act_dim, dtype=torch.float64)
    obs = record.observe(qpos, qvel, still)
    assert float(record.reward(obs, still)) == pytest.approx(expected, abs=1e-6)
    if task in FREE_ROOT:
        # Rest value of the root quaternion, section 2.4.
        assert obs[0, 1:5].tolist() == pytest.approx([-math.sqrt(0.5), 0, 0, math.sqrt(0.5)])


@pytest.mark.parametrize("task", dflex.TASKS)
def test_reward_uses_the_observation_before_the_step(task: str) -> None:
    env = make(task, seed=1)
    obs = env.reset(seed=2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        action = 4 * torch.rand(4, env.spec.act_dim, generator=generator) - 2
        result = env.step(action)
        assert torch.equal(result.reward, env.task.reward(obs, action.clamp(-1, 1)))
        obs = result.obs


@pytest.mark.parametrize(
    ("task", "where", "limit"),
    [("hopper", 0, -0.45), ("ant", 0, 0.27), ("anymal", 0, 0.25), ("humanoid", 0, 0.74)],
)
def test_termination_is_the_height_limit(task: str, where: int, limit: float) -> None:
    record = dflex.load_task(task)
    obs = torch.zeros(2, record.obs_dim)
    obs[:, where] = torch.tensor([limit - 1e-4, limit + 1e-4])
    assert record.terminated(obs).tolist() == [True, False]


@pytest.mark.parametrize("task", ["cartpole", "double_pendulum"])
def test_pendula_never_terminate(task: str) -> None:
    record = dflex.load_task(task)
    assert not record.terminated(torch.full((3, record.obs_dim), -1e5)).any()
    assert record.episode_length == 240


@pytest.mark.parametrize("task", FREE_ROOT)
def test_last_action_is_observed_and_zero_after_a_reset(task: str) -> None:
    env = make(task, episode_length=3)
    width = env.spec.act_dim
    assert not env.reset(seed=0)[:, -width:].any()
    for _ in range(3):
        result = env.step(torch.full((4, width), 2.0))
    assert (result.final_obs[:, -width:] == 1.0).all()
    assert bool(result.truncated.all())
    assert not result.obs[:, -width:].any()


def test_quaternion_map_is_the_rotation_by_minus_90_degrees_about_x() -> None:
    quaternion = torch.randn(32, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    quaternion /= quaternion.norm(dim=1, keepdim=True)
    mapped = common.quaternion_to_dflex(quaternion)
    vectors = torch.randn(32, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # Rotating by the mapped quaternion equals rotating in z-up and mapping the vector afterwards.
    reordered = mapped[:, [3, 0, 1, 2]]
    direct = common.rotate(reordered, vectors.unsqueeze(1)).squeeze(1)
    expected = common.vector_to_dflex(common.rotate(quaternion, vectors.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(direct, expected, atol=1e-12, rtol=0)
    assert mapped.norm(dim=1).tolist() == pytest.approx([1.0] * 32)


@pytest.mark.parametrize("task", FREE_ROOT)
def test_reset_distribution_of_free_roots(task: str) -> None:
    record = dflex.load_task(task)
    noise = torch.rand(4000, record.noise_dim, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    qpos, qvel = record.sample_reset(noise)
    start, still = record.sample_reset(torch.zeros(1, record.noise_dim, dtype=torch.float64))
    assert not still.any()
    assert start[0, 3:7].tolist() == [1, 0, 0, 0]
    spread = (qpos - start).abs()
    for columns, width in ((slice(0, 3), 0.1), (slice(7, None), 0.2)):
        assert 0.98 * width < float(spread[:, columns].max()) <= width
    angle = 2 * torch.rad2deg(torch.acos(qpos[:, 3].clamp(max=1)))
    assert 7.4 < float(angle.max()) <= 7.5 + 1e-9
    # Twist convention: v0 = v - omega x p and omega (world frame) are uniform within 0.25.
    omega = common.rotate(qpos[:, 3:7], qvel[:, None, 3:6]).squeeze(1)
    origin = qvel[:, :3] - torch.linalg.cross(omega, qpos[:, :3])
    for velocity in (omega, origin, qvel[:, 6:]):
        assert 0.245 < float(velocity.abs().max()) <= 0.25 + 1e-12


def test_start_poses() -> None:
    poses = {"ant": 0.75, "anymal": 0.55, "humanoid": 1.35}
    for task, height in poses.items():
        record = dflex.load_task(task)
        qpos, _ = record.sample_reset(torch.zeros(1, record.noise_dim, dtype=torch.float64))
        assert float(qpos[0, 2]) == height
    qpos, _ = dflex.load_task("ant").sample_reset(torch.zeros(1, 29, dtype=torch.float64))
    assert qpos[0, 7:].tolist() == [0, 1, 0, -1, 0, -1, 0, 1]
    qpos, _ = dflex.load_task("anymal").sample_reset(torch.zeros(1, 37, dtype=torch.float64))
    assert qpos[0, 7:].tolist() == [0.03, 0.4, -0.8, -0.03, 0.4, -0.8, 0.03, -0.4, 0.8, -0.03, -0.4, 0.8]


# What MuJoCo's XML reference (4.0) calls deprecated or legacy, or no longer has, as (element, attribute).
DEPRECATED = {
    ("compiler", "coordinate"),
    ("compiler", "settotalmass"),
    ("light", "directional"),
    ("option", "apirate"),
    ("option", "collision"),
    ("size", "nconmax"),
    ("size", "njmax"),
    ("size", "nstack"),
    ("statistic", "meaninertia"),
}


@pytest.mark.parametrize("task", dflex.TASKS)
def test_models_are_of_the_current_format(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = ElementTree.parse(dflex.ASSETS / dflex.load_task(task).model_file).getroot()
    used = {(element.tag, name) for element in root.iter() for name in element.attrib}
    assert not used & DEPRECATED
    # MuJoCo warns on the console and in a file of the working directory.
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model_of(task)
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""
    assert not list(tmp_path.iterdir())


# Numbers of the compiled models.


@pytest.mark.parametrize(
    ("task", "total"), [("hopper", 15.82), ("ant", 182.18), ("anymal", 37.25), ("humanoid", 40.84)]
)
def test_total_masses(task: str, total: float) -> None:
    assert float(model_of(task).body_mass.sum()) == pytest.approx(total, abs=0.006)


def test_single_masses() -> None:
    assert model_of("hopper").body_mass[1:] == pytest.approx([3.665, 4.058, 2.781, 5.316], abs=1e-3)
    assert model_of("cartpole").body_mass[1:] == pytest.approx([50.0, 2.5])
    assert model_of("double_pendulum").body_mass[1:] == pytest.approx([2.5, 2.5])
    assert model_of("ant").body_mass[1:4] == pytest.approx([96.78, 7.83, 13.52], abs=0.01)
    anymal = model_of("anymal")
    assert anymal.body_mass[1:4] == pytest.approx([27.75, 2.262, 0.113], abs=0.005)
    humanoid = model_of("humanoid")
    expected = [8.91, 2.26, 6.62, *[4.75, 2.76, 1.13] * 2, *[1.66, 1.23] * 2]
    assert humanoid.body_mass[1:] == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(("task", "points"), [("hopper", 8), ("ant", 25), ("anymal", 14), ("humanoid", 35)])
def test_number_of_contact_points(task: str, points: int) -> None:
    model = model_of(task)
    per_shape = {
        mujoco.mjtGeom.mjGEOM_SPHERE: 1,
        mujoco.mjtGeom.mjGEOM_CAPSULE: 2,
        mujoco.mjtGeom.mjGEOM_PLANE: 0,
    }
    assert sum(per_shape[mujoco.mjtGeom(kind)] for kind in model.geom_type) == points


@pytest.mark.parametrize("task", ROBOTS)
def test_robots_touch_the_ground_only(task: str) -> None:
    model = model_of(task)
    floor = model.geom("floor").id
    for one in range(model.ngeom):
        for two in range(one + 1, model.ngeom):
            touches = (model.geom_contype[one] & model.geom_conaffinity[two]) or (
                model.geom_contype[two] & model.geom_conaffinity[one]
            )
            assert bool(touches) == (floor in (one, two))
    friction = 0.9 if task == "hopper" else 0.75
    assert (model.geom_friction[:, 0] == friction).all()
    assert (model.geom_condim == 3).all()


@pytest.mark.parametrize("task", ["cartpole", "double_pendulum"])
def test_pendula_touch_nothing(task: str) -> None:
    model = model_of(task)
    moving = model.geom_bodyid > 0
    assert not model.geom_contype[moving].any()
    assert not model.geom_conaffinity[moving].any()


HUMANOID_LEG = [10, 10, 20, 5, 2, 2], [15, 15, 15, 10.1, 11, 11], [70, 70, 210, 140, 35, 35]
HUMANOID_ARM = [10, 10, 2], [15, 15, 11], [35, 35, 70]


def humanoid_column(column: int, trunk: list[float]) -> list[float]:
    return trunk + 2 * list(HUMANOID_LEG[column]) + 2 * list(HUMANOID_ARM[column])


@pytest.mark.parametrize(
    ("task", "damping", "armature", "gear", "stiffness"),
    [
        ("cartpole", [1, 1], [0.1] * 2, [1000], [0, 0]),
        ("double_pendulum", [1, 1], [0.1] * 2, [1000], [0, 0]),
        ("hopper", [10] * 3 + [12] * 3, [1.0] * 6, [200] * 3, [0] * 6),
        ("ant", [11] * 8, [0.05] * 8, [200] * 8, [0] * 8),
        ("anymal", [12] * 12, [0.006] * 12, [200] * 12, [85] * 12),
        (
            "humanoid",
            humanoid_column(1, [15, 15, 15]),
            [0.02, *[0.01] * 2, *[0.01, 0.01, 0.01, 0.007, 0.006, 0.006] * 2, *[0.01, 0.01, 0.006] * 2],
            humanoid_column(2, [70, 70, 70]),
            humanoid_column(0, [20, 20, 10]),
        ),
    ],
)
def test_joint_parameters(
    task: str, damping: list[float], armature: list[float], gear: list[float], stiffness: list[float]
) -> None:
    model = model_of(task)
    free = 6 if task in FREE_ROOT else 0
    assert model.dof_damping[free:] == pytest.approx(damping)
    assert model.dof_armature[free:] == pytest.approx(armature)
    assert not model.dof_damping[:free].any()
    assert not model.dof_armature[:free].any()
    assert model.jnt_stiffness[1 if free else 0 :] == pytest.approx(stiffness)
    assert not model.qpos_spring[7 if free else 0 :].any()
    assert model.actuator_gear[:, 0] == pytest.approx(gear)
    assert (model.actuator_ctrlrange == [-1, 1]).all()
    assert model.actuator_ctrllimited.all()
    # Actions are in joint order.
    driven = list(model.actuator_trnid[:, 0])
    assert driven == sorted(driven)
    assert driven[-1] == model.njnt - (task == "cartpole") - 1
    assert model.opt.gravity.tolist() == [0, 0, -9.81]


HINGE_RANGES = {
    "hopper": [(-150, 0), (-150, 0), (-45, 45)],
    "ant": [(-40, 40), (30, 100), (-40, 40), (-100, -30), (-40, 40), (-100, -30), (-40, 40), (30, 100)],
    "humanoid": [
        *[(-45, 45), (-75, 30), (-35, 35)],
        *[(-25, 5), (-60, 35), (-80, 20), (-160, 2), (-50, 50), (-50, 50)] * 2,
        *[(-60, 60), (-60, 60), (-90, 50)] * 2,
    ],
}


@pytest.mark.parametrize("task", sorted(HINGE_RANGES))
def test_joint_ranges(task: str) -> None:
    model = model_of(task)
    joints = model.actuator_trnid[:, 0]
    np.testing.assert_allclose(model.jnt_range[joints], np.radians(HINGE_RANGES[task]), atol=1e-4)
    # Only the ant has MuJoCo's own limits (assets/README.md says why).
    assert (model.jnt_limited[joints] == (task == "ant")).all()


@pytest.mark.parametrize("task", ["hopper", "humanoid"])
def test_joint_ranges_are_springs_of_the_specified_stiffness(task: str) -> None:
    model = model_of(task)
    joints = model.actuator_trnid[:, 0]
    expected = np.radians(HINGE_RANGES[task])
    np.testing.assert_allclose(model.tendon_lengthspring, expected, atol=1e-4)
    assert (model.tendon_stiffness == 1000).all()
    data = mujoco.MjData(model)
    for joint, (low, high) in zip(joints, model.jnt_range[joints], strict=True):
        where, dof = model.jnt_qposadr[joint], model.jnt_dofadr[joint]
        spring = model.jnt_stiffness[joint]
        for angle, limit in ((high + 0.1, -100.0), (low - 0.1, 100.0), (0.5 * (low + high), 0.0)):
            mujoco.mj_resetData(model, data)
            data.qpos[where] = angle
            mujoco.mj_forward(model, data)
            assert data.qfrc_passive[dof] == pytest.approx(limit - spring * angle, abs=1e-2)


def test_cartpole_rail_ends_push_back() -> None:
    model = model_of("cartpole")
    data = mujoco.MjData(model)
    data.qpos[0] = 4.5
    mujoco.mj_forward(model, data)
    assert data.qfrc_passive[0] == pytest.approx(-50.0)


def test_double_pendulum_pivots_at_the_shoulder() -> None:
    model = model_of("double_pendulum")
    assert not model.body_pos[2].any()
    assert model.jnt_axis.tolist() == [[0, 1, 0], [0, 1, 0]]


def test_anymal_feet_are_where_the_specification_puts_them() -> None:
    model = model_of("anymal")
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    base = np.array([0, 0, 0.55])
    for leg, x, y in (("LF", 1, 1), ("RF", 1, -1), ("LH", -1, 1), ("RH", -1, -1)):
        foot = np.array([0.2999 + 0.0599 + 0.08795, 0.104 + 0.08381 + 0.1003 + 0.01305, 0])
        expected = foot * [x, y, 0] + [0, 0, -0.285 - 0.33797 + 0.0225] + base
        np.testing.assert_allclose(data.geom(f"{leg}_foot").xpos, expected, atol=1e-9)
        shoulder = np.array([0.2999 * x, 0.104 * y, 0]) + base
        np.testing.assert_allclose(data.joint(f"{leg}_HAA").xanchor, shoulder, atol=1e-9)
    record = dflex.load_task("anymal")
    qpos, _ = record.sample_reset(torch.zeros(1, record.noise_dim, dtype=torch.float64))
    data.qpos[:] = qpos[0].numpy()
    mujoco.mj_kinematics(model, data)
    clearance = min(data.geom(f"{leg}_foot").xpos[2] - 0.03 for leg in ("LF", "RF", "LH", "RH"))
    assert clearance == pytest.approx(0.007, abs=0.002)


@pytest.mark.parametrize(("task", "clearance"), [("ant", 0.19), ("humanoid", 0.065), ("hopper", 0.04)])
def test_clearance_of_the_nominal_start(task: str, clearance: float) -> None:
    model, record = model_of(task), dflex.load_task(task)
    data = mujoco.MjData(model)
    qpos, _ = record.sample_reset(torch.zeros(1, record.noise_dim, dtype=torch.float64))
    data.qpos[:] = qpos[0].numpy()
    mujoco.mj_kinematics(model, data)
    lowest = math.inf
    for geom in range(model.ngeom):
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE:
            continue
        length = model.geom_size[geom, 1] if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE else 0
        drop = abs(data.geom_xmat[geom].reshape(3, 3)[2, 2]) * length + model.geom_size[geom, 0]
        lowest = min(lowest, data.geom_xpos[geom, 2] - drop)
    assert lowest == pytest.approx(clearance, abs=0.004)


@pytest.mark.parametrize(
    ("task", "millimetres"), [("hopper", 4), ("ant", 11), ("anymal", 46), ("humanoid", 2.5)]
)
def test_static_sag(task: str, millimetres: float) -> None:
    """A robot held in its start pose sinks about as far into the ground as the benchmark's does."""
    model, record = model_of(task), dflex.load_task(task)
    data = mujoco.MjData(model)
    qpos, _ = record.sample_reset(torch.zeros(1, record.noise_dim, dtype=torch.float64))
    data.qpos[:] = qpos[0].numpy()
    first = 2 if task == "hopper" else 1
    model.jnt_stiffness[first:] = 2e4
    model.dof_damping[first if task == "hopper" else 6 :] = 200
    model.qpos_spring[:] = data.qpos
    for _ in range(720):
        mujoco.mj_step(model, data)
    sag = -1000 * np.mean([contact.dist for contact in data.contact])
    assert 0.6 * millimetres < sag < 1.5 * millimetres


# Engine and environment.


def test_time_step_divides_the_control_step_exactly() -> None:
    for substeps in (1, 4, 16):
        engine = MujocoCpuEngine(dflex.ASSETS / "hopper.xml", 2, substeps, 1)
        assert engine.model.opt.timestep == (1 / 60) / substeps
        engine.close()


def test_engine_matches_single_steps_of_mujoco() -> None:
    record = dflex.load_task("ant")
    engine = MujocoCpuEngine(dflex.ASSETS / "ant.xml", 3, 4, 2)
    noise = torch.rand(3, record.noise_dim, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    qpos, qvel = record.sample_reset(noise)
    qpos[:, 2] -= 0.3
    ctrl = torch.rand(3, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    new_qpos, new_qvel = engine.step(qpos, qvel, ctrl)
    data = mujoco.MjData(engine.model)
    for i in range(3):
        mujoco.mj_resetData(engine.model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = qpos[i].numpy(), qvel[i].numpy(), ctrl[i].numpy()
        mujoco.mj_step(engine.model, data, 4)
        np.testing.assert_array_equal(new_qpos[i].numpy(), data.qpos)
        np.testing.assert_array_equal(new_qvel[i].numpy(), data.qvel)


def test_engine_is_a_pure_function() -> None:
    record = dflex.load_task("humanoid")
    results = []
    qpos, qvel = record.sample_reset(torch.zeros(5, record.noise_dim, dtype=torch.float64))
    qpos[:, 2] -= 0.06
    ctrl = torch.rand(5, 21, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for threads in (1, 2, 3):
        engine = MujocoCpuEngine(dflex.ASSETS / "humanoid.xml", 5, 4, threads)
        first = engine.step(qpos, qvel, ctrl)
        kept = [value.clone() for value in first]
        engine.step(qpos, -10 * qvel + 3, -ctrl)
        assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
        results += [first, engine.step(qpos, qvel, ctrl)]
        engine.close()
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        assert torch.equal(results[0][1], other[1])


def test_engine_reports_misuse() -> None:
    with pytest.raises(EnvError, match="substeps=0"):
        MujocoCpuEngine(dflex.ASSETS / "hopper.xml", 1, 0)
    with pytest.raises(EnvError, match="cannot compile"):
        MujocoCpuEngine("<mujoco><worldbody><geom/></worldbody></mujoco>", 1, 4)
    engine = MujocoCpuEngine(dflex.ASSETS / "hopper.xml", 1, 4)
    engine.close()
    engine.close()
    with pytest.raises(EnvError, match="closed"):
        engine.step(torch.zeros(1, 6), torch.zeros(1, 6), torch.zeros(1, 3))


@pytest.mark.parametrize("task", ["hopper", "ant"])
def test_trajectories_do_not_depend_on_the_thread_count(task: str) -> None:
    runs = []
    for threads in (1, 2, 3):
        env = make(task, num_envs=7, num_threads=threads)
        generator = torch.Generator().manual_seed(0)
        runs.append([env.step(torch.randn(7, env.spec.act_dim, generator=generator)) for _ in range(60)])
        env.close()
    for run in runs[1:]:
        for first, other in zip(runs[0], run, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("task", dflex.TASKS)
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e7])
def test_invalid_states_terminate_without_reward(task: str, value: float) -> None:
    env = make(task)
    action = torch.full((4, env.spec.act_dim), 0.1)
    before = env.step(action).obs
    engine_step = env.engine.step

    def blow_up(
        qpos: torch.Tensor, qvel: torch.Tensor, ctrl: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        qpos, qvel = engine_step(qpos, qvel, ctrl)
        qvel[2, -1] = value
        return qpos, qvel

    env.engine.step = blow_up
    result = env.step(action)
    assert result.terminated.tolist() == [False, False, True, False]
    assert not result.truncated.any()
    assert result.reward[2] == 0
    assert torch.equal(result.final_obs[2], before[2])
    assert torch.isfinite(result.obs).all()
    assert not torch.equal(result.obs[2], before[2])
    assert env.invalid_states == 1
    assert env.state_dict()["invalid_states"] == 1
    env.engine.step = engine_step
    assert not env.step(action).terminated.any()


def test_a_blow_up_inside_mujoco_is_visible() -> None:
    engine = MujocoCpuEngine(dflex.ASSETS / "hopper.xml", 2, 4, 1)
    qvel = torch.zeros(2, 6, dtype=torch.float64)
    qvel[1, 3] = 1e9
    qpos, qvel = engine.step(torch.zeros(2, 6, dtype=torch.float64), qvel, torch.zeros(2, 3))
    size = torch.cat((qpos, qvel), dim=1).abs().amax(1)
    # With MuJoCo's automatic reset this would come back as the rest pose.
    assert size[0] < 10
    assert not bool(size[1] <= 1e6)


def test_termination_on_the_last_step_is_not_a_truncation() -> None:
    env = make("hopper", episode_length=5)
    for _ in range(4):
        env.step(torch.zeros(4, 3))
    env._qpos[1, 1] = -0.6
    result = env.step(torch.zeros(4, 3))
    assert result.terminated.tolist() == [False, True, False, False]
    assert result.truncated.tolist() == [True, False, True, True]


def zero_action_episodes(task: str, num_envs: int) -> tuple[float, float]:
    """Return mean return and length of one whole episode per environment without acting."""
    env = make(task, num_envs=num_envs)
    alive = torch.ones(num_envs, dtype=torch.bool)
    total, length = torch.zeros(num_envs), torch.zeros(num_envs)
    while bool(alive.any()):
        result = env.step(torch.zeros(num_envs, env.spec.act_dim))
        total += result.reward * alive
        length += alive
        alive &= ~(result.terminated | result.truncated)
    return float(total.mean()), float(length.mean())


@pytest.mark.parametrize(
    ("task", "total", "length", "tolerance"),
    [
        ("hopper", 165, 180, 45),
        ("ant", 1150, 1000, 40),
        ("anymal", 1202, 1000, 10),
        ("humanoid", 115, 55, 25),
    ],
)
def test_zero_action_returns(task: str, total: float, length: float, tolerance: float) -> None:
    """Guards the physics as a whole; the figures are those of 64 episodes at 4 and at 16 substeps."""
    mean, steps = zero_action_episodes(task, num_envs=24)
    assert mean == pytest.approx(total, abs=tolerance)
    assert steps == pytest.approx(length, rel=0.25)
