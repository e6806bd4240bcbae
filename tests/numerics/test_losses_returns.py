"""Returns against plain loops, reward heads against what they should learn, properties of the dynamics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pwm.algorithm.losses import world_model_loss
from pwm.algorithm.returns import td_lambda, trajectory_objective
from pwm.data.batch import Batch
from pwm.errors import ConfigError
from pwm.models import scalar_heads
from pwm.models.dynamics import flow, mlp, residual
from pwm.models.dynamics.base import unroll
from pwm.models.dynamics.flow import compute_flow_matching_loss
from pwm.models.encoder import build_encoder
from pwm.models.integrators.euler import euler_step
from pwm.models.latent_space import Simplices
from pwm.models.layers import SimNorm, concat_inputs
from pwm.models.scalar_heads import RegressionHead, ScalarHead, TwoHotHead, symexp, symlog
from pwm.models.world_model import Options as WorldModelOptions
from pwm.models.world_model import build_world_model

GAMMA = 0.9


class Window:
    """Random rewards, values and episode ends; values after a termination are zero."""

    def __init__(self, seed: int, steps: int, batch: int, rate: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rewards, values, end, terminal, self.survival = torch.rand(
            5, steps, batch, generator=generator, dtype=torch.float64
        )
        self.ends = end < rate
        terminated = self.ends & (terminal < 0.5)
        self.next_values = (2 * values - 1) * ~terminated


windows = st.builds(
    Window,
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 12),
    batch=st.integers(1, 4),
    rate=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
)


def naive_td_lambda(w: Window, lam: float, use_ends: bool, use_survival: bool) -> Tensor:
    steps, batch = w.rewards.shape
    target = torch.zeros_like(w.rewards)
    for b in range(batch):
        for t in range(steps - 1, -1, -1):
            value = float(w.next_values[t, b])
            last = t == steps - 1 or (use_ends and bool(w.ends[t, b]))
            ahead = value if last else (1 - lam) * value + lam * float(target[t + 1, b])
            alive = float(w.survival[t, b]) if use_survival else 1.0
            target[t, b] = float(w.rewards[t, b]) + GAMMA * alive * ahead
    return target


def naive_objective(w: Window, use_ends: bool, use_survival: bool) -> Tensor:
    steps, batch = w.rewards.shape
    total = torch.zeros(batch, dtype=w.rewards.dtype)
    for b in range(batch):
        discount = 1.0
        for t in range(steps):
            total[b] += discount * float(w.rewards[t, b])
            discount *= GAMMA * (float(w.survival[t, b]) if use_survival else 1.0)
            if t == steps - 1 or (use_ends and bool(w.ends[t, b])):
                total[b] += discount * float(w.next_values[t, b])
                discount = 1.0
    return total


@settings(max_examples=60, deadline=None)
@given(window=windows, lam=st.sampled_from([0.0, 0.95, 1.0]), mode=st.sampled_from(["plain", "ends", "both"]))
def test_td_lambda_equals_a_plain_loop(window: Window, lam: float, mode: str) -> None:
    ends = window.ends if mode != "plain" else None
    survival = window.survival if mode == "both" else None
    ours = td_lambda(window.rewards, window.next_values, ends, GAMMA, lam, survival)
    naive = naive_td_lambda(window, lam, ends is not None, survival is not None)
    torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(window=windows, mode=st.sampled_from(["plain", "ends", "survival"]))
def test_objective_equals_a_plain_loop(window: Window, mode: str) -> None:
    ends = window.ends if mode == "ends" else None
    survival = window.survival if mode == "survival" else None
    ours = trajectory_objective(window.rewards, window.next_values, ends, GAMMA, survival)
    naive = naive_objective(window, ends is not None, survival is not None)
    # gamma times the bool mask of ends is float32, whatever the rewards are.
    precision = 1e-12 if ends is None else 1e-7
    torch.testing.assert_close(ours, naive, rtol=precision, atol=precision)


@pytest.mark.parametrize("terminated", [False, True])
def test_an_end_on_the_last_step_keeps_the_segment(terminated: bool) -> None:
    rewards = torch.tensor([[1.0], [2.0], [4.0]])
    values = torch.tensor([[5.0], [6.0], [0.0 if terminated else 8.0]])
    ends = torch.tensor([[False], [False], [True]])
    expected = 1 + 2 * GAMMA + 4 * GAMMA**2 + GAMMA**3 * float(values[-1])
    assert float(trajectory_objective(rewards, values, ends, GAMMA)) == pytest.approx(expected)
    for no_ends in (None, torch.zeros_like(ends)):
        assert float(trajectory_objective(rewards, values, no_ends, GAMMA)) == pytest.approx(expected)
    # With lam = 1 the first target is that same return.
    for any_ends in (ends, None):
        assert float(td_lambda(rewards, values, any_ends, GAMMA, 1.0)[0]) == pytest.approx(expected)


def test_ends_and_survival_exclude_each_other() -> None:
    window = Window(0, 3, 2, 0.5)
    with pytest.raises(ValueError, match="not both"):
        trajectory_objective(window.rewards, window.next_values, window.ends, GAMMA, window.survival)


def test_objective_gradient_reaches_rewards_and_the_values_that_count() -> None:
    window = Window(4, 5, 3, 0.4)
    values = window.next_values.clone().requires_grad_()
    rewards = window.rewards.clone().requires_grad_()
    trajectory_objective(rewards, values, window.ends, GAMMA).sum().backward()
    assert (rewards.grad > 0).all()
    counts = window.ends.clone()
    counts[-1] = True
    assert torch.equal(values.grad != 0, counts)


@pytest.mark.parametrize("head", [RegressionHead(), TwoHotHead(41, -5.0, 5.0)], ids=["regression", "two_hot"])
def test_reward_heads_learn_the_true_reward(head: ScalarHead) -> None:
    torch.manual_seed(0)
    x = torch.rand(256, 2) * 2 - 1
    reward = 6 * x[:, 0] - 3 * x[:, 1] ** 2
    net = nn.Sequential(nn.Linear(2, 64), nn.Mish(), nn.Linear(64, head.width))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        head.loss(net(x), reward).mean().backward()
        optimizer.step()
    error = (head.decode(net(x)) - reward).abs().mean()
    assert error < 0.05 * reward.std()


def test_two_hot_targets_decode_to_the_reward() -> None:
    head = TwoHotHead(101, -10.0, 10.0)
    rewards = torch.tensor([0.0, 0.3, -0.3, 17.0, -250.0, 20000.0])
    target = head.two_hot(rewards)
    torch.testing.assert_close(target.sum(-1), torch.ones(6))
    assert ((target > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(symexp(target @ head.bins), rewards, rtol=1e-4, atol=1e-5)
    logits = torch.log(target + 1e-12)
    torch.testing.assert_close(head.decode(logits), rewards, rtol=1e-4, atol=1e-5)


def test_two_hot_at_and_beyond_the_edges() -> None:
    head = TwoHotHead(11, -1.0, 1.0)
    top, bottom = head.two_hot(symexp(torch.tensor([1.0, -1.0])))
    beyond_top, beyond_bottom = head.two_hot(torch.tensor([1e9, -1e9]))
    torch.testing.assert_close(top, beyond_top)
    torch.testing.assert_close(bottom, beyond_bottom)
    assert torch.equal(beyond_top, torch.eye(11)[10])
    assert torch.equal(beyond_bottom, torch.eye(11)[0])
    values = torch.tensor([0.0, 1e-6, -3.0, 1e4])
    torch.testing.assert_close(symexp(symlog(values)), values)


def test_reward_heads_reject_other_shapes() -> None:
    for head in (RegressionHead(), TwoHotHead(5)):
        raw = torch.zeros(4, 3, head.width)
        assert head.loss(raw, torch.zeros(4, 3)).shape == (4, 3)
        assert head.decode(raw).shape == (4, 3)
        for reward in (torch.zeros(4, 3, 1), torch.zeros(3), torch.zeros(3, 4)):
            with pytest.raises(ValueError, match="match"):
                head.loss(raw, reward)
        with pytest.raises(ValueError, match="match"):
            head.loss(torch.zeros(4, 3, head.width + 1), torch.zeros(4, 3))


def test_the_flow_loss_of_the_true_velocity_is_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(64, 8, generator=generator)
    a = torch.rand(64, 8, generator=generator)
    loss = compute_flow_matching_loss(lambda x, act, tau, task: act, z, z + a, a, generator=generator)
    assert float(loss) < 1e-10
    torch.testing.assert_close(euler_step(lambda x, act, tau, task: act, z, a), z + a)


def toy_transition(latent_dim: int, simnorm: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents z, actions a and targets whose change depends on the action only."""
    generator = torch.Generator().manual_seed(5)
    z = SimNorm(simnorm)(torch.randn(64, latent_dim, generator=generator))
    a = torch.rand(64, 2, generator=generator)
    direction = torch.zeros(latent_dim)
    direction[0], direction[1] = 0.1, -0.1
    return z, a, z + a[:, :1] * direction


def fit(head: str) -> float:
    """Flow loss that a small velocity network reaches on the toy transition, relative to predicting 0."""
    torch.manual_seed(0)
    z, a, target = toy_transition(16, 8)
    dynamics = flow.build(flow.Options(units=[32], velocity_head=head), Simplices(16, SimNorm(8)), 2, 0)
    optimizer = torch.optim.Adam(dynamics.parameters(), lr=1e-2)
    for _ in range(250):
        optimizer.zero_grad()
        loss = compute_flow_matching_loss(dynamics.velocity, z, target, a)
        loss.backward()
        optimizer.step()
    return float(loss.detach()) / float((target - z).square().mean())


@pytest.mark.parametrize("head", ["linear", "tangent"])
def test_velocity_heads_learn_a_representable_change(head: str) -> None:
    assert fit(head) < 0.05


def test_the_simnorm_head_cannot_represent_a_velocity() -> None:
    # Its group sum is 1, a change between simplex points has group sum 0: (1/8)^2 per entry at least.
    z, _, target = toy_transition(16, 8)
    floor = (1 / 64) / float((target - z).square().mean())
    assert fit("simnorm") >= 0.99 * floor
    assert floor > 1


def test_one_euler_step_trained_at_its_node_is_regression_of_the_next_latent() -> None:
    generator = torch.Generator().manual_seed(8)
    z = torch.rand(4, 5, 24, generator=generator)
    action, target = torch.rand(4, 5, 2, generator=generator), torch.rand(4, 5, 24, generator=generator)
    weights = torch.rand(4, 5, generator=generator)
    options = flow.Options(units=[16], tau_sampling="nodes")
    dynamics = randomised(flow.build(options, Simplices(24, SimNorm(8)), 2, 0))
    found = dynamics.loss(z, action, target, weights)
    error = (dynamics.next(found.latents, action) - target).square()
    torch.testing.assert_close(found.loss, (weights.unsqueeze(-1) * error).mean())
    # Paths start from the model's own predictions.
    torch.testing.assert_close(found.latents, unroll(dynamics, z[0], action[:-1]))


def test_flow_times_at_nodes_are_those_of_the_integrator() -> None:
    options = flow.Options(units=[16], tau_sampling="nodes", integrator="heun", substeps=2)
    nodes = flow.build(options, Simplices(24, SimNorm(8)), 2, 0).nodes
    tau = flow.sample_tau((4000, 1), "nodes", nodes, torch.Generator().manual_seed(9), nodes)
    assert tau.shape == (4000, 1)
    times, counts = tau.unique(return_counts=True)
    assert times.tolist() == [0.0, 0.5, 1.0]
    # The middle one ends the first step and starts the second.
    assert (counts / 4000).tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    with pytest.raises(ConfigError, match="nodes need an integrator"):
        flow.sample_tau((3, 1), "nodes", nodes)


def randomised(dynamics: nn.Module) -> nn.Module:
    """Weights large enough for visible changes."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in dynamics.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return dynamics


def group_sums(dynamics: nn.Module, steps: int = 6) -> tuple[Tensor, Tensor]:
    """Latents of an open-loop rollout and their group sums, [steps + 1, B, groups]."""
    generator = torch.Generator().manual_seed(7)
    z = SimNorm(8)(torch.randn(5, 24, generator=generator))
    with torch.no_grad():
        latents = unroll(randomised(dynamics), z, torch.rand(steps, 5, 2, generator=generator))
    assert (latents[-1] - latents[0]).abs().max() > 0.1
    return latents, latents.unflatten(-1, (-1, 8)).sum(-1)


@pytest.mark.parametrize("integrator", ["euler", "heun", "rk4"])
@pytest.mark.parametrize("substeps", [1, 3])
def test_tangent_flow_keeps_group_sums(integrator: str, substeps: int) -> None:
    options = flow.Options(units=[16], velocity_head="tangent", integrator=integrator, substeps=substeps)
    _, sums = group_sums(flow.build(options, Simplices(24, SimNorm(8)), 2, 0))
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=2e-5)


def test_residual_dynamics_keep_group_sums() -> None:
    _, sums = group_sums(residual.build(residual.Options(units=[16]), Simplices(24, SimNorm(8)), 2, 0))
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=2e-5)


def test_simnorm_velocity_leaves_the_simplex() -> None:
    _, sums = group_sums(
        flow.build(flow.Options(units=[16], velocity_head="simnorm"), Simplices(24, SimNorm(8)), 2, 0)
    )
    expected = torch.arange(1.0, 8.0)[:, None, None].expand_as(sums)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["flow", "residual"])
def test_output_gain_scales_the_predicted_change(name: str) -> None:
    module = {"flow": flow, "residual": residual}[name]
    z = SimNorm(8)(torch.randn(5, 24))
    a = torch.rand(5, 2)
    changes = []
    for gain in (1.0, 0.25, 2.0):
        torch.manual_seed(3)
        dynamics = randomised(
            module.build(module.Options(units=[16], output_gain=gain), Simplices(24, SimNorm(8)), 2, 0)
        )
        changes.append(dynamics.next(z, a) - z)
    torch.testing.assert_close(changes[1], 0.25 * changes[0])
    torch.testing.assert_close(changes[2], 2.0 * changes[0])
    with pytest.raises(ConfigError, match="output_gain=0"):
        module.Options(output_gain=0.0)


def test_encoder_of_centred_inputs_is_smooth_at_zero() -> None:
    """LayerNorm of a layer without biases jumps at 0; the first layer's random biases remove the jump."""
    jumps = []
    for centred in (False, True):
        torch.manual_seed(0)
        encoder = build_encoder(4, [64], 16, SimNorm(8), centred)
        step = torch.full((1, 4), 1e-2)
        jumps.append(float((encoder(step) - encoder(-step)).abs().mean().detach()))
    assert jumps[0] > 20 * jumps[1]


def test_returns_leave_what_they_are_given_as_it_is() -> None:
    window = Window(1, 5, 3, 0.3)
    ends = window.ends.clone()
    ends[-1] = False
    given = [window.rewards.clone(), window.next_values.clone(), ends.clone()]
    trajectory_objective(window.rewards, window.next_values, ends, GAMMA)
    td_lambda(window.rewards, window.next_values, ends, GAMMA, 0.9)
    for now, before in zip((window.rewards, window.next_values, ends), given, strict=True):
        assert torch.equal(now, before)


def test_a_teacher_forced_window_is_as_good_as_its_transitions_one_by_one() -> None:
    options = flow.Options(units=[16], flow_source="teacher", tau_sampling="midpoint")
    sizes = WorldModelOptions(latent_dim=16, encoder_units=[8], reward_units=[8], predict_termination=False)
    torch.manual_seed(0)
    model = build_world_model(sizes, options, 3, 2)
    randomised(model)
    generator = torch.Generator().manual_seed(8)
    obs, action = torch.randn(5, 6, 3, generator=generator), torch.rand(4, 6, 2, generator=generator)
    never = torch.zeros(4, 6, dtype=torch.bool)
    window = Batch(obs, action, torch.randn(4, 6, generator=generator), never, ~never)
    singles = Batch(
        torch.stack([obs[:-1].flatten(0, 1), obs[1:].flatten(0, 1)]),
        *(part.flatten(0, 1)[None] for part in window[1:5]),
    )
    together, _ = world_model_loss(model, window, gamma=1.0)
    one_by_one, _ = world_model_loss(model, singles, gamma=1.0)
    torch.testing.assert_close(together, one_by_one)


def test_an_embedding_of_each_entry_serves_all_its_steps() -> None:
    steps, embedding = torch.randn(4, 5, 3), torch.randn(5, 2)
    joined = concat_inputs(steps, None, embedding)
    assert joined.shape == (4, 5, 5)
    for row in joined:
        torch.testing.assert_close(row[:, 3:], embedding)
    torch.testing.assert_close(joined[..., :3], steps)
    assert concat_inputs(steps, None) is steps


def test_first_biases_of_a_centred_encoder_are_as_large_as_its_first_outputs() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(400, [2000], 16, SimNorm(8), centred_inputs=True)
    first = encoder[0].linear
    outputs = nn.functional.linear(torch.randn(50, 400), first.weight.detach())
    torch.testing.assert_close(first.bias.detach().std(), outputs.std(), rtol=0.1, atol=0.0)
    plain = build_encoder(400, [2000], 16, SimNorm(8), centred_inputs=False)
    assert not plain[0].linear.bias.any()


def test_an_untrained_model_predicts_no_reward_and_rare_terminations() -> None:
    sizes = WorldModelOptions(latent_dim=16, encoder_units=[8], reward_units=[8])
    model = build_world_model(sizes, flow.Options(units=[16]), 3, 2)
    z, a = torch.rand(7, 16), torch.rand(7, 2)
    assert not model.reward_head.decode(model.reward(z, a)).any()
    assert torch.sigmoid(model.termination(z, a)).tolist() == pytest.approx([1 / 150] * 7, rel=0.02)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (lambda: mlp.Options(units=[0]), r"units=\[0\]"),
        (lambda: residual.Options(units=[4, 0]), r"units=\[4, 0\]"),
        (lambda: flow.Options(units=[-1]), r"units=\[-1\]"),
        (lambda: flow.Options(substeps=0), "substeps=0"),
        (lambda: flow.Options(velocity_head="other"), "velocity_head='other'; choose one of: linear"),
        (lambda: flow.Options(flow_source="other"), "flow_source='other'; choose one of: rollout"),
        (lambda: scalar_heads.Options(num_bins=1), "num_bins=1"),
        (lambda: scalar_heads.Options(vmin=1.0, vmax=1.0), "vmin=1.0"),
        (lambda: scalar_heads.Options(name="other"), "name='other'"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(options: Callable[[], object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        options()
    assert scalar_heads.Options(num_bins=2).num_bins == 2
    assert flow.Options(units=[1], substeps=1).substeps == 1
