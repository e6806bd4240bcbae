"""ANYmal C (task specification, section 2.5).

Observation (49): height, root quaternion, linear and angular velocity, 12 joint angles, 12 joint rates
x 0.1, up, heading, last action. Action (12): feed-forward torque 200 N m x a on HAA, HFE, KFE of the
legs LF, RF, LH, RH; a passive spring and damper act in parallel.
"""

from __future__ import annotations

from torch import Tensor

from pwm.envs.dflex.common import free_root_task

TERMINATION_HEIGHT = 0.25


def reward(obs: Tensor, action: Tensor) -> Tensor:
    """Return [N]: forward speed + 0.1 up + heading + height above termination - 0.005 |a|^2."""
    posture = 0.1 * obs[:, 35] + obs[:, 36] + (obs[:, 0] - TERMINATION_HEIGHT)
    return obs[:, 5] + posture - 0.005 * action.square().sum(1)


TASK = free_root_task(
    "anymal",
    reward,
    TERMINATION_HEIGHT,
    start_height=0.55,
    start_joints=(0.03, 0.4, -0.8, -0.03, 0.4, -0.8, 0.03, -0.4, 0.8, -0.03, -0.4, 0.8),
)
