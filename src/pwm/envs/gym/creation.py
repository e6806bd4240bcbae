"""Make one environment from its id, or say in one sentence why not."""

from __future__ import annotations

import copy
import difflib
import importlib.util
import os
import re
import sys
import warnings
from typing import Any, NoReturn

import gymnasium
from gymnasium.envs.registration import EnvSpec, find_highest_version, get_env_id, parse_env_id

from pwm.envs.gym.faults import sentence
from pwm.envs.gym.options import Options
from pwm.envs.gym.random_streams import CopyStream, borrowed_globals
from pwm.errors import EnvError

INSTALL_HINT = "install it with: pip install 'gymnasium[mujoco,classic-control]'"
# Ids of other packages that are often given alone: pattern, module that registers them, name for pip.
ELSEWHERE = (
    (r"(Fetch|Hand|Adroit|AntMaze|PointMaze|Franka)", "gymnasium_robotics", "gymnasium-robotics"),
    (r"dm_control/", "shimmy", "'shimmy[dm-control]'"),
    (r"Panda(Reach|Push|Slide|PickAndPlace|Stack|Flip)", "panda_gym", "panda-gym"),
    (r"Meta-World/", "metaworld", "metaworld"),
)
# Packages that pip knows under another name, or with the parts that Gymnasium needs.
PIP_NAMES = {
    "Box2D": "swig 'gymnasium[box2d]'",
    "jax": "'gymnasium[jax]'",
    "mujoco": "'gymnasium[mujoco]'",
    "pygame": "'gymnasium[classic-control]'",
    "shimmy": "'shimmy[dm-control]'",
    "cv2": "opencv-python",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "PIL": "pillow",
}

# What each module registered when it was imported, which happens once: another one may have registered the
# same ids since.
_registered: dict[str, dict[str, EnvSpec]] = {}


def make(options: Options) -> Any:
    """The environment of ``options``, as Gymnasium makes it but without its checker.

    Its module must have been imported with ``import_module``.

    Raises:
        EnvError: unknown or removed id, missing package, arguments that the constructor refuses, or whatever
            else it raises.
    """
    # What environments return is checked here, in every step and in plain words.
    kwargs = {"disable_env_checker": True, **copy.deepcopy(options.kwargs)}
    if options.episode_length is not None:
        kwargs["max_episode_steps"] = options.episode_length
    try:
        with warnings.catch_warnings():
            # That an id is not the newest one is no fault of a run that needs this one.
            warnings.filterwarnings("ignore", module=r"gymnasium\.")
            return gymnasium.make(options.id, **kwargs)
    except ModuleNotFoundError as error:
        raise EnvError(f"{options.id} needs a missing package: {_line(error)}; {_pip(error)}") from error
    except gymnasium.error.DependencyNotInstalled as error:
        hint = "" if "pip install" in str(error) else f"; {_pip(error.__cause__)}"
        raise EnvError(f"{options.id} needs a missing package: {_line(error)}{hint}") from error
    except gymnasium.error.Error as error:
        _refuse_id(options.id, error)
    except ImportError as error:
        # How Gymnasium's removed environments refuse to be made.
        _refuse_id(options.id, error)
    except EnvError:
        # It already says in one sentence what is wrong.
        raise
    except (Exception, SystemExit) as error:
        # Gymnasium raises type errors again, with all it knows of the environment in their text.
        cause = error.__cause__ if isinstance(error, TypeError) and error.__cause__ else error
        refused = isinstance(cause, TypeError) and "argument" in str(cause)
        verb = "does not accept" if refused else "cannot be made with"
        raise EnvError(f"{options.id} {verb} env.kwargs={options.kwargs!r}: {sentence(cause)}") from error


def import_module(name: str, seed: int) -> None:
    """Import the module of ``module:Id``, which may lie in the working directory, and let its ids be its own.

    What it draws from global generators while it is imported, or makes of them, depends on ``seed`` alone.

    Raises:
        EnvError: it cannot be imported.
    """
    with borrowed_globals():
        CopyStream(seed).seed_globals()
        _import(name)


def _import(name: str) -> None:
    # Last, so that no file there hides an installed module. Entry points may name such modules, too.
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    module, colon, registered = name.partition(":")
    if not colon:
        return
    if not module or not registered or ":" in registered:
        raise EnvError(f"env.id={name!r}: write module:Id, for example my_env:MyEnv-v0")
    before = dict(gymnasium.registry)
    try:
        if registered in _of_others(module) and module in sys.modules and module not in _registered:
            # Imported by a module that registers the same id, it has registered its own unseen.
            importlib.reload(sys.modules[module])
        else:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        if module.endswith(".py"):
            right = f"{module.removesuffix('.py').replace(os.sep, '.')}:{registered}"
            raise EnvError(
                f"env.id={name!r}: write the module without .py, env.id={right}, in the folder from which it "
                "can be imported"
            ) from error
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise EnvError(
                f"env.id={name!r}: there is no module {error.name!r}, neither in the working directory "
                f"{folder} nor installed; if it is a package, {_pip(error)}"
            ) from error
        raise EnvError(
            f"env.id={name!r}: importing {module} needs a missing package: {_line(error)}; {_pip(error)}"
        ) from error
    except (Exception, SystemExit) as error:
        raise EnvError(f"env.id={name!r}: importing {module} raised {sentence(error)}") from error
    new = {key: spec for key, spec in gymnasium.registry.items() if before.get(key) is not spec}
    gymnasium.registry.update(_registered.setdefault(module, {}) | new)
    _registered[module] |= new


def _of_others(module: str) -> set[str]:
    """Ids that were registered while modules other than ``module`` were imported."""
    return {key for other, specs in _registered.items() if other != module for key in specs}


def _refuse_id(name: str, error: Exception) -> NoReturn:
    """Say what is wrong with an id, and which one to use instead; or with its environment."""
    module, _, registered = name.rpartition(":")
    message = f"cannot make Gymnasium id {name!r}: {_line(error).rstrip('.?')}"
    if (newer := _successor(registered)) is not None:
        raise EnvError(f"{message}; use env.id={f'{module}:' if module else ''}{newer}") from error
    for pattern, package, pip_name in ELSEWHERE:
        if not module and re.match(pattern, registered):
            there = importlib.util.find_spec(package) is not None
            raise EnvError(
                f"{message}; use env.id={package}:{registered}"
                + ("" if there else f" after pip install {pip_name}")
            ) from error
    if registered in gymnasium.registry:
        # The id is right: it is the environment that raised what ids raise.
        raise EnvError(f"{name} cannot be made: {sentence(error)}") from error
    by_lower = {known.lower(): known for known in sorted(gymnasium.registry) if _successor(known) is None}
    close = difflib.get_close_matches(registered.lower(), by_lower, n=5, cutoff=0.5)
    matches = ", ".join(by_lower[found] for found in close) or "none"
    raise EnvError(
        f"{message}. Close matches: {matches}; an id that a module registers is written module:Id"
    ) from error


def _successor(name: str) -> str | None:
    """The newest version of an environment of which ``name`` is an older one."""
    try:
        namespace, base, version = parse_env_id(name)
    except gymnasium.error.Error:
        return None
    newest = find_highest_version(namespace, base)
    if version is None or newest is None or newest <= version:
        return None
    return str(get_env_id(namespace, base, newest))


def _pip(error: BaseException | None) -> str:
    """Return the command that installs what ``error`` misses."""
    missing = (getattr(error, "name", None) or "").split(".")[0]
    if not missing:
        return INSTALL_HINT
    return f"install it with: pip install {PIP_NAMES.get(missing, missing.replace('_', '-'))}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
