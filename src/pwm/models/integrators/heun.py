"""Heun (explicit trapezoid): mean of the slopes at both ends. Order 2, two velocity evaluations a substep."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pwm.models.integrators.explicit_rk import Tableau, VelocityFn, integrate

TABLEAU = Tableau(a=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 1.0), order=2)


def heun_step(velocity_fn: VelocityFn, z: Tensor, a: Tensor, task: Any = None, substeps: int = 1) -> Tensor:
    """Integrate over tau in [0, 1] with ``substeps`` steps; arguments as ``explicit_rk.integrate``."""
    return integrate(TABLEAU, velocity_fn, z, a, task, substeps)
