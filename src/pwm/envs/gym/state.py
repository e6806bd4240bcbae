"""The state of one copy, saved so that it continues bit-identically."""

from __future__ import annotations

import json
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from torch import Tensor

from pwm.envs.gym.random_streams import CopyStream
from pwm.envs.gym.time_limit import layers
from pwm.errors import EnvError

# Wrappers that hold no state besides the time limit's counter, so that saving an environment is exact.
PLAIN_WRAPPERS = (TimeLimit, OrderEnforcing, PassiveEnvChecker)


@runtime_checkable
class SavesItself(Protocol):
    """An environment that can save its state beyond ``np_random`` and the time limit."""

    def save_state(self) -> dict[str, Any]:
        """Return the state: tensors, numbers and text, in lists and dicts."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``; everything is then as it was, bit by bit."""
        ...


def save(env: Any, stream: CopyStream) -> dict[str, Any]:
    """State of ``env`` and of the global generators it meets: tensors, numbers and text.

    Raises:
        EnvError: it is neither a MuJoCo nor a classic-control environment of Gymnasium, nor saves itself.
    """
    family, core = _family(env), env.unwrapped
    saved: dict[str, Any] = {
        "family": family,
        # Text: the generator's 128-bit integers exceed what tensors hold.
        "random": json.dumps(core.np_random.bit_generator.state),
        "stream": stream.state(),
        "elapsed": max((int(limit._elapsed_steps or 0) for limit in _time_limits(env)), default=0),
    }
    if isinstance(core, SavesItself):
        saved["own"] = core.save_state()
    elif family == "classic_control":
        saved["state"] = torch.as_tensor(np.array(core.state, dtype=np.float64))
        saved["dtype"] = str(np.asarray(core.state).dtype)
    else:
        saved["physics"] = _physics(core)
        saved["arrays"] = {name: torch.from_numpy(array.copy()) for name, array in _arrays(core)}
    return saved


def load(env: Any, stream: CopyStream, saved: dict[str, Any]) -> None:
    """Put ``env`` and its stream into the state that ``save`` returned.

    Raises:
        EnvError: the state is of another kind or model of environment, or this one cannot be restored.
            Nothing is changed then.
    """
    family, core = _family(env), env.unwrapped
    if saved["family"] != family:
        raise EnvError(f"saved state is of family {saved['family']!r}, the environment of {family!r}")
    if family == "mujoco":
        _check_model(core, saved)
    core.np_random.bit_generator.state = json.loads(saved["random"])
    # States of earlier releases have none; environments that can be saved do not draw from it.
    if "stream" in saved:
        stream.load(saved["stream"])
    for limit in _time_limits(env):
        limit._elapsed_steps = saved["elapsed"]
    if isinstance(core, SavesItself):
        core.load_state(saved["own"])
        return
    if family == "classic_control":
        core.state = saved["state"].numpy().astype(saved["dtype"])
        return
    import mujoco

    state = saved["physics"].numpy()
    mujoco.mj_setState(core.model, core.data, state, int(mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_forward(core.model, core.data)
    # Rewards and observations also read quantities that lag the state by one substep (body
    # positions, contact forces); mj_forward would replace them by fresh ones.
    for name, array in _arrays(core):
        array[...] = saved["arrays"][name].numpy()


def _check_model(core: Any, saved: dict[str, Any]) -> None:
    """Raise EnvError unless ``saved`` is of the same model in the same layout."""
    here = {name: array.shape for name, array in _arrays(core)}
    # States of earlier releases also hold arrays without entries.
    there = {name: tuple(array.shape) for name, array in saved["arrays"].items() if array.numel()}
    if len(saved["physics"]) != len(_physics(core)) or here != there:
        names = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
        raise EnvError(
            f"the saved state of {type(core).__name__} is of another model, or of a version of MuJoCo that "
            f"lays it out differently from mujoco {_version()}: {', '.join(names[:3]) or 'physics'} differ"
        )


def _version() -> str:
    import mujoco

    return str(mujoco.__version__)


def _family(env: Any) -> str:
    """Return ``mujoco``, ``classic_control`` or ``own``; raise EnvError where saving would not be exact."""
    *wrappers, core = layers(env)
    for wrapper in wrappers:
        if type(wrapper) not in PLAIN_WRAPPERS:
            raise EnvError(f"state saving does not know the wrapper {type(wrapper).__name__}")
    if isinstance(core, SavesItself):
        return "own"
    module = type(core).__module__
    for family in ("mujoco", "classic_control"):
        if module.startswith(f"gymnasium.envs.{family}."):
            return family
    raise EnvError(
        f"the state of {type(core).__name__} cannot be saved; Gymnasium's MuJoCo and classic-control "
        "environments can, and those with methods save_state and load_state"
    )


def _time_limits(env: Any) -> list[Any]:
    """The wrappers that count steps."""
    return [layer for layer in layers(env) if isinstance(layer, TimeLimit)]


def _physics(core: Any) -> Tensor:
    import mujoco

    kind = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    state = np.zeros(mujoco.mj_stateSize(core.model, kind))
    mujoco.mj_getState(core.model, core.data, state, kind)
    return torch.from_numpy(state)


def _arrays(core: Any) -> list[tuple[str, np.ndarray]]:
    """Return every floating-point array of the simulation that has entries and whose size the model fixes.

    The others live as long as one step and grow with its contacts. Data of the same model that has not been
    stepped tells them apart without a list of names, which every release of MuJoCo would make longer: there
    they are empty.
    """
    import mujoco

    unstepped = mujoco.MjData(core.model)
    found = []
    for name in sorted(dir(unstepped)):
        if name.startswith("_"):
            continue
        array = getattr(unstepped, name)
        if not isinstance(array, np.ndarray) or array.dtype != np.float64 or not array.flags.writeable:
            continue
        if array.size:
            found.append((name, getattr(core.data, name)))
    return found
