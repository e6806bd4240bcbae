"""Adapter to every Gymnasium environment with a continuous (Box) action and a Box observation.

Actions are given in [-1, 1] and rescaled to the bounds of the action space; observations are
flattened to float32.
"""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pwm.envs.base import EnvSpec, StepResult, VectorEnv, check_action
from pwm.envs.engines.opengl import choose_backend
from pwm.errors import ConfigError, EnvError

VECTORIZATIONS = ("sync", "async")
INSTALL_HINT = "install it with: pip install 'gymnasium[mujoco,classic-control]'"
# Wrappers that hold no state besides the time limit's counter, so that saving an environment is exact.
PLAIN_WRAPPERS = ("TimeLimit", "OrderEnforcing", "PassiveEnvChecker")


@dataclass
class Options:
    """Configuration of a Gymnasium environment.

    Attributes:
        id: registered id, e.g. ``Pendulum-v1`` or ``HalfCheetah-v5``.
        kwargs: passed to the environment's constructor.
        episode_length: steps before truncation; None takes the registered limit.
        vectorization: ``sync`` (one process; its state can be saved) or ``async`` (one process each).

    Raises:
        ConfigError: a value is not allowed.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    episode_length: int | None = None
    vectorization: str = "sync"

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ConfigError(f"env.id={self.id!r}: must be a Gymnasium id such as Pendulum-v1")
        length = self.episode_length
        if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
            raise ConfigError(f"env.episode_length={length!r}: must be a positive integer, or null")
        if self.vectorization not in VECTORIZATIONS:
            raise ConfigError(
                f"env.vectorization={self.vectorization!r}: choose one of: {', '.join(VECTORIZATIONS)}"
            )
        self.kwargs = dict(self.kwargs)


class GymEnv:
    """N copies of a Gymnasium environment with same-step auto-reset; see ``VectorEnv``."""

    def __init__(self, options: Options, num_envs: int, device: torch.device, seed: int) -> None:
        """Build and reset with ``seed``.

        Raises:
            EnvError: unknown id, missing dependency, or unsupported spaces.
        """
        self.num_envs = num_envs
        self.device = device
        self._options = options
        self._drawn = False
        self._env = _make(options, num_envs)
        self._synchronous = options.vectorization == "sync"
        try:
            self._low, high = _action_bounds(options.id, self._env.single_action_space)
            self.spec = _spec(options, self._env)
        except EnvError:
            self._env.close()
            raise
        self._scale = (high - self._low) * 0.5
        self._action_shape = self._env.action_space.shape
        self.reset(seed)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes everywhere; see ``VectorEnv.reset``. Returns [N, obs_dim] float32."""
        # Spread seeds: consecutive integers would share streams between runs with consecutive seeds.
        seeds = None
        if seed is not None:
            seeds = [int(word) for word in np.random.SeedSequence(seed).generate_state(self.num_envs)]
        obs, _ = self._env.reset(seed=seeds)
        return self._tensor(obs)

    def step(self, action: Tensor) -> StepResult:
        """Advance every copy by one control step; see ``VectorEnv.step``.

        Raises:
            ActionError: wrong shape or a non-finite entry.
        """
        check_action(action, self.num_envs, self.spec.act_dim)
        unit = action.detach().to("cpu", torch.float32).clamp(-1.0, 1.0).numpy()
        scaled = self._low + (unit + 1.0) * self._scale
        obs, reward, terminated, truncated, info = self._env.step(scaled.reshape(self._action_shape))
        final = np.array(obs, dtype=np.float32).reshape(self.num_envs, -1)
        if "final_obs" in info:
            for i in np.flatnonzero(info["_final_obs"]):
                final[i] = np.asarray(info["final_obs"][i], dtype=np.float32).ravel()
        return StepResult(
            self._tensor(obs),
            torch.tensor(reward, dtype=torch.float32, device=self.device),
            torch.tensor(terminated, dtype=torch.bool, device=self.device),
            torch.tensor(truncated & ~terminated, dtype=torch.bool, device=self.device),
            torch.from_numpy(final).to(self.device),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every copy; see ``VectorEnv.state_dict``.

        Raises:
            EnvError: the copies run in other processes, or are neither MuJoCo nor classic-control
                environments of Gymnasium.
        """
        return {"name": self.spec.name, "envs": [_save(env) for env in self._copies()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            EnvError: the state belongs to another task or number of copies, or cannot be restored.
        """
        copies = self._copies()
        if state["name"] != self.spec.name:
            raise EnvError(f"state of {state['name']!r} cannot be loaded into {self.spec.name!r}")
        if len(state["envs"]) != len(copies):
            raise EnvError(f"state holds {len(state['envs'])} environments, expected {len(copies)}")
        for env, saved in zip(copies, state["envs"], strict=True):
            _load(env, saved)

    def start_rendering(self) -> None:
        """Make all copies anew, in this process and with pictures; see ``pwm.envs.base.Renderable``.

        Raises:
            EnvError: the environment makes no pictures, or a package or OpenGL is missing.
        """
        options = self._options
        drawn = replace(options, vectorization="sync", kwargs={**options.kwargs, "render_mode": "rgb_array"})
        _quiet_pygame()
        self._env.close()
        self._env, self._synchronous = _make(drawn, self.num_envs), True
        if "rgb_array" not in (self._env.metadata.get("render_modes") or ()):
            raise EnvError(f"{options.id} has no render mode rgb_array: it cannot be drawn")
        if hasattr(self._env.envs[0].unwrapped, "mujoco_renderer"):
            choose_backend()
        self._drawn = True
        self.reset(0)
        self.render(0)

    def render(self, index: int) -> np.ndarray:
        """Picture [height, width, 3] uint8 of copy ``index``; see ``pwm.envs.base.Renderable``."""
        if not self._drawn:
            raise EnvError(f"{self.spec.name}: call start_rendering before render")
        from gymnasium.error import DependencyNotInstalled

        try:
            picture = self._env.envs[index].render()
        except DependencyNotInstalled as error:
            raise EnvError(f"drawing {self._options.id}: {error}; {INSTALL_HINT}") from error
        return np.asarray(picture, dtype=np.uint8)

    def close(self) -> None:
        """Close every copy."""
        self._env.close()

    def _copies(self) -> list[Any]:
        if not self._synchronous:
            raise EnvError("environments in other processes cannot save state; use env.vectorization=sync")
        return list(self._env.envs)

    def _tensor(self, obs: np.ndarray) -> Tensor:
        flat = np.array(obs, dtype=np.float32).reshape(self.num_envs, -1)
        return torch.from_numpy(flat).to(self.device)


def _quiet_pygame() -> None:
    """Keep pygame, which draws the classic-control environments, from greeting and from missing a display."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _make(options: Options, num_envs: int) -> Any:
    try:
        import gymnasium
        from gymnasium.vector import AutoresetMode
    except ImportError as error:
        raise EnvError(f"environment 'gym' needs the gymnasium package; {INSTALL_HINT}") from error
    kwargs = dict(options.kwargs)
    if options.episode_length is not None:
        kwargs["max_episode_steps"] = options.episode_length
    try:
        return gymnasium.make_vec(
            options.id,
            num_envs=num_envs,
            vectorization_mode=options.vectorization,
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            **kwargs,
        )
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvError(f"{options.id} needs a missing package: {error}; {INSTALL_HINT}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        ids = sorted(gymnasium.registry)
        by_lower = {name.lower(): name for name in ids}
        close = difflib.get_close_matches(options.id.lower(), by_lower, n=5, cutoff=0.5)
        matches = ", ".join(by_lower[name] for name in close) or "none"
        message = f"cannot make Gymnasium id {options.id!r}: {error} Close matches: {matches}"
        raise EnvError(message) from error
    except TypeError as error:
        raise EnvError(f"{options.id} does not accept env.kwargs={options.kwargs!r}: {error}") from error


def _action_bounds(name: str, space: Any) -> tuple[np.ndarray, np.ndarray]:
    from gymnasium.spaces import Box

    if not isinstance(space, Box):
        raise EnvError(
            f"{name} has action space {space}; only continuous (Box) actions are supported, "
            "discrete ones are not"
        )
    low, high = space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise EnvError(f"{name} has unbounded actions {space}; they cannot be rescaled from [-1, 1]")
    return low, high


def _spec(options: Options, env: Any) -> EnvSpec:
    length = options.episode_length or env.spec.max_episode_steps
    if length is None:
        raise EnvError(f"{options.id} has no time limit; set env.episode_length")
    return EnvSpec(
        name=f"gym_{options.id}",
        obs_dim=_obs_dim(options.id, env.single_observation_space),
        act_dim=int(np.prod(env.single_action_space.shape)),
        episode_length=int(length),
        control_dt=_control_dt(env),
    )


def _obs_dim(name: str, space: Any) -> int:
    from gymnasium.spaces import Box

    if not isinstance(space, Box):
        raise EnvError(f"{name} has observation space {space}; only Box observations are supported")
    return int(np.prod(space.shape))


def _control_dt(env: Any) -> float:
    """Return seconds per control step where the environment states them, else 0."""
    copies = getattr(env, "envs", None)
    dt = getattr(copies[0].unwrapped, "dt", 0.0) if copies else 0.0
    return float(dt) if isinstance(dt, (int, float)) else 0.0


def _family(env: Any) -> str:
    """Return ``mujoco`` or ``classic_control``; raise EnvError where saving would not be exact."""
    layer = env
    while layer is not env.unwrapped:
        if type(layer).__name__ not in PLAIN_WRAPPERS:
            raise EnvError(f"state saving does not know the wrapper {type(layer).__name__}")
        layer = layer.env
    module = type(env.unwrapped).__module__
    for family in ("mujoco", "classic_control"):
        if module.startswith(f"gymnasium.envs.{family}."):
            return family
    raise EnvError(
        f"the state of {type(env.unwrapped).__name__} cannot be saved; only Gymnasium's MuJoCo and "
        "classic-control environments can"
    )


def _time_limit(env: Any) -> Any:
    """Return the wrapper that counts steps, or None."""
    layer = env
    while layer is not env.unwrapped:
        if type(layer).__name__ == "TimeLimit":
            return layer
        layer = layer.env
    return None


def _save(env: Any) -> dict[str, Any]:
    family, core, limit = _family(env), env.unwrapped, _time_limit(env)
    saved: dict[str, Any] = {
        "family": family,
        # Text: the generator's 128-bit integers exceed what tensors hold.
        "random": json.dumps(core.np_random.bit_generator.state),
        "elapsed": 0 if limit is None else int(limit._elapsed_steps or 0),
    }
    if family == "classic_control":
        saved["state"] = torch.as_tensor(np.array(core.state, dtype=np.float64))
        saved["dtype"] = str(np.asarray(core.state).dtype)
    else:
        saved["physics"] = _physics(core)
        saved["arrays"] = {name: torch.from_numpy(array.copy()) for name, array in _arrays(core.data)}
    return saved


def _load(env: Any, saved: dict[str, Any]) -> None:
    family, core, limit = _family(env), env.unwrapped, _time_limit(env)
    if saved["family"] != family:
        raise EnvError(f"saved state is of family {saved['family']!r}, the environment of {family!r}")
    core.np_random.bit_generator.state = json.loads(saved["random"])
    if limit is not None:
        limit._elapsed_steps = saved["elapsed"]
    if family == "classic_control":
        core.state = saved["state"].numpy().astype(saved["dtype"])
        return
    import mujoco

    state = saved["physics"].numpy()
    mujoco.mj_setState(core.model, core.data, state, int(mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_forward(core.model, core.data)
    # Rewards and observations also read quantities that lag the state by one substep (body
    # positions, contact forces); mj_forward would replace them by fresh ones.
    for name, array in _arrays(core.data):
        array[...] = saved["arrays"][name].numpy()


def _physics(core: Any) -> Tensor:
    import mujoco

    kind = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    state = np.zeros(mujoco.mj_stateSize(core.model, kind))
    mujoco.mj_getState(core.model, core.data, state, kind)
    return torch.from_numpy(state)


def _arrays(data: Any) -> list[tuple[str, np.ndarray]]:
    """Return every floating-point array of the simulation whose size the model fixes."""
    found = []
    for name in sorted(dir(data)):
        if name.startswith(("_", "efc_", "iefc_", "contact")):
            continue
        value = getattr(data, name)
        if isinstance(value, np.ndarray) and value.dtype == np.float64 and value.flags.writeable:
            found.append((name, value))
    return found


def build(options: Options, num_envs: int, device: torch.device | str, seed: int) -> VectorEnv:
    """Return ``num_envs`` copies of the environment, reset with ``seed``.

    Raises:
        ConfigError: ``num_envs`` is not positive.
        EnvError: unknown id, missing dependency, or unsupported spaces.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs={num_envs}: must be at least 1")
    return GymEnv(options, num_envs, torch.device(device), seed)
