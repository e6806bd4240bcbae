"""Jacobian norms and integration errors against answers known by construction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pwm.algorithm.agent import Agent
from pwm.analysis.model_quality.integration import (
    ROUNDING,
    SUBSTEPS,
    convergence,
    integration_error,
    measured_order,
)
from pwm.analysis.model_quality.smoothness import (
    TOLERANCE,
    frobenius_norm,
    frobenius_norms,
    smoothness,
    spectral_norm,
    spread,
)
from pwm.configuration.building import build_agent
from pwm.configuration.config import compose_config
from pwm.data.batch import Batch
from pwm.envs.base import EnvSpec
from pwm.models.actors.base import Actor, Decision
from pwm.models.dynamics.base import Integrated, unroll

L, ACT, OBS, H, B = 16, 3, 5, 6, 4
SIZES = [
    "env=analytic",
    f"alg.latent_dim={L}",
    "alg.encoder_units=[16]",
    "alg.reward_units=[16]",
    "alg.critic_units=[16]",
    "alg.dynamics.units=[24]",
    "alg.actor.units=[16]",
]
KINDS = {
    "mlp": ["alg=pwm_small_h16"],
    "residual": ["alg=pwm_small_h16_residual"],
    "flow": ["alg=pwm_small_h16_flow", "alg.flow_integrator=heun", "alg.flow_substeps=2"],
}


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=stream(seed)) / math.sqrt(columns)


def agent_of(kind: str) -> Agent:
    """An agent whose dynamics are far from linear: their weights are drawn large."""
    agent = build_agent(
        compose_config([*SIZES, *KINDS[kind]]), EnvSpec("x", OBS, ACT, 9, 0.0), torch.device("cpu")
    )
    generator = stream(3)
    with torch.no_grad():
        for parameters in (agent.world_model.dynamics, agent.actor.net):
            for weight in parameters.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
    return agent


def batch() -> Batch:
    generator = stream(1)
    never = torch.zeros(H, B, dtype=torch.bool)
    return Batch(
        torch.randn(H + 1, B, OBS, generator=generator),
        torch.rand(H, B, ACT, generator=generator) * 2 - 1,
        torch.zeros(H, B),
        never,
        ~never,
    )


def jacobians(function, x: Tensor) -> Tensor:
    """Jacobians [B, m, n] of a map that treats rows separately, by central differences in float64."""
    step = 1e-6
    columns = []
    for unit in torch.eye(x.shape[1], dtype=x.dtype):
        columns.append((function(x + step * unit) - function(x - step * unit)) / (2 * step))
    return torch.stack(columns, dim=-1)


# --- norms ----------------------------------------------------------------------------------------


def test_norms_of_linear_maps_that_one_direction_tells() -> None:
    """Rows (or columns) that are orthogonal need no average: one probe gives the Frobenius norm."""
    q = torch.linalg.qr(matrix(6, 6, 2)).Q
    x = torch.randn(B, 6, generator=stream())
    scale = torch.arange(1.0, B + 1)[:, None]
    expected = scale.squeeze(1) * math.sqrt(6)
    function = lambda x: scale * (x @ q.T)  # noqa: E731
    torch.testing.assert_close(frobenius_norm(function, x, stream(), probes=1), expected)
    torch.testing.assert_close(frobenius_norms(function, x, stream(), probes=1), expected)
    torch.testing.assert_close(spectral_norm(function, x, stream()), scale.squeeze(1))


@pytest.mark.parametrize(("rows", "columns"), [(5, 9), (9, 5), (1, 4), (4, 1)])
def test_norms_of_any_linear_map(rows: int, columns: int) -> None:
    w = matrix(rows, columns, 4)
    x = torch.randn(200, columns, generator=stream())
    exact = torch.linalg.matrix_norm(w)
    for norm in (frobenius_norm, frobenius_norms):
        estimates = norm(lambda x: x @ w.T, x, stream(5), probes=64)
        # 200 states of one matrix are 12800 directions.
        torch.testing.assert_close(estimates.square().mean().sqrt(), exact, rtol=0.02, atol=0.0)
        assert (estimates / exact - 1).abs().max() < 0.5
    largest = spectral_norm(lambda x: x @ w.T, x, stream(6), rounds=500)
    assert (largest <= torch.linalg.matrix_norm(w, 2) * (1 + 1e-5)).all()
    torch.testing.assert_close(largest, torch.linalg.matrix_norm(w, 2).expand(200), rtol=0.02, atol=0.0)


def test_a_constant_has_no_slope() -> None:
    x = torch.randn(B, 3, generator=stream())
    for norm in (frobenius_norm, frobenius_norms, spectral_norm):
        assert norm(lambda x: 0.0 * x + 1.0, x, stream()).tolist() == [0.0] * B


def test_norms_depend_on_nothing_but_the_stream() -> None:
    w = matrix(7, 7, 8)
    x = torch.randn(B, 7, generator=stream())
    for norm in (frobenius_norm, frobenius_norms, spectral_norm):
        first, again, other = (norm(lambda x: torch.tanh(x @ w), x, stream(s)) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_norms_of_every_dynamics_against_finite_differences(kind: str) -> None:
    agent, data = agent_of(kind), batch()
    dynamics = agent.world_model.dynamics.double()
    assert all(p.requires_grad for p in dynamics.parameters())
    with torch.no_grad():
        z, action = agent.world_model.encode(data.obs[0]).double(), data.action.double()
        for function, x in (
            (lambda z: dynamics.next(z, action[0]), z),
            (lambda a: dynamics.next(z, a), action[0]),
            (lambda z: unroll(dynamics, z, action)[-1], z),
        ):
            exact = jacobians(function, x)
            torch.testing.assert_close(
                frobenius_norm(function, x, stream(), probes=400),
                torch.linalg.matrix_norm(exact),
                rtol=0.1,
                atol=0.0,
            )
            torch.testing.assert_close(
                spectral_norm(function, x, stream(), rounds=500),
                torch.linalg.matrix_norm(exact, 2),
                rtol=10 * TOLERANCE,
                atol=0.0,
            )


class Linear(nn.Module):
    """z' = z A' + a B'."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.a, self.b = a, b

    def next(self, z: Tensor, a: Tensor, e: Tensor | None = None) -> Tensor:
        return z @ self.a.T + a @ self.b.T


class LinearPolicy(Actor):
    """a = z K'."""

    def __init__(self, k: Tensor) -> None:
        super().__init__()
        self.k = k

    def decide(self, z: Tensor, noise: Tensor | None = None) -> Decision:
        action = z @ self.k.T
        return Decision(action, action)

    def mean_std(self) -> Tensor:
        return self.k.new_zeros(())


def test_composed_steps_of_a_linear_system() -> None:
    """The product of k equal Jacobians is a matrix power, of A alone or of A + B K with the policy's part."""
    a, b, k = 1.1 * torch.linalg.qr(matrix(L, L, 1)).Q, matrix(L, ACT, 2), 0.3 * matrix(ACT, L, 3)
    agent, data = agent_of("mlp"), batch()
    agent.world_model.dynamics, agent.actor_critic.averaged_actor = Linear(a, b), LinearPolicy(k)
    found = smoothness(agent, data, stream())
    assert found["states"] == B
    largest = float(torch.linalg.matrix_norm(b, 2))
    assert found["action"]["spectral"]["median"] == pytest.approx(largest, rel=0.02)
    assert found["latent"]["gain"]["max"] == pytest.approx(1.1, rel=1e-4)
    assert found["latent"]["frobenius"]["min"] == pytest.approx(1.1 * math.sqrt(L), rel=1e-4)
    z = agent.world_model.encode(data.obs[0]).detach()
    change = agent.world_model.dynamics.next(z, data.action[0]) - z
    assert found["change"] == pytest.approx(float(change.square().sum(1).mean().sqrt()), rel=1e-4)

    alone = found["open_loop"]
    assert alone["gain"]["median"] == pytest.approx([1.1**n for n in range(1, H + 1)], rel=1e-4)
    assert alone["growth"] == pytest.approx(1.1, rel=1e-4)
    assert alone["spectral"]["at"] == [1, 2, 4, H]
    assert alone["spectral"]["max"] == pytest.approx([1.1**n for n in (1, 2, 4, H)], rel=1e-3)
    closed = found["closed_loop"]
    for n, norm in zip((1, 2, 4, H), closed["spectral"]["median"], strict=True):
        exact = torch.linalg.matrix_power(a + b @ k, n)
        assert norm == pytest.approx(float(torch.linalg.matrix_norm(exact, 2)), rel=0.03)
        gain = closed["gain"]["median"][n - 1]
        assert gain == pytest.approx(float(torch.linalg.matrix_norm(exact)) / math.sqrt(L), rel=0.1)


def test_spread_of_known_values() -> None:
    values = torch.arange(0.0, 101.0)
    assert spread(values) == {"mean": 50.0, "min": 0.0, "median": 50.0, "p95": 95.0, "max": 100.0}


# --- integration ----------------------------------------------------------------------------------


def field(z: Tensor, a: Tensor, tau: Tensor, task: object) -> Tensor:
    """A velocity that depends on everything, far from straight paths."""
    first, second = z.chunk(2, dim=-1)
    return torch.cat((second, -3 * torch.sin(first) + a * torch.cos(4 * tau)), dim=-1)


def test_every_integrator_shows_its_order() -> None:
    z = torch.randn(B, 4, generator=stream(), dtype=torch.float64)
    a = torch.randn(B, 2, generator=stream(1), dtype=torch.float64)
    found, solutions, reference = convergence(field, z, a)
    for name, order in {"euler": 1, "heun": 2, "rk4": 4}.items():
        assert found[name]["substeps"] == list(SUBSTEPS)
        assert found[name]["order"] == pytest.approx(order, abs=0.25)
        error = (solutions[name][2] - reference).square().sum() / (reference - z).square().sum()
        assert found[name]["error"][2] == pytest.approx(float(error))


def test_errors_against_the_matrix_exponential() -> None:
    w = matrix(5, 5, 7).double()
    z = torch.randn(B, 5, generator=stream(), dtype=torch.float64)
    found, _, reference = convergence(lambda z, a, tau, task: z @ w.T, z, z)
    exact = z @ torch.linalg.matrix_exp(w).T
    torch.testing.assert_close(reference, exact, rtol=1e-9, atol=1e-9)
    euler = z @ torch.linalg.matrix_power(torch.eye(5, dtype=torch.float64) + w / 8, 8).T
    expected = (euler - exact).square().sum() / (exact - z).square().sum()
    assert found["euler"]["error"][SUBSTEPS.index(8)] == pytest.approx(float(expected), rel=1e-6)


def test_straight_paths_have_no_error_and_no_order() -> None:
    z = torch.randn(B, 4, generator=stream(), dtype=torch.float64)
    found, _, reference = convergence(lambda z, a, tau, task: a, z, torch.ones_like(z))
    torch.testing.assert_close(reference, z + 1)
    for method in found.values():
        assert max(method["error"]) < ROUNDING**2
        assert method["order"] is None


@pytest.mark.parametrize(
    ("error", "order"),
    [
        ([1.0, 0.25, 0.0625], 1.0),
        ([9.0, 1.0, 1 / 16], 2.0),
        # What lies below rounding does not count.
        ([1.0, 1 / 256, 1e-26], 4.0),
        ([1.0, 1e-26, 1e-26], None),
        ([1e-26, 1.0, 0.25], None),
        ([math.nan, math.nan, math.nan], None),
        ([math.inf, 1.0, 0.25], None),
    ],
)
def test_order_of_known_errors(error: list[float], order: float | None) -> None:
    assert measured_order(error) == (order if order is None else pytest.approx(order))


@pytest.mark.parametrize("kind", ["mlp", "residual"])
def test_what_integrates_nothing_has_no_integration_error(kind: str) -> None:
    dynamics = agent_of(kind).world_model.dynamics
    assert not isinstance(dynamics, Integrated)
    z = torch.rand(B, L)
    assert integration_error(dynamics, z, torch.rand(B, ACT), z) is None


def test_flow_is_judged_by_its_own_method_and_left_as_it_was() -> None:
    agent = agent_of("flow")
    dynamics = agent.world_model.dynamics
    z = torch.rand(B, L, generator=stream())
    a = torch.rand(B, ACT, generator=stream(1))
    with torch.no_grad():
        target = dynamics.next(z, a)
    found = integration_error(dynamics, z, a, target)
    assert found is not None
    assert (found["own"]["substeps"], found["own"]["order"]) == (2, 2)
    assert found["own"]["error"] == pytest.approx(found["methods"]["heun"]["error"][1])
    assert found["own"]["error"] > 1e-6
    # The target was its own prediction in single precision.
    assert found["own_prediction"] < 1e-10
    assert found["prediction"]["heun"][1] == pytest.approx(found["own_prediction"])
    assert found["reference_prediction"] > 1e-6
    for network in (agent.world_model, agent.policy):
        assert all(p.dtype == torch.float32 for p in network.parameters())
