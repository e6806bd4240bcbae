"""ANYmal C (task specification, section 2.5).

Observation (49): height, root quaternion, linear and angular velocity, 12 joint angles, 12 joint rates
x 0.1, up, heading, last action. Action (12): feed-forward torque 200 N m x a on HAA, HFE, KFE of the
legs LF, RF, LH, RH; a passive spring and damper act in parallel.
"""

from __future__ import annotations

from torch import Tensor

from pwm.envs.dflex.common import Task, free_root_noise_dim, observe_free_root, reset_free_root

TERMINATION_HEIGHT = 0.25
START_HEIGHT = 0.55
START_JOINTS = (0.03, 0.4, -0.8, -0.03, 0.4, -0.8, 0.03, -0.4, 0.8, -0.03, -0.4, 0.8)
TARGET_X = 10000.0


def observe(qpos: Tensor, qvel: Tensor, last_action: Tensor) -> Tensor:
    """Return [N, 49]."""
    return observe_free_root(qpos, qvel, last_action, TARGET_X)


def reward(obs: Tensor, action: Tensor) -> Tensor:
    """Return [N]: forward speed + 0.1 up + heading + height above termination - 0.005 |a|^2."""
    posture = 0.1 * obs[:, 35] + obs[:, 36] + (obs[:, 0] - TERMINATION_HEIGHT)
    return obs[:, 5] + posture - 0.005 * action.square().sum(1)


def terminated(obs: Tensor) -> Tensor:
    """Return [N] bool: base below 0.25 m."""
    return obs[:, 0] < TERMINATION_HEIGHT


def sample_reset(noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return qpos [n, 19], qvel [n, 18] from uniform noise [n, 37]."""
    return reset_free_root(noise, START_HEIGHT, START_JOINTS)


TASK = Task(
    name="anymal",
    model_file="anymal.xml",
    obs_dim=49,
    act_dim=12,
    episode_length=1000,
    noise_dim=free_root_noise_dim(12),
    observe=observe,
    reward=reward,
    terminated=terminated,
    sample_reset=sample_reset,
)
