"""One dm_control model stepped for many copies: states in, states and sensor readings out.

dm_control steps a model so that what it reads afterwards belongs to the new state, except for forces, which
are those of the last physics step (``mujoco.Physics.step`` with ``legacy_step``). MuJoCo's rollout reports
sensors at the state *before* each step. So one more physics step is rolled out than asked for, and of its
readings only those that do not depend on forces are used. Everything that a task reads besides positions,
velocities and controls is therefore a sensor, added to the model where the suite has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import mujoco
import torch
from torch import Tensor

from pwm.envs.dmc.package import included_files, model_text
from pwm.envs.engines.mujoco_cpu import ThreadedRollout
from pwm.errors import EnvError

# Beyond its cutoff the sensor of a distance says only that it is beyond.
CLEARANCE_CUTOFF = 1.0
REPEAT = 2


class Sensor(NamedTuple):
    """A sensor to be added to a model: what it measures, of what kind of thing, and the thing's name."""

    kind: mujoco.mjtSensor
    of: mujoco.mjtObj
    name: str


def position(name: str, of: mujoco.mjtObj = mujoco.mjtObj.mjOBJ_XBODY) -> Sensor:
    """World position [3] of a body's frame, or of another thing."""
    return Sensor(mujoco.mjtSensor.mjSENS_FRAMEPOS, of, name)


def x_axis(name: str, of: mujoco.mjtObj = mujoco.mjtObj.mjOBJ_XBODY) -> Sensor:
    """World direction [3] of a frame's x axis: the first column of its rotation."""
    return Sensor(mujoco.mjtSensor.mjSENS_FRAMEXAXIS, of, name)


def y_axis(name: str, of: mujoco.mjtObj = mujoco.mjtObj.mjOBJ_XBODY) -> Sensor:
    """World direction [3] of a frame's y axis."""
    return Sensor(mujoco.mjtSensor.mjSENS_FRAMEYAXIS, of, name)


def z_axis(name: str, of: mujoco.mjtObj = mujoco.mjtObj.mjOBJ_XBODY) -> Sensor:
    """World direction [3] of a frame's z axis: the last column of its rotation."""
    return Sensor(mujoco.mjtSensor.mjSENS_FRAMEZAXIS, of, name)


@dataclass(frozen=True)
class ModelRecipe:
    """How the model of a task is made.

    Attributes:
        name: a model of the suite, for example ``walker``, or ``reacher_three``.
        control_dt: seconds of one control step of the suite.
        sensors: sensors to add, in named groups; the readings of a group are one row of numbers.
        never_touch: pairs of geoms that do not touch when an episode begins.
        adjust: changes the compiled model as the suite does when an episode begins.
    """

    name: str
    control_dt: float
    sensors: Mapping[str, tuple[Sensor, ...]] = field(default_factory=dict)
    never_touch: tuple[tuple[str, str], ...] = ()
    adjust: Callable[[mujoco.MjModel], None] = lambda model: None


@dataclass(frozen=True)
class Moment:
    """What a task reads of n copies at one moment; all float64.

    Attributes:
        qpos, qvel: [n, nq], [n, nv], MuJoCo coordinates.
        ctrl: [n, nu], the controls that led here.
        target: [n, k], where the task's target is (k = 0 where there is none).
        sensors: [n, nsensordata], all readings.
        places: columns of each sensor of the suite's file and of each group of added ones.
    """

    qpos: Tensor
    qvel: Tensor
    ctrl: Tensor
    target: Tensor
    sensors: Tensor
    places: Mapping[str, slice]

    def read(self, name: str) -> Tensor:
        """Readings [n, width] of one sensor of the file, or of one group of added ones."""
        return self.sensors[:, self.places[name]]

    def every_second(self) -> Moment:
        """The rows 1, 3, 5, ...: of a step's two control steps the last one."""
        last = slice(1, None, REPEAT)
        return Moment(
            self.qpos[last],
            self.qvel[last],
            self.ctrl[last],
            self.target[last],
            self.sensors[last],
            self.places,
        )


class Physics:
    """A model of dm_control, stepped for up to ``max_rows`` copies at once.

    Attributes:
        model: the compiled model with its added sensors.
        nq, nv, nu: widths of position, velocity and control.
        substeps: physics steps per control step.
    """

    def __init__(self, recipe: ModelRecipe, max_rows: int, num_threads: int = 0) -> None:
        """Compile the model; see ``ThreadedRollout`` for ``max_rows`` and ``num_threads``.

        Raises:
            EnvError: dm_control is missing, or MuJoCo cannot compile its model.
        """
        self.model = compile_model(recipe)
        self.nq, self.nv, self.nu = int(self.model.nq), int(self.model.nv), int(self.model.nu)
        self.substeps = round(recipe.control_dt / self.model.opt.timestep)
        self.places = sensor_places(self.model, recipe)
        self._recipe = recipe
        self._max_rows, self._num_threads = max_rows, num_threads
        self._rollout = ThreadedRollout(self.model, max_rows, num_threads)
        self._clearance: ThreadedRollout | None = None
        forces = self.model.sensor_needstage == mujoco.mjtStage.mjSTAGE_ACC
        columns = [
            column
            for start, width in zip(self.model.sensor_adr[forces], self.model.sensor_dim[forces])
            for column in range(start, start + width)
        ]
        self._forces = torch.tensor(columns, dtype=torch.int64)
        # Moments that an agent step reads: the ends of its control steps, counted in physics steps.
        self._ends = torch.tensor([self.substeps * (k + 1) for k in range(REPEAT)])

    def step(self, qpos: Tensor, qvel: Tensor, ctrl: Tensor, target: Tensor) -> Moment:
        """Hold ``ctrl`` for two control steps.

        Args:
            qpos: [n, nq] float64.
            qvel: [n, nv] float64.
            ctrl: [n, nu] float64.
            target: [n, k] float64, handed on.

        Returns:
            The moments after both control steps of every copy, 2 n rows: copy 0 after the first and after
            the second one, copy 1 after the first one, ...
        """
        path, sensors = self._run(qpos, qvel, ctrl, REPEAT * self.substeps + 1)
        after = path.index_select(1, self._ends - 1).flatten(0, 1)
        readings = sensors.index_select(1, self._ends).flatten(0, 1)
        if len(self._forces):
            last = sensors.index_select(1, self._ends - 1).flatten(0, 1)
            readings[:, self._forces] = last[:, self._forces]
        return Moment(
            after[:, 1 : 1 + self.nq],
            after[:, 1 + self.nq :],
            ctrl.repeat_interleave(REPEAT, 0),
            target.repeat_interleave(REPEAT, 0),
            readings,
            self.places,
        )

    def look(self, qpos: Tensor, qvel: Tensor, target: Tensor) -> Moment:
        """The moment of n copies at rest under zero controls, as at the beginning of an episode."""
        _, sensors = self._run(qpos, qvel, self._still(len(qpos)), 1)
        return Moment(qpos, qvel, self._still(len(qpos)), target, sensors[:, 0], self.places)

    def settle(self, qpos: Tensor, qvel: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return qpos [n, nq] and qvel [n, nv] after ``steps`` physics steps under zero controls."""
        path, _ = self._run(qpos, qvel, self._still(len(qpos)), steps)
        end = path[:, -1].clone()
        return end[:, 1 : 1 + self.nq], end[:, 1 + self.nq :]

    def clearance(self, qpos: Tensor) -> Tensor:
        """Return [n], the smallest distance of the pairs ``never_touch``, m; negative where one touches."""
        if self._clearance is None:
            model = compile_model(self._recipe, distances=True)
            self._clearance = ThreadedRollout(model, self._max_rows, self._num_threads)
        count = len(self._recipe.never_touch)
        _, sensors = self._run(
            qpos, qpos.new_zeros(len(qpos), self.nv), self._still(len(qpos)), 1, self._clearance
        )
        return sensors[:, 0, -count:].amin(1)

    def close(self) -> None:
        """Free threads and simulator memory."""
        self._rollout.close()
        if self._clearance is not None:
            self._clearance.close()

    def _still(self, rows: int) -> Tensor:
        return torch.zeros(rows, self.nu, dtype=torch.float64)

    def _run(
        self, qpos: Tensor, qvel: Tensor, ctrl: Tensor, steps: int, engine: ThreadedRollout | None = None
    ) -> tuple[Tensor, Tensor]:
        """States [n, steps, 1 + nq + nv] after and readings [n, steps, nsensordata] before each step."""
        engine = engine or self._rollout
        rows = len(qpos)
        start = torch.zeros(rows, engine.state_size, dtype=torch.float64)
        start[:, 1 : 1 + self.nq] = qpos
        start[:, 1 + self.nq :] = qvel
        path = torch.empty(rows, steps, engine.state_size, dtype=torch.float64)
        sensors = torch.empty(rows, steps, engine.model.nsensordata, dtype=torch.float64)
        held = ctrl.unsqueeze(1).expand(-1, steps, -1).contiguous()
        engine.run(start, held, path, sensors)
        return path, sensors


def compile_model(recipe: ModelRecipe, distances: bool = False) -> mujoco.MjModel:
    """Return the compiled model of ``recipe``.

    With ``distances`` its last sensors are the distances of the pairs ``never_touch``; they are left out
    otherwise, because every physics step would measure them.

    Raises:
        EnvError: dm_control is missing, or MuJoCo cannot compile its model.
    """
    try:
        spec = mujoco.MjSpec.from_string(model_text(recipe.name), include=included_files())
        for sensor in (sensor for group in recipe.sensors.values() for sensor in group):
            spec.add_sensor(type=sensor.kind, objtype=sensor.of, objname=sensor.name)
        for first, second in recipe.never_touch if distances else ():
            geom = mujoco.mjtObj.mjOBJ_GEOM
            spec.add_sensor(
                type=mujoco.mjtSensor.mjSENS_GEOMDIST,
                objtype=geom,
                objname=first,
                reftype=geom,
                refname=second,
                cutoff=CLEARANCE_CUTOFF,
            )
        model = spec.compile()
    except ValueError as error:
        raise EnvError(f"MuJoCo cannot compile the model {recipe.name!r} of dm_control: {error}") from error
    recipe.adjust(model)
    return model


def sensor_places(model: mujoco.MjModel, recipe: ModelRecipe) -> dict[str, slice]:
    """Return the columns of each sensor of the file, and of each group of added ones, which follow them."""
    added = sum(map(len, recipe.sensors.values()))
    stock = model.nsensor - added
    ends = [int(model.sensor_adr[i] + model.sensor_dim[i]) for i in range(model.nsensor)]
    starts = [0, *ends[:-1]]
    places = {model.sensor(i).name: slice(starts[i], ends[i]) for i in range(stock)}
    first = stock
    for name, group in recipe.sensors.items():
        places[name] = slice(starts[first], ends[first + len(group) - 1])
        first += len(group)
    return places
