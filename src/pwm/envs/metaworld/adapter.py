"""One copy of a Meta-World task as a Gymnasium environment that is seeded and can save its state."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

from pwm.envs.gym.options import Options as GymOptions
from pwm.envs.task_table import task_row
from pwm.errors import EnvError


class AdapterOptions(GymOptions):
    """Options of Gymnasium's adapter for a task, whose id is ``metaworld/<task>-v3``."""

    @property
    def task_name(self) -> str:
        """``EnvSpec.name`` of the environment."""
        return self.id.replace("/", "_").removesuffix("-v3")


class MetaworldTask(gymnasium.Env):
    """One copy of a task: two simulator steps per step, object and goal drawn anew in every episode.

    An observation [39] holds the current frame [18] (hand xyz, opening of the gripper, two objects of xyz and
    quaternion, zeros where there is no second one), the frame of the simulator step before [18] and the goal
    [3]. An episode begins with one simulator step of the zero action, and its first observation is that after
    the step: TD-MPC2 and its data begin there, too, but with the observation before the step, which is not
    that of the state in which the agent acts. ``info["is_success"]`` is the task's own judgement of the state
    that a step led to.
    Source: Yu et al. (2019), Meta-World; start of episodes as in Hansen et al. (2025), Newt.

    Args:
        task: name of the table.
        render_mode: None, or ``rgb_array`` for pictures.

    Raises:
        EnvError: metaworld does not run with the installed MuJoCo.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        row = task_row(task)
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (row.obs_dim,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (row.action_dim,), np.float32)
        self._repeat, self._width = row.action_repeat, row.action_dim
        self._world = _make_world(row.task, render_mode)
        self.dt = self._repeat * self._world.dt
        self._start = ""
        self._actions: list[np.ndarray] = []

    @property
    def mujoco_renderer(self) -> Any:
        """What draws the pictures."""
        return self._world.mujoco_renderer

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; a ``seed`` restarts the task's random stream."""
        super().reset(seed=seed)
        if seed is not None:
            self._world.seed(seed)
        # Text: the generator's 128-bit integers exceed what tensors hold.
        self._start = json.dumps(self._world.np_random.bit_generator.state)
        self._actions = []
        # Meta-World lets the hand settle before it clears the last episode's positions and velocities; from
        # here on the episode depends on the random stream alone.
        mujoco.mj_resetData(self._world.model, self._world.data)
        self._world.reset()
        observation, *_ = self._world.step(np.zeros(self._width, np.float32))
        return observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold ``action`` for two simulator steps and add up their rewards."""
        self._actions.append(np.array(action, np.float32))
        total = 0.0
        for _ in range(self._repeat):
            # Meta-World may change what it is given.
            observation, reward, _, _, info = self._world.step(self._actions[-1].copy())
            total += float(reward)
        return observation, total, False, False, {"is_success": bool(info["success"])}

    def render(self) -> np.ndarray:
        """Picture [480, 480, 3] uint8 of the present state."""
        return np.asarray(self._world.render())

    def save_state(self) -> dict[str, Any]:
        """Return how the running episode began and the actions since then.

        The package keeps the state of an episode in many places, some of them views of the simulator's
        memory; an episode depends on nothing else but these two.
        """
        actions = np.array(self._actions, np.float32).reshape(-1, self._width)
        return {"start": self._start, "actions": torch.from_numpy(actions)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Begin the saved episode again and take its actions."""
        self._world.np_random.bit_generator.state = json.loads(state["start"])
        self.reset()
        for action in state["actions"].numpy():
            self.step(action)

    def close(self) -> None:
        """Free what draws."""
        self._world.close()


def _make_world(task: str, render_mode: str | None) -> Any:
    """The package's environment of ``task``, whose every reset draws object and goal from its own stream."""
    kind = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"]
    try:
        world = kind(seed=0, render_mode=render_mode)
    except Exception as error:
        ours, its = map(importlib.metadata.version, ("mujoco", "metaworld"))
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise EnvError(
            f"metaworld {its} does not run with mujoco {ours} ({reason}); versions that run together: "
            'pip install "flow-pwm[metaworld]"'
        ) from error
    world._freeze_rand_vec = False
    world.seeded_rand_vec = True
    return world
