"""Pictures of MuJoCo models, drawn offscreen."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np

from pwm.envs.engines.opengl import choose_backend
from pwm.errors import EnvError

WIDTH, HEIGHT = 640, 480
CAMERA = "track"
# MuJoCo 3.3.3 replaced the one attribute by the other and calls the old one deprecated since.
DIRECTIONAL = 'type="directional"' if hasattr(mujoco, "mjtLightType") else 'directional="true"'
LIGHT = f'<light {DIRECTIONAL} pos="0 0 5" dir="0 0 -1" diffuse="0.8 0.8 0.8"/>'
# Models for the simulator carry no decoration: a checkered floor is what makes motion visible.
DECORATION = f"""
<mujoco>
  <visual>
    <global offwidth="{WIDTH}" offheight="{HEIGHT}"/>
    <headlight ambient="0.4 0.4 0.4" diffuse="0.35 0.35 0.35" specular="0.1 0.1 0.1"/>
    <quality shadowsize="2048"/>
  </visual>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1="0.93 0.96 1" rgb2="0.55 0.7 0.86"
             width="256" height="256"/>
    <texture name="checker" type="2d" builtin="checker" rgb1="0.5 0.55 0.6" rgb2="0.42 0.47 0.52"
             mark="edge" markrgb="0.62 0.67 0.72" width="512" height="512"/>
    <material name="checker" texture="checker" texrepeat="1 1" texuniform="true"/>
  </asset>
</mujoco>
"""


class MujocoCamera:
    """Draws one model from one of its cameras.

    Args:
        model: the compiled model; what is changed in it later is drawn.
        camera: name or number of the camera.

    Raises:
        EnvError: this machine has no usable OpenGL.
    """

    def __init__(self, model: mujoco.MjModel, camera: str | int) -> None:
        choose_backend()
        self._model, self._camera = model, camera
        self._data = mujoco.MjData(model)
        self._renderer = mujoco.Renderer(model, HEIGHT, WIDTH)

    def picture(self, qpos: np.ndarray) -> np.ndarray:
        """Picture [480, 640, 3] uint8 of the model in the positions ``qpos`` [nq]."""
        self._data.qpos[:] = qpos
        mujoco.mj_forward(self._model, self._data)
        # The endless floor is centred where the camera was at the last update, hence two of them.
        for _ in range(2):
            self._renderer.update_scene(self._data, self._camera)
        return self._renderer.render()

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


def decorated(model_path: Path) -> mujoco.MjModel:
    """The model of an MJCF file without meshes with sky, light and a checkered floor (its geom ``floor``)."""
    root = ElementTree.parse(model_path).getroot()
    root.extend(ElementTree.fromstring(DECORATION))
    for floor in root.iterfind(".//geom[@name='floor']"):
        floor.set("material", "checker")
        floor.set("rgba", "1 1 1 1")
    light = ElementTree.fromstring(LIGHT)
    place = root.find(f".//camera[@name='{CAMERA}']/..")
    if place is None:
        raise EnvError(f"{model_path.name} has no camera named {CAMERA!r}")
    if place.tag == "body":
        # Shadows reach only a few metres around their light, so it goes where the camera goes.
        light.set("mode", "trackcom")
    place.append(light)
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
