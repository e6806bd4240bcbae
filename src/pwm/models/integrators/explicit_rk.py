"""The stepping loop every explicit Runge-Kutta method shares.

A method with S stages is its Butcher tableau (Hairer, Norsett & Wanner 1993, sec. II.1)::

    c_1 |
    c_2 | a_21                      k_i = v(z + h sum_j a_ij k_j, tau + c_i h)
    ... | ...                       z  <- z + h sum_i b_i k_i
    c_S | a_S1 ... a_S,S-1
    ----+-----------------
        | b_1  ...  b_S
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pwm import components

# (z [..., L], a [..., A], tau [..., 1], task) -> dz/dtau [..., L]
VelocityFn = Callable[[Tensor, Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method; checks itself on creation.

    Attributes:
        a: row i holds the i-1 weights of the earlier slopes.
        b: weights of the slopes in the step.
        c: nodes; c_i must equal the sum of row i.
        order: order of accuracy.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    order: int

    def __post_init__(self) -> None:
        if not len(self.a) == len(self.b) == len(self.c):
            raise ValueError(f"tableau sizes differ: a {len(self.a)}, b {len(self.b)}, c {len(self.c)}")
        if not math.isclose(sum(self.b), 1.0, abs_tol=1e-12):
            raise ValueError(f"weights b sum to {sum(self.b)}, not 1")
        for i, (row, node) in enumerate(zip(self.a, self.c, strict=True)):
            if len(row) != i:
                raise ValueError(f"row {i} of an explicit tableau needs {i} entries, got {len(row)}")
            if not math.isclose(sum(row), node, abs_tol=1e-12):
                raise ValueError(f"row {i} sums to {sum(row)}, but c[{i}] = {node}")

    @property
    def stages(self) -> int:
        """Velocity evaluations per substep."""
        return len(self.b)

    def times(self, substeps: int) -> list[float]:
        """Flow times of all velocity evaluations of ``integrate``, in their order."""
        return [(k + node) / substeps for k in range(substeps) for node in self.c]


def integrate(
    tableau: Tableau, velocity_fn: VelocityFn, z: Tensor, a: Tensor, task: Any = None, substeps: int = 1
) -> Tensor:
    """Integrate ``velocity_fn`` from tau 0 to 1 in ``substeps`` equal steps, the action held constant.

    Args:
        tableau: the method.
        velocity_fn: called ``tableau.stages * substeps`` times as ``(z, a, tau, task)`` with tau [..., 1].
        z: start latents [..., L].
        a: actions [..., A].
        task: handed to ``velocity_fn`` untouched.
        substeps: K >= 1.

    Returns:
        Latents at tau = 1, [..., L], differentiable with respect to every input.

    Raises:
        ValueError: ``substeps`` is smaller than 1.
    """
    if substeps < 1:
        raise ValueError(f"substeps must be at least 1, got {substeps}")
    h = 1.0 / substeps
    tau_shape = (*z.shape[:-1], 1)
    for k in range(substeps):
        slopes: list[Tensor] = []
        for row, node in zip(tableau.a, tableau.c, strict=True):
            stage = _advance(z, slopes, row, h)
            slopes.append(velocity_fn(stage, a, z.new_full(tau_shape, (k + node) * h), task))
        z = _advance(z, slopes, tableau.b, h)
    return z


def load_tableau(name: str) -> Tableau:
    """Coefficients of the integrator called ``name``.

    Raises:
        UnknownComponentError: there is none; the message lists the names.
    """
    tableau: Tableau = components.load("integrator", name).TABLEAU
    return tableau


def _advance(z: Tensor, slopes: list[Tensor], weights: tuple[float, ...], h: float) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=True):
        if weight != 0.0:
            z = torch.add(z, slope, alpha=h * weight)
    return z
