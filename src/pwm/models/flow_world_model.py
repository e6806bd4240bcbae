"""World model whose dynamics integrate a velocity field."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor

from pwm.models.integrators.explicit_rk import integrate, load_tableau
from pwm.models.world_model import WorldModel, _like

if TYPE_CHECKING:
    from pwm.models.dynamics.flow import FlowDynamics


class FlowWorldModel(WorldModel):
    """A WorldModel with flow dynamics; adds ``velocity`` and a choice of integrator per call."""

    @property
    def flow(self) -> FlowDynamics:
        """The dynamics, as the flow model they are."""
        return cast("FlowDynamics", self.dynamics)

    def velocity(self, z: Tensor, a: Tensor, tau: Tensor, task: int | Tensor | None = None) -> Tensor:
        """dz/dtau [..., L] at latents [..., L], actions [..., A] and flow time [..., 1]."""
        return self.flow.velocity(z, a, tau, _like(self.embed(task), z))

    def next(
        self,
        z: Tensor,
        a: Tensor,
        task: int | Tensor | None = None,
        integrator: str | None = None,
        substeps: int | None = None,
    ) -> Tensor:
        """Latents at tau = 1; ``integrator`` and ``substeps`` default to the model's own."""
        flow = self.flow
        tableau = flow.tableau if integrator is None else load_tableau(integrator)
        steps = flow.options.substeps if substeps is None else substeps
        e = _like(self.embed(task), z)
        return flow.space.within(integrate(tableau, flow.velocity, z, a, e, steps), e)

    def step(
        self,
        z: Tensor,
        a: Tensor,
        task: int | Tensor | None = None,
        integrator: str | None = None,
        substeps: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``(next(...), reward(z, a, task))``."""
        return self.next(z, a, task, integrator, substeps), self.reward(z, a, task)
