"""World model whose dynamics integrate a velocity field."""

from __future__ import annotations

from torch import Tensor

from pwm import components
from pwm.models.integrators.explicit_rk import integrate
from pwm.models.world_model import WorldModel, _like


class FlowWorldModel(WorldModel):
    """A WorldModel with flow dynamics; adds ``velocity`` and a choice of integrator per call."""

    def velocity(self, z: Tensor, a: Tensor, tau: Tensor, task: int | Tensor | None = None) -> Tensor:
        """dz/dtau [..., L] at latents [..., L], actions [..., A] and flow time [..., 1]."""
        return self.dynamics.velocity(z, a, tau, _like(self.embed(task), z))  # type: ignore[operator]

    def next(
        self,
        z: Tensor,
        a: Tensor,
        task: int | Tensor | None = None,
        integrator: str | None = None,
        substeps: int | None = None,
    ) -> Tensor:
        """Latents at tau = 1; ``integrator`` and ``substeps`` default to the model's own."""
        options = self.dynamics.options
        tableau = components.load("integrator", integrator or options.integrator).TABLEAU
        e = _like(self.embed(task), z)
        return integrate(tableau, self.dynamics.velocity, z, a, e, substeps or options.substeps)

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
