"""MuJoCo Warp: the physics of all copies at once on a GPU, or on Warp's CPU backend, which is slow.

It needs a newer MuJoCo than dm_control and Meta-World do, so its extra ``warp`` wants an environment of its
own. It computes in float32, and agrees with ``mujoco_cpu`` to that over short rollouts, except where capsules
stand steeply on a plane: it turns the pyramid of friction there another way, so contacts of ant and humanoid
differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import torch
from torch import Tensor

from pwm.envs.engines.mujoco_cpu import CONTROL_HZ, compiled
from pwm.errors import EnvError
from pwm.packages import optional

USER = "env.engine=mujoco_warp"
# Of a plane with one convex shape; every contact without torsional friction gives at most four rows.
CONTACTS_PER_PAIR, ROWS_PER_CONTACT = 4, 4


class MujocoWarpEngine:
    """Steps ``num_envs`` copies of one model through one control step of 1/60 s.

    The result depends on nothing but ``(qpos, qvel, ctrl)``: every call starts from a zero solver warm
    start. On a GPU all substeps are one CUDA graph.

    Attributes:
        device: where states live: the GPU, or the CPU.
        nq, nv, nu: widths of position, velocity and control.
    """

    def __init__(
        self, model_path_or_xml: str | Path, num_envs: int, substeps: int, device: torch.device
    ) -> None:
        """Compile the model and Warp's kernels for it: half a minute the first time on a machine.

        Args:
            model_path_or_xml: path of an MJCF file, or MJCF text.
            num_envs: number of copies N, at least 1.
            substeps: physics steps per control step, at least 1.
            device: a CPU or CUDA device.

        Raises:
            ConfigError: MuJoCo Warp is not installed.
            EnvError: a size is out of range, or the model cannot be compiled.
        """
        self._warp = optional("warp", USER, "warp")
        self._simulator = optional("mujoco_warp", USER, "warp")
        if num_envs < 1 or substeps < 1:
            raise EnvError(f"num_envs={num_envs}, substeps={substeps}: both must be at least 1")
        model = compiled(model_path_or_xml)
        model.opt.timestep = (1.0 / CONTROL_HZ) / substeps
        self.nq, self.nv, self.nu = int(model.nq), int(model.nv), int(model.nu)
        self.num_envs, self.substeps, self.device = num_envs, substeps, device
        self._warp.config.log_level = self._warp.LOG_WARNING
        self._graph = None
        contacts = CONTACTS_PER_PAIR * contact_pairs(model)
        rows = ROWS_PER_CONTACT * contacts + int(model.jnt_limited.sum())
        with self._on_device():
            self._model = self._simulator.put_model(model)
            self._data = self._simulator.put_data(
                model,
                mujoco.MjData(model),
                nworld=num_envs,
                # Models without any constraint are integrated wrongly where there is no room for one.
                nconmax=max(contacts, 1),
                njmax=max(rows, 1),
            )
            data = self._data
            arrays = (data.qpos, data.qvel, data.ctrl, data.qacc_warmstart)
            # Tensors on the simulator's own memory.
            self._qpos, self._qvel, self._ctrl, self._warmstart = map(self._warp.to_torch, arrays)
            if device.type == "cuda":
                self._advance()
                with self._warp.ScopedCapture() as capture:
                    self._advance()
                self._graph = capture.graph

    def step(self, qpos: Tensor, qvel: Tensor, ctrl: Tensor) -> tuple[Tensor, Tensor]:
        """Hold ``ctrl`` for one control step; see ``MujocoCpuEngine.step``.

        Args:
            qpos: [N, nq] float, MuJoCo coordinates.
            qvel: [N, nv] float.
            ctrl: [N, nu] float, actuator controls, held over all substeps.

        Returns:
            New qpos [N, nq] and qvel [N, nv], float64 as those of the other engine, exact to float32.

        Raises:
            EnvError: the engine was closed.
        """
        if self._data is None:
            raise EnvError("the physics engine was closed; build a new environment")
        with self._on_device():
            self._qpos.copy_(qpos)
            self._qvel.copy_(qvel)
            self._ctrl.copy_(ctrl)
            self._warmstart.zero_()
            if self._graph is None:
                self._advance()
            else:
                self._warp.capture_launch(self._graph)
            return self._qpos.double(), self._qvel.double()

    def close(self) -> None:
        """Free the simulator's memory; calling it twice is fine."""
        self._graph = self._data = None

    def _advance(self) -> None:
        for _ in range(self.substeps):
            self._simulator.step(self._model, self._data)

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        """Let Warp work on this device, in the stream of PyTorch."""
        if self.device.type == "cpu":
            with self._warp.ScopedDevice("cpu"):
                yield
        else:
            stream: Any = self._warp.stream_from_torch(torch.cuda.current_stream(self.device))
            with self._warp.ScopedStream(stream):
                yield


def contact_pairs(model: mujoco.MjModel) -> int:
    """Return how many pairs of shapes of ``model`` may touch."""
    types, affinities, bodies = model.geom_contype, model.geom_conaffinity, model.geom_bodyid
    allowed = (types[:, None] & affinities) | (affinities[:, None] & types)
    return int(((allowed != 0) & (bodies[:, None] != bodies)).sum()) // 2


def build(
    model: str | Path, num_envs: int, substeps: int, num_threads: int, device: torch.device
) -> MujocoWarpEngine:
    """Return the engine for ``num_envs`` copies of ``model``, a path of MJCF or its text.

    ``num_threads`` is for engines that have threads.
    """
    return MujocoWarpEngine(model, num_envs, substeps, device)
