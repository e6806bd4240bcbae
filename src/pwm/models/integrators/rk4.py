"""Classical Runge-Kutta (Kutta 1901). Order 4, four velocity evaluations per substep."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pwm.models.integrators.explicit_rk import Tableau, VelocityFn, integrate

TABLEAU = Tableau(
    a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 0.5, 0.5, 1.0),
    order=4,
)


def rk4_step(velocity_fn: VelocityFn, z: Tensor, a: Tensor, task: Any = None, substeps: int = 1) -> Tensor:
    """Integrate over tau in [0, 1] with ``substeps`` steps; arguments as ``explicit_rk.integrate``."""
    return integrate(TABLEAU, velocity_fn, z, a, task, substeps)
