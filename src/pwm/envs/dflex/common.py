"""What the dflex tasks share: the task record, the frame map, and the free-root robots' formulas.

MuJoCo is z-up and stores quaternions as (w, x, y, z); dflex is y-up, stores (x, y, z, w), and its
models carry a root rotation of -90 degrees about x. Source: task specification, section 0.1.
All functions are batched torch expressions without host synchronisation, in the dtype and on the
device of their inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """One dflex task as pure functions of batched state.

    Attributes:
        name: short name, e.g. ``hopper``.
        model_file: file name of the MJCF model in the assets folder.
        obs_dim: width of an observation.
        act_dim: width of an action.
        episode_length: control steps (1/60 s) before truncation.
        noise_dim: how many uniform numbers one reset takes.
        observe: (qpos [N, nq], qvel [N, nv], last action [N, act_dim]) -> obs [N, obs_dim].
        reward: (pre-step obs [N, obs_dim], clipped action [N, act_dim]) -> [N]; section 0.2.
        terminated: obs [N, obs_dim] -> [N] bool.
        sample_reset: uniform noise in [-1, 1], [n, noise_dim] -> (qpos [n, nq], qvel [n, nv]);
            zeros give the noise-free start.
    """

    name: str
    model_file: str
    obs_dim: int
    act_dim: int
    episode_length: int
    noise_dim: int
    observe: Callable[[Tensor, Tensor, Tensor], Tensor]
    reward: Callable[[Tensor, Tensor], Tensor]
    terminated: Callable[[Tensor], Tensor]
    sample_reset: Callable[[Tensor], tuple[Tensor, Tensor]]


def never(obs: Tensor) -> Tensor:
    """Return [N] bool, all false: the task has no terminal states."""
    return torch.zeros(obs.shape[0], dtype=torch.bool, device=obs.device)


def reset_upright(noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return qpos [n, 2] within +-pi/2 (metres and rad alike) and qvel [n, 2] within +-0.25 per second.

    ``noise`` is [n, 4], uniform in [-1, 1]. Cart-pole and double pendulum start alike.
    """
    return math.pi / 2 * noise[:, :2], 0.25 * noise[:, 2:]


@cache
def _maps(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the frame maps as column choices and factors.

    Not as matrix products: a BLAS that splits even tiny products over threads stalls for milliseconds
    when the cores are busy.
    """
    half = math.sqrt(0.5)
    return (
        torch.tensor([0, 2, 1], device=device),
        torch.tensor([1, 1, -1], dtype=dtype, device=device),
        torch.tensor([1, 2, 3, 0], device=device),
        torch.tensor([0, 3, 2, 1], device=device),
        torch.tensor([-half, half, -half, half], dtype=dtype, device=device),
    )


def vector_to_dflex(vector: Tensor) -> Tensor:
    """Map z-up vectors [N, 3] to y-up: (u_x, u_z, -u_y)."""
    order, sign, *_ = _maps(vector.dtype, vector.device)
    return vector.index_select(1, order) * sign


def quaternion_to_dflex(quaternion: Tensor) -> Tensor:
    """Map MuJoCo root quaternions (w, a, b, c) [N, 4] to dflex (x, y, z, w), -90 degrees included.

    The result is sqrt(1/2) (a - w, b + c, c - b, w + a).
    """
    _, _, first, second, factor = _maps(quaternion.dtype, quaternion.device)
    rotated = math.sqrt(0.5) * quaternion.index_select(1, first)
    return rotated.addcmul(quaternion.index_select(1, second), factor)


def rotate(quaternion: Tensor, vectors: Tensor) -> Tensor:
    """Rotate vectors [N, k, 3] by unit quaternions (w, x, y, z) [N, 4]: body frame to world frame."""
    scalar, axis = quaternion.unsqueeze(1).split((1, 3), dim=2)
    twice = 2.0 * torch.linalg.cross(axis, vectors)
    return torch.addcmul(vectors, scalar, twice) + torch.linalg.cross(axis, twice)


@cache
def _forward_and_up(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the body's x and z axis, [1, 2, 3]."""
    return torch.tensor([[[1, 0, 0], [0, 0, 1]]], dtype=dtype, device=device)


def observe_free_root(qpos: Tensor, qvel: Tensor, last_action: Tensor, target_x: float) -> Tensor:
    """Return the observation shared by ant, ANYmal and humanoid (section 2.4).

    Args:
        qpos: [N, 7 + J], root position, root quaternion (w, x, y, z), joint angles in rad.
        qvel: [N, 6 + J], root velocity (world), angular velocity (body frame), joint rates.
        last_action: [N, J], last clipped action; zero after a reset.
        target_x: x in metres of the heading target, which lies at y = 0.

    Returns:
        [N, 13 + 3 J] in the dtype of ``qpos``: height, quaternion, M(v), M(omega), angles,
        rates x 0.1, up, heading, last action.
    """
    quaternion = qpos[:, 3:7]
    axes = _forward_and_up(qpos.dtype, qpos.device).expand(qpos.shape[0], 2, 3)
    omega, forward, up = rotate(quaternion, torch.cat((qvel[:, None, 3:6], axes), dim=1)).unbind(1)
    ahead, side = target_x - qpos[:, 0:1], qpos[:, 1:2]
    # The forward axis is deliberately not re-normalised in the plane.
    heading = (forward[:, 0:1] * ahead - forward[:, 1:2] * side) / torch.hypot(ahead, side)
    return torch.cat(
        (
            qpos[:, 2:3],
            quaternion_to_dflex(quaternion),
            vector_to_dflex(qvel[:, 0:3]),
            vector_to_dflex(omega),
            qpos[:, 7:],
            qvel[:, 6:] * 0.1,
            up[:, 2:3],
            heading,
            last_action,
        ),
        dim=1,
    )


def reset_free_root(noise: Tensor, height: float, joints: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return start states of a free-root robot (sections 2 and 2.4).

    Position +-0.1 m on all axes, rotation by +-7.5 degrees about a random axis (a normalised cube
    sample), joints +-0.2 rad, and the velocities of the dflex twist +-0.25: omega and the velocity at
    the world origin, so the root moves with v0 + omega x p.

    Args:
        noise: [n, 13 + 2 J] uniform in [-1, 1].
        height: nominal root height in metres.
        joints: nominal joint angles in rad, length J.

    Returns:
        qpos [n, 7 + J], qvel [n, 6 + J] in MuJoCo conventions.
    """
    count = len(joints)
    start, angles_at_rest, conjugate = _start(height, joints, noise.dtype, noise.device)
    shift, angle, cube, turn, twist, rates = noise.split((3, 1, 3, count, 6, count), dim=1)
    position = torch.add(start, shift, alpha=0.1)
    half = angle * (math.pi / 48)
    # A degenerate cube sample means no rotation.
    axis = cube / torch.linalg.vector_norm(cube, dim=1, keepdim=True).clamp_min(1e-9)
    quaternion = torch.cat((torch.cos(half), torch.sin(half) * axis), dim=1)
    quaternion = quaternion / torch.linalg.vector_norm(quaternion, dim=1, keepdim=True)
    omega, origin_velocity = (0.25 * twist).split((3, 3), dim=1)
    velocity = origin_velocity + torch.linalg.cross(omega, position)
    body_omega = rotate(quaternion * conjugate, omega.unsqueeze(1)).squeeze(1)
    angles = torch.add(angles_at_rest, turn, alpha=0.2)
    qpos = torch.cat((position, quaternion, angles), dim=1)
    qvel = torch.cat((velocity, body_omega, 0.25 * rates), dim=1)
    return qpos, qvel


@cache
def _start(
    height: float, joints: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nominal position [3], joint angles [J] and the signs [4] of a conjugate quaternion."""
    return (
        torch.tensor((0.0, 0.0, height), dtype=dtype, device=device),
        torch.tensor(joints, dtype=dtype, device=device),
        torch.tensor((1.0, -1.0, -1.0, -1.0), dtype=dtype, device=device),
    )


def free_root_task(
    name: str,
    reward: Callable[[Tensor, Tensor], Tensor],
    termination_height: float,
    start_height: float,
    start_joints: tuple[float, ...],
    target_x: float = 10000.0,
) -> Task:
    """Return the task of a robot with a free root and J motors, one per hinge.

    Args:
        name: of the task and of its model file.
        reward: see ``Task``.
        termination_height: root height in metres below which the episode terminates.
        start_height: nominal root height in metres after a reset.
        start_joints: nominal joint angles in rad after a reset, length J.
        target_x: see ``observe_free_root``.
    """
    joints = len(start_joints)
    return Task(
        name=name,
        model_file=f"{name}.xml",
        obs_dim=13 + 3 * joints,
        act_dim=joints,
        episode_length=1000,
        noise_dim=13 + 2 * joints,
        observe=partial(observe_free_root, target_x=target_x),
        reward=reward,
        terminated=partial(_lies_below, height=termination_height),
        sample_reset=partial(reset_free_root, height=start_height, joints=start_joints),
    )


def _lies_below(obs: Tensor, height: float) -> Tensor:
    """Return [N] bool: the root is lower than ``height``."""
    return obs[:, 0] < height
