"""Integrators: order, gradients, number of evaluations, agreement with an independent library."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from pwm import components
from pwm.models.dynamics.flow import Options
from pwm.models.flow_world_model import FlowWorldModel
from pwm.models.integrators.explicit_rk import Tableau, integrate
from pwm.models.world_model import Options as WorldModelOptions
from pwm.models.world_model import build_world_model

NAMES = components.names("integrator")


def tableau(name: str) -> Tableau:
    return components.load("integrator", name).TABLEAU


class Pendulum:
    """A smooth, non-linear, time-dependent velocity that also reads the action."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def __call__(self, z: Tensor, a: Tensor, tau: Tensor, task: object) -> Tensor:
        assert tau.shape == (*z.shape[:-1], 1)
        self.calls.append(float(tau.flatten()[0]))
        angle, speed = z.chunk(2, dim=-1)
        return torch.cat((speed, -3 * torch.sin(angle) + a * torch.cos(4 * tau)), dim=-1)


def state() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return z, torch.randn(3, 2, generator=generator, dtype=torch.float64)


def test_every_component_offers_a_step_function() -> None:
    assert {"euler", "heun", "rk4"} <= set(NAMES)
    z, a = state()
    for name in NAMES:
        step = getattr(components.load("integrator", name), f"{name}_step")
        assert torch.equal(
            step(Pendulum(), z, a, None, 3), integrate(tableau(name), Pendulum(), z, a, None, 3)
        )
        assert torch.equal(step(Pendulum(), z, a), integrate(tableau(name), Pendulum(), z, a))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("substeps", [1, 3])
def test_times_are_those_of_the_velocity_evaluations(name: str, substeps: int) -> None:
    velocity = Pendulum()
    integrate(tableau(name), velocity, *state(), None, substeps)
    assert velocity.calls == pytest.approx(tableau(name).times(substeps), abs=1e-12)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": ((),), "b": (0.5, 0.5), "c": (0.0, 1.0)}, "sizes differ"),
        ({"a": ((), (1.0,)), "b": (0.5, 0.6), "c": (0.0, 1.0)}, "sum to"),
        ({"a": ((), (1.0, 0.0)), "b": (0.5, 0.5), "c": (0.0, 1.0)}, "needs 1 entries"),
        ({"a": ((), (0.5,)), "b": (0.5, 0.5), "c": (0.0, 1.0)}, r"c\[1\]"),
        ({"a": ((),), "b": (1.0,), "c": (0.5,)}, r"c\[0\]"),
    ],
)
def test_tableau_checks_itself(parts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tableau(**parts, order=2)


@pytest.mark.parametrize("name", NAMES)
def test_order_against_the_matrix_exponential(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    z = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    exact = z @ torch.linalg.matrix_exp(matrix).T
    errors = [
        (integrate(tableau(name), lambda x, a, tau, task: x @ matrix.T, z, z, None, substeps) - exact)
        .abs()
        .max()
        for substeps in (16, 32, 64)
    ]
    assert errors[-1] < errors[0]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(tableau(name).order, abs=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_order_where_the_velocity_depends_on_time(name: str) -> None:
    z, a = state()
    exact = integrate(tableau("rk4"), Pendulum(), z, a, None, 512)
    errors = [
        (integrate(tableau(name), Pendulum(), z, a, None, substeps) - exact).abs().max()
        for substeps in (16, 32, 64)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(tableau(name).order, abs=0.3)


def reference_solution(z: Tensor, a: Tensor, method: str, **options: object) -> Tensor:
    velocity = Pendulum()
    return odeint(
        lambda tau, x: velocity(x, a, tau.expand(*x.shape[:-1], 1), None),
        z,
        torch.tensor([0.0, 1.0], dtype=z.dtype),
        method=method,
        **options,
    )[-1]


@pytest.mark.parametrize(("name", "method"), [("euler", "euler"), ("heun", "heun2")])
def test_fixed_steps_equal_torchdiffeq(name: str, method: str) -> None:
    z, a = state()
    for substeps in (1, 4, 7):
        reference = reference_solution(z, a, method, options={"step_size": 1 / substeps})
        ours = integrate(tableau(name), Pendulum(), z, a, None, substeps)
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


def test_rk4_equals_torchdiffeq_on_a_linear_system() -> None:
    # torchdiffeq's rk4 is the 3/8 rule: another tableau, the same result where the velocity is linear in z.
    z, a = state()
    matrix = torch.tensor([[0.0, 1, 0, 0], [-2, -0.1, 0, 1], [0, 0, -1, 2], [1, 0, 0, 0]], dtype=z.dtype)
    reference = odeint(
        lambda tau, x: x @ matrix, z, torch.tensor([0.0, 1.0], dtype=z.dtype), method="rk4",
        options={"step_size": 0.25},
    )[-1]  # fmt: skip
    ours = integrate(tableau("rk4"), lambda x, a, tau, task: x @ matrix, z, a, None, 4)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_converges_to_the_adaptive_solution(name: str) -> None:
    z, a = state()
    reference = reference_solution(z, a, "dopri5", rtol=1e-10, atol=1e-12)
    error = (integrate(tableau(name), Pendulum(), z, a, None, 200) - reference).abs().max()
    assert error < {1: 5e-2, 2: 5e-4}.get(tableau(name).order, 1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_finite_differences(name: str) -> None:
    z, a = state()
    weight = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=z.dtype)

    def result(z: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        return integrate(tableau(name), lambda *args: torch.tanh(Pendulum()(*args)), z, a @ weight, None, 3)

    inputs = tuple(x.clone().requires_grad_() for x in (z, a, weight))
    assert torch.autograd.gradcheck(result, inputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("substeps", [1, 3])
def test_number_and_times_of_velocity_calls(name: str, substeps: int) -> None:
    z, a = state()
    velocity = Pendulum()
    integrate(tableau(name), velocity, z, a, None, substeps)
    table = tableau(name)
    assert len(velocity.calls) == table.stages * substeps
    expected = [(k + c) / substeps for k in range(substeps) for c in table.c]
    assert velocity.calls == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("substeps", [0, -1])
def test_substeps_below_one_are_an_error(substeps: int) -> None:
    z, a = state()
    for name in NAMES:
        with pytest.raises(ValueError, match="at least 1"):
            integrate(tableau(name), Pendulum(), z, a, None, substeps)


def flow_model(integrator: str = "heun", substeps: int = 2) -> FlowWorldModel:
    options = WorldModelOptions(latent_dim=16, encoder_units=[16], reward_units=[16])
    dynamics = Options(units=[16], integrator=integrator, substeps=substeps)
    return build_world_model(options, dynamics, obs_dim=5, act_dim=2)


@pytest.mark.parametrize("name", NAMES)
def test_world_model_counts_its_velocity_evaluations(name: str) -> None:
    model = flow_model(name, 3)
    calls: list[int] = []
    model.dynamics.net.register_forward_hook(lambda *_: calls.append(1))
    z, a = torch.rand(4, 16), torch.rand(4, 2)
    model.next(z, a)
    assert len(calls) == model.dynamics.velocity_evals == tableau(name).stages * 3


def test_public_next_equals_the_dynamics_own() -> None:
    model = flow_model()
    z, a = torch.rand(4, 16), torch.rand(4, 2)
    assert torch.equal(model.next(z, a), model.dynamics.next(z, a))
    assert torch.equal(model.next(z, a, integrator="heun", substeps=2), model.next(z, a))
    assert not torch.equal(model.next(z, a, integrator="euler", substeps=1), model.next(z, a))
