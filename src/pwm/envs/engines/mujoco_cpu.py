"""Threaded MuJoCo on the CPU, as a pure function from state and control to the next state."""

from __future__ import annotations

import os
from pathlib import Path

import mujoco
import numpy as np
import torch
from mujoco import rollout
from torch import Tensor

from pwm.errors import EnvError

CONTROL_HZ = 60


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ThreadedRollout:
    """``mujoco.rollout`` of many rows of one model on a pool of threads.

    The result depends on nothing but the arguments of a call: every row starts from a zero solver warm
    start, so neither the thread count nor earlier calls change a single bit. MuJoCo's habit of silently
    restoring the default pose after a numerical blow-up is switched off in the model.

    Attributes:
        model: the compiled MuJoCo model.
        num_threads: threads in use.
        state_size: width of a state: time, qpos [nq], qvel [nv].
    """

    def __init__(self, model: mujoco.MjModel, max_rows: int, num_threads: int = 0) -> None:
        """Start the thread pool.

        Args:
            model: a model without activations.
            max_rows: largest number of rows of a call.
            num_threads: worker threads; 0 means all cores this process may use.

        Raises:
            EnvError: the model has other state than time, qpos and qvel.
        """
        self.model = model
        self.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        self.num_threads = min(num_threads or usable_cores(), max_rows)
        full = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self.state_size = int(mujoco.mj_stateSize(model, full))
        if self.state_size != 1 + model.nq + model.nv:
            raise EnvError("the model has activations or other state beyond time, qpos and qvel")
        self._warmstart = np.zeros((max_rows, model.nv))
        # Without a pool (one thread) rollouts run on the calling thread, which saves the hand-over.
        pool = self.num_threads if self.num_threads > 1 else 0
        self._rollout = rollout.Rollout(nthread=pool)
        self._models = [model] * max_rows
        self._data = [mujoco.MjData(model) for _ in range(self.num_threads)]

    def run(self, start: Tensor, ctrl: Tensor, path: Tensor, sensors: Tensor | None = None) -> None:
        """Fill ``path`` with the states after each physics step.

        Args:
            start: [n, state_size] float64, n at most ``max_rows``.
            ctrl: [n, steps, nu] float64.
            path: [n, steps, state_size] float64, written. Entries may be non-finite after a blow-up.
            sensors: [n, steps, nsensordata] float64, written if given: readings at the state *before* each
                step, those of forces under the control of that step.

        Raises:
            EnvError: it was closed.
        """
        if self._rollout is None:
            raise EnvError("the physics engine was closed; build a new environment")
        rows, steps = path.shape[:2]
        # Tensors; MuJoCo reads and writes the same memory through numpy views.
        self._rollout.rollout(
            self._models[:rows],
            self._data,
            start.numpy(),
            ctrl.numpy(),
            skip_checks=True,
            nstep=steps,
            initial_warmstart=self._warmstart[:rows],
            state=path.numpy(),
            sensordata=None if sensors is None else sensors.numpy(),
        )

    def close(self) -> None:
        """Stop the threads and free the simulator memory; calling it twice is fine."""
        if self._rollout is not None:
            self._rollout.close()
        self._rollout = None
        self._data = []


class MujocoCpuEngine:
    """Steps ``num_envs`` copies of one model through one control step of 1/60 s.

    The result depends on nothing but ``(qpos, qvel, ctrl)``; see ``ThreadedRollout``. A blown-up copy
    returns its non-finite or huge state.

    Attributes:
        model: the compiled MuJoCo model, with ``opt.timestep == (1/60)/substeps``.
        device: always the CPU; tensors in and out live there.
        nq, nv, nu: widths of position, velocity and control.
    """

    device = torch.device("cpu")

    def __init__(
        self, model_path_or_xml: str | Path, num_envs: int, substeps: int, num_threads: int = 0
    ) -> None:
        """Compile the model and start the thread pool.

        Args:
            model_path_or_xml: path of an MJCF file, or MJCF text (recognised by its leading ``<``).
            num_envs: number of copies N, at least 1.
            substeps: physics steps per control step, at least 1.
            num_threads: worker threads; 0 means all cores this process may use.

        Raises:
            EnvError: a size is out of range or MuJoCo cannot compile the model.
        """
        if num_envs < 1 or substeps < 1 or num_threads < 0:
            raise EnvError(
                f"num_envs={num_envs}, substeps={substeps}, num_threads={num_threads}: "
                "need num_envs >= 1, substeps >= 1, num_threads >= 0"
            )
        self.model = compiled(model_path_or_xml)
        self.model.opt.timestep = (1.0 / CONTROL_HZ) / substeps
        self.nq, self.nv, self.nu = int(self.model.nq), int(self.model.nv), int(self.model.nu)
        self.num_envs, self.substeps = num_envs, substeps
        self._rollout = ThreadedRollout(self.model, num_envs, num_threads)
        state_size = self._rollout.state_size
        self._start = torch.zeros(num_envs, state_size, dtype=torch.float64)
        self._ctrl = torch.zeros(num_envs, substeps, self.nu, dtype=torch.float64)
        self._path = torch.zeros(num_envs, substeps, state_size, dtype=torch.float64)

    def step(self, qpos: Tensor, qvel: Tensor, ctrl: Tensor) -> tuple[Tensor, Tensor]:
        """Hold ``ctrl`` for one control step.

        Args:
            qpos: [N, nq] float64, MuJoCo coordinates.
            qvel: [N, nv] float64.
            ctrl: [N, nu] float, actuator controls, held over all substeps.

        Returns:
            New qpos [N, nq] and qvel [N, nv], float64. They are fresh memory: later calls never
            change them. Entries may be non-finite after a blow-up.
        """
        self.load(qpos, qvel, ctrl)
        self.advance()
        end = self._path[:, -1].clone()
        return end[:, 1 : 1 + self.nq], end[:, 1 + self.nq :]

    def load(self, qpos: Tensor, qvel: Tensor, ctrl: Tensor) -> None:
        """Copy start state and control into the buffers that ``advance`` reads."""
        self._start[:, 1 : 1 + self.nq] = qpos
        self._start[:, 1 + self.nq :] = qvel
        self._ctrl.copy_(ctrl.unsqueeze(1))

    def advance(self) -> None:
        """Run the physics from the loaded state; separate from ``load`` so that it can be timed alone.

        Raises:
            EnvError: the engine was closed.
        """
        self._rollout.run(self._start, self._ctrl, self._path)

    def close(self) -> None:
        """Stop the threads and free the simulator memory; calling it twice is fine."""
        self._rollout.close()


def compiled(model_path_or_xml: str | Path) -> mujoco.MjModel:
    """Return the model of an MJCF file or of MJCF text, recognised by its leading ``<``.

    Raises:
        EnvError: MuJoCo cannot compile it.
    """
    text = str(model_path_or_xml)
    try:
        if text.lstrip().startswith("<"):
            return mujoco.MjModel.from_xml_string(text)
        return mujoco.MjModel.from_xml_path(text)
    except ValueError as error:
        raise EnvError(f"MuJoCo cannot compile the model: {error}") from error


def build(
    model: str | Path, num_envs: int, substeps: int, num_threads: int, device: torch.device
) -> MujocoCpuEngine:
    """Return the engine for ``num_envs`` copies of ``model``, a path of MJCF or its text.

    It simulates on the CPU, whatever ``device`` the caller learns on.
    """
    return MujocoCpuEngine(model, num_envs, substeps, num_threads)
