"""Lets the agents of Stable-Baselines3 and sbx act in this project's environments.

Needs the extra ``baselines``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnv

from pwm.envs.base import VectorEnv


class VecEnvAdapter(VecEnv):
    """A ``VectorEnv`` on the CPU as a vectorised environment of Stable-Baselines3.

    Observations, rewards and the action range [-1, 1] stay as they are. A time limit is reported as
    ``TimeLimit.truncated`` together with the true last observation, so that agents bootstrap from it; after a
    termination they do not.

    Args:
        env: the environment; closing the adapter closes it.
    """

    def __init__(self, env: VectorEnv) -> None:
        self._env = env
        # VecEnv asks for this attribute while it is set up.
        self.render_mode = None
        observations = Box(-np.inf, np.inf, (env.spec.obs_dim,), np.float32)
        actions = Box(-1.0, 1.0, (env.spec.act_dim,), np.float32)
        super().__init__(env.num_envs, observations, actions)

    def reset(self) -> np.ndarray:
        """Start new episodes everywhere, seeded if ``seed`` was called before. Returns obs [N, O]."""
        first = self._seeds[0]
        self._reset_seeds()
        return self._env.reset(first).numpy().copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Keep ``actions`` [N, A] for ``step_wait``."""
        self._actions = torch.from_numpy(np.asarray(actions, dtype=np.float32))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step. Returns obs [N, O], rewards [N], whether episodes ended [N], and one dict per environment."""
        result = self._env.step(self._actions)
        terminated = result.terminated.numpy()
        truncated = result.truncated.numpy() & ~terminated
        ended = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(ended):
            infos[i]["TimeLimit.truncated"] = bool(truncated[i])
            infos[i]["terminal_observation"] = result.final_obs[i].numpy().copy()
        # Copies: on-policy agents add the value of truncated episodes to the rewards in place.
        return result.obs.numpy().copy(), result.reward.numpy().copy(), ended, infos

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The adapter's own attribute, once per chosen environment: the copies have none of their own."""
        return [getattr(self, attr_name)] * len(self._chosen(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: the copies have no attributes of their own."""
        raise AttributeError(f"cannot set {attr_name!r}: the copies of a VectorEnv have no attributes")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Refused: the copies have no methods of their own."""
        raise AttributeError(f"cannot call {method_name!r}: the copies of a VectorEnv have no methods")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Whether each chosen environment is wrapped: never."""
        return [False] * len(self._chosen(indices))

    def _chosen(self, indices: Any) -> Sequence[int]:
        return list(self._get_indices(indices))
