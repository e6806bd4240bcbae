"""One optimiser step: clipping, the non-finite policy, losses refusing wrong shapes, running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pwm.algorithm.losses import critic_loss, world_model_loss
from pwm.algorithm.updates import Updater
from pwm.data.batch import Batch
from pwm.errors import ConfigError, NonFiniteError
from pwm.models.actors import gaussian
from pwm.models.critic import CriticEnsemble
from pwm.models.dynamics import flow, mlp
from pwm.models.normalization import RunningMeanStd
from pwm.models.world_model import Options as WorldModelOptions
from pwm.models.world_model import build_world_model

LR = 1e-2
BETAS = (0.7, 0.95)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))


def batches(count: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [scale * torch.randn(16, 5, generator=generator) for _ in range(count)]


def loss_of(net: nn.Module, x: Tensor) -> Tensor:
    return (net(x) - x.sum(1, keepdim=True)).square().mean()


def updater(net: nn.Module, max_norm: float = 1.0, max_skipped: int = 3) -> Updater:
    return Updater("toy", net.parameters(), LR, BETAS, max_norm, max_skipped)


def snapshot(net: nn.Module, step: Updater) -> list[Tensor]:
    """Weights and Adam's moments."""
    moments = [v for state in step.optimizer.state.values() for v in state.values()]
    return [t.detach().clone() for t in [*net.parameters(), *moments]]


# --- clipping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 1e6], ids=["always clips", "sometimes clips", "never clips"])
def test_step_equals_torch_clipping_and_adam(max_norm: float) -> None:
    ours, theirs = network(), network()
    step = updater(ours, max_norm)
    adam = torch.optim.Adam(theirs.parameters(), lr=LR, betas=BETAS)
    for x in batches(20):
        norm = step.step(loss_of(ours, x))
        adam.zero_grad()
        loss_of(theirs, x).backward()
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
        adam.step()
        torch.testing.assert_close(norm, expected)
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_norm_is_the_one_before_clipping() -> None:
    net = network()
    (x,) = batches(1)
    gradients = torch.autograd.grad(loss_of(net, x), list(net.parameters()))
    norm = updater(net, max_norm=1e-3).step(loss_of(net, x))
    assert not norm.requires_grad
    torch.testing.assert_close(norm, torch.cat([g.flatten() for g in gradients]).norm())


def test_only_its_own_parameters_get_gradients() -> None:
    first, second = network(0), network(1)
    before = copy.deepcopy(second.state_dict())
    (x,) = batches(1)
    updater(first).step(loss_of(first, x) + loss_of(second, x))
    assert all(p.grad is None for p in second.parameters())
    assert all(torch.equal(before[name], value) for name, value in second.state_dict().items())


def test_learning_rate_is_used_from_the_next_step_on() -> None:
    net = network()
    step = updater(net)
    step.set_lr(0.0)
    before = [p.detach().clone() for p in net.parameters()]
    step.step(loss_of(net, batches(1)[0]))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))


# --- the non-finite policy ------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_gradient_changes_nothing_but_the_count(bad: float) -> None:
    net = network()
    step = updater(net)
    first, second = batches(2)
    step.step(loss_of(net, first))
    before = snapshot(net, step)
    norm = step.step(loss_of(net, second) * bad)
    assert not torch.isfinite(norm)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(net, step), strict=True))
    assert int(step.skipped) == int(step.skipped_in_row) == 1

    # Training then goes on as if the bad step had never been.
    other = network()
    clean = updater(other)
    for x in (first, second):
        clean.step(loss_of(other, x))
    step.step(loss_of(net, second))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def test_non_finite_first_gradient_leaves_the_weights() -> None:
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    updater(net).step(loss_of(net, batches(1)[0]) * float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))


def test_error_after_n_bad_steps_in_a_row() -> None:
    net = network()
    step = updater(net, max_skipped=3)
    (x,) = batches(1)
    for _ in range(2):
        step.step(loss_of(net, x) * float("nan"))
        step.check_finite(int(step.skipped_in_row))
    step.step(loss_of(net, x) * float("nan"))
    with pytest.raises(NonFiniteError, match=r"toy gradient .* 3 updates in a row"):
        step.check_finite(int(step.skipped_in_row))


def test_good_step_ends_the_row() -> None:
    net = network()
    step = updater(net, max_skipped=3)
    (x,) = batches(1)
    for factor in (float("nan"), float("nan"), 1.0, float("nan"), float("nan")):
        step.step(loss_of(net, x) * factor)
        step.check_finite(int(step.skipped_in_row))
    assert int(step.skipped) == 4
    assert int(step.skipped_in_row) == 2


def test_state_continues_bit_identically() -> None:
    net, data = network(), batches(6)
    step = updater(net)
    for x in data[:3]:
        step.step(loss_of(net, x))
    step.step(loss_of(net, data[0]) * float("nan"))
    other = copy.deepcopy(net)
    resumed = updater(other)
    resumed.load_state_dict(copy.deepcopy(step.state_dict()))
    assert int(resumed.skipped) == int(resumed.skipped_in_row) == 1
    kept = step.state_dict()
    for x in data[3:]:
        step.step(loss_of(net, x))
        resumed.step(loss_of(other, x))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))
    # What was saved stays as it was.
    for _ in range(3):
        step.step(loss_of(net, data[0]) * float("nan"))
    assert [int(kept["skipped"]), int(kept["skipped_in_row"])] == [1, 1]


def test_state_brings_moments_and_leaves_rates_and_betas_as_configured() -> None:
    (x,) = batches(1)
    old = network()
    saved = Updater("toy", old.parameters(), LR, BETAS, 1e6, 3, old[0].parameters(), 0.1)
    saved.step(loss_of(old, x))
    resumed = Updater("toy", (net := network()).parameters(), LR / 2, (0.5, 0.6), 1e6, 3, net[0].parameters())
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    groups = resumed.optimizer.param_groups
    assert [(g["lr"], g["betas"], g["scale"]) for g in groups] == [(LR / 2, (0.5, 0.6), 1.0)] * 2
    assert resumed.state_dict()["optimizer"]["state"].keys() == set(range(4))
    torch.testing.assert_close(
        resumed.state_dict()["optimizer"]["state"], saved.state_dict()["optimizer"]["state"]
    )
    resumed.set_lr(LR)
    assert [g["lr"] for g in groups] == [LR, LR]


def test_state_is_that_of_an_optimiser_of_the_single_parameters() -> None:
    """As earlier releases saved it: with the groups of slow parameters last."""
    ours, theirs, data = network(), network(), batches(6)
    groups = [list(theirs[2].parameters()), list(theirs[0].parameters())]
    adam = torch.optim.Adam([{"params": group} for group in groups], lr=LR, betas=BETAS)
    step = Updater("toy", ours.parameters(), LR, BETAS, 1e6, 3, ours[0].parameters())
    for number, x in enumerate(data):
        if number == 3:
            ours.load_state_dict(theirs.state_dict())
            counts = {name: torch.tensor(0) for name in ("skipped", "skipped_in_row")}
            step.load_state_dict(copy.deepcopy({"optimizer": adam.state_dict(), **counts}))
        if number >= 3:
            step.step(loss_of(ours, x))
        adam.zero_grad()
        loss_of(theirs, x).backward()
        adam.step()
    saved, expected = step.state_dict()["optimizer"], adam.state_dict()
    torch.testing.assert_close(saved["state"], expected["state"], rtol=1e-4, atol=1e-6)
    assert [g["params"] for g in saved["param_groups"]] == [g["params"] for g in expected["param_groups"]]
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-6)
    adam.load_state_dict(saved)
    with pytest.raises(ValueError, match=r"saved with \[2, 2\] parameters, not \[4\]"):
        updater(network()).load_state_dict(step.state_dict())


def test_copies_learn_by_themselves_and_alike() -> None:
    net, (first, second) = network(), batches(2)
    step = updater(net)
    step.step(loss_of(net, first))
    other, copied = copy.deepcopy((net, step))
    before = [p.detach().clone() for p in net.parameters()]
    copied.step(loss_of(other, second))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    step.step(loss_of(net, second))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert not torch.equal(before[0], net[0].weight)


def test_slow_parameters_move_at_their_share_of_every_rate() -> None:
    net = network()
    step = Updater("toy", net.parameters(), LR, BETAS, 1e6, 3, net[0].parameters(), 0.1)
    for rate in (LR, LR / 2):
        step.set_lr(rate)
        before = [p.detach().clone() for p in net.parameters()]
        step.optimizer.state.clear()
        step.step(loss_of(net, batches(1)[0]))
        # The first step of Adam is the learning rate in every entry, whatever the gradient.
        moved = [float((p - b).abs().max().detach()) for p, b in zip(net.parameters(), before, strict=True)]
        assert moved == pytest.approx([0.1 * rate, 0.1 * rate, rate, rate], rel=1e-3)


# --- losses refuse wrong shapes -------------------------------------------------------------------


def batch(**changes: Tensor) -> Batch:
    horizon, size = 3, 4
    fields = {
        "obs": torch.randn(horizon + 1, size, 5),
        "action": torch.rand(horizon, size, 2) * 2 - 1,
        "reward": torch.randn(horizon, size),
        "terminated": torch.zeros(horizon, size, dtype=torch.bool),
        "valid": torch.ones(horizon, size, dtype=torch.bool),
    }
    return Batch(**{**fields, **changes})


WRONG = {
    "observations too few": {"obs": torch.randn(3, 4, 5)},
    "observations too many": {"obs": torch.randn(6, 4, 5)},
    "actions of another batch": {"action": torch.zeros(3, 5, 2)},
    "actions too narrow": {"action": torch.zeros(3, 4, 1)},
    "rewards of one step": {"reward": torch.randn(1, 4)},
    "rewards with a last axis": {"reward": torch.randn(3, 4, 1)},
    "rewards transposed": {"reward": torch.randn(4, 3)},
    "terminations of one step": {"terminated": torch.zeros(1, 4, dtype=torch.bool)},
    "validity of another batch": {"valid": torch.ones(3, 5, dtype=torch.bool)},
}


@pytest.mark.parametrize("dynamics", [mlp.Options(units=[8]), flow.Options(units=[8])], ids=["mlp", "flow"])
@pytest.mark.parametrize("head", ["regression", "two_hot"])
@pytest.mark.parametrize("wrong", WRONG)
def test_world_model_loss_refuses_wrong_shapes(wrong: str, head: str, dynamics: object) -> None:
    options = WorldModelOptions(latent_dim=16, encoder_units=[8], reward_units=[8], termination_units=[8])
    options.reward_head.name = head
    model = build_world_model(options, dynamics, 5, 2)
    loss, _ = world_model_loss(model, batch())
    assert torch.isfinite(loss)
    with pytest.raises((RuntimeError, ValueError)):
        world_model_loss(model, batch(**WRONG[wrong]))


@pytest.mark.parametrize("shape", [(9,), (10, 1), (1,), (3, 10)])
def test_critic_loss_refuses_wrong_shapes(shape: tuple[int, ...]) -> None:
    critic = CriticEnsemble(16, [8], members=3)
    assert torch.isfinite(critic_loss(critic, torch.randn(10, 16), torch.randn(10)))
    with pytest.raises((RuntimeError, ValueError)):
        critic_loss(critic, torch.randn(10, 16), torch.randn(shape))


# --- running statistics ---------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[64], [1, 1, 30], [5, 100, 3, 17]])
@pytest.mark.parametrize("shape", [(1,), (4,)])
def test_running_statistics_equal_those_of_all_data(sizes: list[int], shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [3.0 + 2.0 * torch.randn(n, *shape, generator=generator) for n in sizes]
    running = RunningMeanStd(shape, epsilon=1e-8)
    for part in data:
        running.update(part)
    variance, mean = torch.var_mean(torch.cat(data), dim=0, correction=0)
    torch.testing.assert_close(running.mean, mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(running.var, variance, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(running.std, torch.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (4,)])
def test_groups_of_samples_have_statistics_of_their_own(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    running = RunningMeanStd(shape, groups=3)
    alone = [RunningMeanStd(shape) for _ in range(3)]
    for _ in range(4):
        # The third group has no sample.
        group = torch.randint(0, 2, (50,), generator=generator)
        values = torch.randn(50, *shape, generator=generator) + 3.0 * group[:, None]
        values = values.flatten() if shape == (1,) else values
        running.update(values, group)
        for number in range(2):
            alone[number].update(values[group == number])
    for number, expected in enumerate(alone):
        torch.testing.assert_close(running.mean[number], expected.mean.reshape(running.mean[number].shape))
        torch.testing.assert_close(running.var[number], expected.var.reshape(running.var[number].shape))
        assert float(running.count[number]) == pytest.approx(float(expected.count))
    if shape != (1,):
        x = torch.randn(2, 5, *shape, generator=generator)
        group = torch.tensor([0, 1, 1, 2, 0])
        found = running.normalize(x, group)
        for place, number in enumerate(group.tolist()):
            torch.testing.assert_close(found[:, place], alone[number].normalize(x[:, place]))


def test_flat_batch_counts_as_samples_of_one_number() -> None:
    flat, column = RunningMeanStd(), RunningMeanStd()
    x = torch.linspace(-2, 5, 40)
    flat.update(x)
    column.update(x[:, None])
    torch.testing.assert_close(flat.mean, column.mean)
    torch.testing.assert_close(flat.var, column.var)
    assert flat.mean.shape == (1,)


def test_normalised_data_are_centred_with_unit_spread_and_outliers_are_clamped() -> None:
    running, data = RunningMeanStd(), torch.linspace(-2, 5, 40)
    running.update(data)
    var, mean = torch.var_mean(running.normalize(data), correction=0)
    torch.testing.assert_close(torch.stack([mean, var]), torch.tensor([0.0, 1.0]), atol=1e-4, rtol=1e-4)
    assert running.normalize(torch.tensor([-1e6])).item() == -5.0
    assert running.normalize(torch.tensor([1e6])).item() == 5.0


# --- the policy's lower bound ---------------------------------------------------------------------


def test_clamped_log_std_keeps_its_gradient_and_rises_again() -> None:
    options = gaussian.Options(units=[8], init_log_std=-1.0, min_log_std=-1.4)
    actor = gaussian.build(options, latent_dim=16, act_dim=3)
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([-3.0, -1.4, 0.5]))
    actor.project()
    torch.testing.assert_close(actor.log_std.detach(), torch.tensor([-1.4, -1.4, 0.5]))

    noise = torch.ones(6, 3)
    actor.act(torch.zeros(6, 16), noise).sum().backward()
    assert (actor.log_std.grad > 0).all()
    with torch.no_grad():
        actor.log_std += 0.1 * actor.log_std.grad
    actor.project()
    assert (actor.log_std[:2] > -1.4).all()


def test_noise_is_scaled_by_the_standard_deviation() -> None:
    actor = gaussian.build(gaussian.Options(units=[8]), latent_dim=16, act_dim=2)
    z, noise = torch.randn(5, 16), torch.randn(5, 2)
    expected = torch.tanh(actor.decide(z).location + torch.exp(torch.tensor(-1.0)) * noise)
    torch.testing.assert_close(actor.act(z, noise), expected)
    torch.testing.assert_close(actor.act(z), torch.tanh(actor.decide(z).location))


def test_start_below_the_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"init_log_std=-2\.0; .* not below"):
        gaussian.Options(init_log_std=-2.0)
    assert gaussian.Options(init_log_std=-2.0, min_log_std=-2.0).init_log_std == -2.0
