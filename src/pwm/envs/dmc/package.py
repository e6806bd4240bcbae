"""The installed package dm_control: where its models are, and whether its code runs here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pwm.errors import EnvError

INSTALL = 'pip install "flow-pwm[dmc]"'


def suite_folder() -> Path:
    """Return the folder of the suite's MJCF files, without running any code of dm_control.

    Raises:
        EnvError: dm_control is not installed.
    """
    spec = importlib.util.find_spec("dm_control")
    if spec is None or not spec.submodule_search_locations:
        raise EnvError(f"environment 'dmc' needs the package dm_control: {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "suite"


def import_suite() -> Any:
    """Return the module ``dm_control.suite`` after trying it on an empty model.

    Raises:
        EnvError: dm_control is not installed, or does not run with the installed MuJoCo.
    """
    suite_folder()
    try:
        with warnings.catch_warnings():
            # It looks for a window system as it is imported; drawing finds its own way later.
            warnings.filterwarnings("ignore", message=".*(X11|Wayland|display|DISPLAY).*")
            from dm_control import mujoco, suite
        mujoco.Physics.from_xml_string("<mujoco/>").free()
    except Exception as error:
        ours, its = map(importlib.metadata.version, ("mujoco", "dm_control"))
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise EnvError(
            f"dm_control {its} does not run with mujoco {ours} ({reason}); versions that run together: "
            f"{INSTALL}; env.engine=rollout needs only its model files"
        ) from error
    return suite


def model_text(name: str) -> str:
    """Return the MJCF text of ``name``: a model of the suite, or ``reacher_three`` made from its reacher.

    Raises:
        EnvError: dm_control is not installed, or has no such model.
    """
    stock = "reacher" if name == "reacher_three" else name
    try:
        text = (suite_folder() / f"{stock}.xml").read_text(encoding="utf-8")
    except OSError as error:
        raise EnvError(f"the installed dm_control has no model {stock!r}: {error}; {INSTALL}") from error
    return three_links(text) if name == "reacher_three" else text


def included_files() -> dict[str, bytes]:
    """Return what the suite's models include, by the names they include it by."""
    common = suite_folder() / "common"
    return {f"./common/{path.name}": path.read_bytes() for path in sorted(common.glob("*.xml"))}


# The arm of the three-link reacher (specification, section 2): lengths in metres, limits in degrees.
THREE_LINKS = """
<body name="arm0" pos="0 0 .01">
  <geom name="arm0" type="capsule" fromto="0 0 0 0.09 0 0" size=".01" material="self"/>
  <joint name="shoulder0"/>
  <body name="arm1" pos=".09 0 0">
    <geom name="arm1" type="capsule" fromto="0 0 0 0.09 0 0" size=".01" material="self"/>
    <joint name="shoulder1" limited="true" range="-80 80"/>
    <body name="hand" pos=".09 0 0">
      <geom name="hand" type="capsule" fromto="0 0 0 0.1 0 0" size=".01" material="self"/>
      <joint name="wrist" limited="true" range="-80 80"/>
      <body name="finger" pos=".09 0 0">
        <camera name="hand" pos="0 0 .2" mode="track"/>
        <geom name="finger" type="sphere" size=".01" material="effector"/>
      </body>
    </body>
  </body>
</body>
"""
THREE_JOINTS = ("shoulder0", "shoulder1", "wrist")


def three_links(reacher: str) -> str:
    """Return the suite's two-link reacher with an arm of three links; arena, target and options stay."""
    root = ElementTree.fromstring(reacher)
    world, motors = root.find("worldbody"), root.find("actuator")
    arm = root.find("worldbody/body[@name='arm']")
    if world is None or motors is None or arm is None:
        raise EnvError(f"the reacher of the installed dm_control has no body 'arm' or no motors; {INSTALL}")
    place = list(world).index(arm)
    world.remove(arm)
    world.insert(place, ElementTree.fromstring(THREE_LINKS))
    motors[:] = [ElementTree.Element("motor", name=joint, joint=joint) for joint in THREE_JOINTS]
    return ElementTree.tostring(root, encoding="unicode")
