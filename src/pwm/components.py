"""Find a component by kind and name.

The folder is the registry: a component of kind ``dynamics`` called ``flow`` is the module
``pwm.models.dynamics.flow``. Such a module defines an ``Options`` dataclass (its configuration,
validated in ``__post_init__``) and ``build(options, ...)``, an integrator its ``TABLEAU``, a disturbance
its class; modules of the folder that define nothing of the kind are shared parts. Adding a component is
adding one file. An engine has no ``Options``: the environment that uses it has them.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from pwm.errors import UnknownComponentError

# Package of each kind, and what makes one of its modules a component.
KINDS = {
    "env": ("pwm.envs", "build"),
    "disturbance": ("pwm.envs.disturbances", "DISTURBANCE"),
    "dynamics": ("pwm.models.dynamics", "build"),
    "integrator": ("pwm.models.integrators", "TABLEAU"),
    "actor": ("pwm.models.actors", "build"),
    "trainer": ("pwm.training.trainers", "build"),
    "engine": ("pwm.envs.engines", "build"),
}


def names(kind: str) -> list[str]:
    """Return the sorted names of all components of ``kind``."""
    return sorted(name for name in _modules(kind) if _component(kind, name) is not None)


def load(kind: str, name: str) -> ModuleType:
    """Return the module that defines component ``name`` of ``kind``.

    Raises:
        UnknownComponentError: no such component; the message lists the valid names.
    """
    module = _component(kind, name) if name in _modules(kind) else None
    if module is None:
        raise UnknownComponentError(f"unknown {kind} {name!r}; choose one of: {', '.join(names(kind))}")
    return module


def _modules(kind: str) -> list[str]:
    package = importlib.import_module(KINDS[kind][0])
    return [module.name for module in pkgutil.iter_modules(package.__path__)]


def _component(kind: str, name: str) -> ModuleType | None:
    """Module ``name`` of the folder of ``kind``, or None if it holds shared parts."""
    package, mark = KINDS[kind]
    module = importlib.import_module(f"{package}.{name}")
    return module if hasattr(module, mark) else None
