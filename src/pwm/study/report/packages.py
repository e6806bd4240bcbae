"""The packages that statistics and reports are made with; an installation without extras lacks them."""

from __future__ import annotations

import importlib.util

from pwm.errors import ConfigError

PACKAGES = ("jinja2", "rliable", "scipy", "statsmodels")


def require_packages() -> None:
    """Find out whether runs can be compared before anything is done for it.

    Raises:
        ConfigError: names the packages that are not installed, and how to install them.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigError(f'comparing runs needs {", ".join(missing)}: pip install "flow-pwm[report]"')
