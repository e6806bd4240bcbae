"""Integration error of flow dynamics: how far from the exact solution every integrator and K ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pwm import components
from pwm.models.dynamics.base import Dynamics, Integrated
from pwm.models.integrators.explicit_rk import VelocityFn, integrate, load_tableau
from pwm.models.integrators.rk4 import TABLEAU as RK4

SUBSTEPS = (1, 2, 4, 8, 16)
# The reference: RK4 with so many substeps, 4^4 times as exact as RK4 with the largest K above.
REFERENCE_SUBSTEPS = 4 * SUBSTEPS[-1]
# Errors below this share of the change are rounding, in double precision, and say nothing about the order.
ROUNDING = 1e-12


@torch.no_grad()
def integration_error(dynamics: Dynamics, z: Tensor, a: Tensor, target: Tensor) -> dict[str, Any] | None:
    """Judge the integration of one step from ``z`` [B, L] under ``a`` [B, A], in double precision.

    Args:
        dynamics: any; None is returned for those that integrate nothing.
        z, a: where to start.
        target: [B, L], the encoded observations that really followed.

    Returns:
        ``methods``: see ``convergence``. ``own``: error of the model's own ``next``, and ``substeps`` and
        ``order`` of its method. ``prediction`` of every method and K, ``own_prediction`` and
        ``reference_prediction``: squared distance to ``target`` over the squared change; finer integration
        that predicts worse means that the velocity was learned for the coarse one.
    """
    if not isinstance(dynamics, Integrated):
        return None
    # Single precision hides the errors of RK4, and so its order.
    exact = cast("Integrated", copy.deepcopy(cast("nn.Module", dynamics)).double())
    z, a, target = z.double(), a.double(), target.double()
    found, solutions, reference = convergence(exact.velocity, z, a)
    own = cast("Dynamics", exact).next(z, a)
    real = target - z
    return {
        "methods": found,
        "own": {
            "substeps": exact.substeps,
            "order": exact.tableau.order,
            "error": ratio(own - reference, reference - z),
        },
        "prediction": {name: [ratio(end - target, real) for end in ends] for name, ends in solutions.items()},
        "own_prediction": ratio(own - target, real),
        "reference_prediction": ratio(reference - target, real),
        "reference": {"method": "rk4", "substeps": REFERENCE_SUBSTEPS},
    }


def convergence(
    velocity: VelocityFn, z: Tensor, a: Tensor
) -> tuple[dict[str, Any], dict[str, list[Tensor]], Tensor]:
    """Errors of every integrator over ``SUBSTEPS`` against a fine reference.

    Returns:
        By integrator ``substeps``, ``error`` (squared distance to the reference over its squared change) and
        ``order`` (measured, see ``measured_order``); by integrator the solutions [B, L]; the reference.
    """
    reference = integrate(RK4, velocity, z, a, None, REFERENCE_SUBSTEPS)
    found, solutions = {}, {}
    for name in components.names("integrator"):
        solutions[name] = [integrate(load_tableau(name), velocity, z, a, None, k) for k in SUBSTEPS]
        error = [ratio(end - reference, reference - z) for end in solutions[name]]
        found[name] = {"substeps": list(SUBSTEPS), "error": error, "order": measured_order(error)}
    return found, solutions, reference


def measured_order(error: Sequence[float]) -> float | None:
    """Order of convergence p of squared errors that belong to doubled substeps: error ~ K^-2p.

    Taken from the finest two that are not rounding; None where there are none.
    """
    clear = [e for e in error if math.isfinite(e) and e > ROUNDING**2]
    if len(clear) < 2 or clear != list(error[: len(clear)]):
        return None
    return 0.5 * math.log2(clear[-2] / clear[-1])


def ratio(error: Tensor, change: Tensor) -> float:
    """Mean squared length of ``error`` over that of ``change``, both [B, L]; NaN where nothing changes."""
    return float(error.square().sum() / change.square().sum())
