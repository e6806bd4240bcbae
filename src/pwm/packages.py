"""Packages that an installation without extras lacks."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from pwm.errors import ConfigError

# What statistics and reports are made with.
REPORT = ("jinja2", "rliable", "scipy", "statsmodels")


def optional(module: str, user: str, extra: str) -> Any:
    """Return the imported ``module``, which ``user`` needs.

    Raises:
        ConfigError: it cannot be imported; the message names the ``extra`` that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(f'{user} needs {package} ({error}): pip install "flow-pwm[{extra}]"') from error


def require(packages: Sequence[str], user: str, extra: str) -> None:
    """Raise ConfigError unless all ``packages`` that ``user`` needs are installed; imports none of them."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise ConfigError(f'{user} needs {", ".join(missing)}: pip install "flow-pwm[{extra}]"')
