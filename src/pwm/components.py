"""Find a component by kind and name.

The folder is the registry: a component of kind ``dynamics`` called ``flow`` is the module
``pwm.models.dynamics.flow``. Such a module defines an ``Options`` dataclass (its configuration,
validated in ``__post_init__``) and ``build(options, ...)``. Adding one is adding one file.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from pwm.errors import UnknownComponentError

PACKAGES = {
    "env": "pwm.envs",
    "dynamics": "pwm.models.dynamics",
    "integrator": "pwm.models.integrators",
    "actor": "pwm.models.actors",
}
# Modules of a component package that hold shared parts instead of a component.
NOT_COMPONENTS = {"base", "common", "explicit_rk", "engines"}


def names(kind: str) -> list[str]:
    """Return the sorted names of all components of ``kind``."""
    package = importlib.import_module(PACKAGES[kind])
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in NOT_COMPONENTS)


def load(kind: str, name: str) -> ModuleType:
    """Return the module that defines component ``name`` of ``kind``.

    Raises:
        UnknownComponentError: no such component; the message lists the valid names.
    """
    valid = names(kind)
    if name not in valid:
        raise UnknownComponentError(f"unknown {kind} {name!r}; choose one of: {', '.join(valid)}")
    return importlib.import_module(f"{PACKAGES[kind]}.{name}")
