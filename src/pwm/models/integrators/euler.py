"""Euler: z <- z + h v(z, tau). Order 1, one velocity evaluation per substep."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pwm.models.integrators.explicit_rk import Tableau, VelocityFn, integrate

TABLEAU = Tableau(a=((),), b=(1.0,), c=(0.0,), order=1)


def euler_step(velocity_fn: VelocityFn, z: Tensor, a: Tensor, task: Any = None, substeps: int = 1) -> Tensor:
    """Integrate over tau in [0, 1] with ``substeps`` steps; arguments as ``explicit_rk.integrate``."""
    return integrate(TABLEAU, velocity_fn, z, a, task, substeps)
