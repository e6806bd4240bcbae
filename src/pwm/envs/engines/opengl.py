"""Which OpenGL MuJoCo draws with: found out when something is to be drawn, never before."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from functools import cache

from pwm.errors import EnvError

# The first two need no display.
BACKENDS = ("egl", "osmesa", "glfw")
PACKAGES = "libosmesa6 (draws on the CPU), or libegl1 libopengl0 libgl1-mesa-dri (EGL)"
PROBE = """
import mujoco
renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8)
renderer.render()
renderer.close()
"""
PROBE_SECONDS = 60


def choose_backend() -> None:
    """Make MuJoCo draw with the first backend that works here; ``MUJOCO_GL``, if set, is the only choice.

    Raises:
        EnvError: none works; the message names the packages to install.
    """
    if not sys.platform.startswith("linux"):
        return  # MuJoCo has one backend there, which needs no display
    asked = os.environ.get("MUJOCO_GL")
    candidates = (asked,) if asked else BACKENDS
    working = next((name for name in candidates if works(name)), None)
    if working is None:
        tried = f"MUJOCO_GL={asked}" if asked else f"tried {', '.join(BACKENDS)}"
        raise EnvError(
            f"nothing can be drawn here: no usable OpenGL ({tried}). On Debian or Ubuntu install "
            f"{PACKAGES}; MUJOCO_GL=egl, osmesa or glfw chooses one, unset means the first that works"
        )
    if not asked:
        os.environ["MUJOCO_GL"] = working
        _tell_mujoco()


@cache
def works(backend: str) -> bool:
    """True if ``backend`` draws. A process of its own tries it: a failed attempt leaves OpenGL unusable."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _tell_mujoco() -> None:
    """Let a MuJoCo that is already imported read ``MUJOCO_GL`` again; it does so on import only.

    The module that reads it is ``mujoco.gl_context`` or, in newer releases, lies deeper in the package.
    """
    readers = [
        module
        for name, module in sys.modules.items()
        if name.startswith("mujoco.") and name.endswith(".gl_context")
    ]
    for module in readers:
        importlib.reload(module)
