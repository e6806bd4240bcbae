"""Latents that are the observations: units of changes, and what they make equal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pwm.algorithm.losses import world_model_loss
from pwm.data.batch import Batch
from pwm.errors import ConfigError
from pwm.models.dynamics import flow, mlp, residual
from pwm.models.dynamics.base import unroll
from pwm.models.latent_space import Observations
from pwm.models.normalization import MovingRMS
from pwm.models.world_model import Options, build_world_model

DYNAMICS = {"mlp": mlp, "residual": residual, "flow": flow}
STEPS, BATCH, OBS, ACT = 3, 64, 4, 2


def windows(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Windows of latents [H+1, B, 4] whose entries change by ``sizes`` [4] in each step, all real."""
    changes = sizes * torch.randn(STEPS, BATCH, OBS)
    start = torch.randn(1, BATCH, OBS)
    return torch.cat([start, start + changes.cumsum(0)]), torch.ones(STEPS, BATCH, dtype=torch.bool)


def space_for(sizes: Tensor) -> Observations:
    space = Observations(OBS)
    for _ in range(200):
        space.observe(*windows(sizes))
    return space


def test_the_unit_of_an_entry_is_the_size_of_its_changes() -> None:
    sizes = torch.tensor([0.05, 0.2, 1.0, 3.0])
    space = space_for(sizes)
    torch.testing.assert_close(space.change(torch.ones(7, OBS)), sizes.expand(7, OBS), rtol=0.05, atol=0)
    torch.testing.assert_close(space.relative(space.change(sizes)), sizes)


def test_what_is_padding_or_not_finite_does_not_count() -> None:
    rms = MovingRMS(2)
    values = torch.tensor([[3.0, 4.0], [float("nan"), 1e30], [3.0, 4.0]])
    rms.update(values.nan_to_num(), torch.tensor([True, False, True]))
    torch.testing.assert_close(rms.rms, torch.tensor([3.0, 4.0]))
    rms.update(values, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(rms.rms, torch.tensor([3.0, 4.0]))


def test_an_entry_that_never_changes_has_the_unit_of_all_entries() -> None:
    rms = MovingRMS(4, floor=0.01)
    rms.update(torch.tensor([[1.0, 0.0, 0.004, 0.006]]), torch.tensor([True]))
    of_all = ((1 + 0.004**2 + 0.006**2) / 4) ** 0.5
    torch.testing.assert_close(rms.rms, torch.tensor([1.0, of_all, of_all, 0.006]))
    still = MovingRMS(2)
    still.update(torch.zeros(5, 2), torch.ones(5, dtype=torch.bool))
    assert bool((still.rms > 0).all())


@pytest.mark.parametrize("name", ["residual", "flow"])
def test_an_error_counts_in_units_of_the_change(name: str) -> None:
    """Predicting no change costs 1 in every entry, whatever its size."""
    module = DYNAMICS[name]
    for sizes in (torch.ones(OBS), torch.tensor([0.05, 0.2, 1.0, 3.0])):
        space = space_for(sizes)
        dynamics = module.build(module.Options(units=[16]), space, ACT, 0)
        for parameter in dynamics.net[-1].parameters():
            torch.nn.init.zeros_(parameter)
        latents, _ = windows(sizes)
        result = dynamics.loss(latents[:1], torch.zeros(1, BATCH, ACT), latents[1:2], torch.ones(1, BATCH))
        assert float(result.loss.detach()) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("name", DYNAMICS)
def test_a_linear_system_is_learned(name: str) -> None:
    torch.manual_seed(0)
    module = DYNAMICS[name]
    options = Options(latents="observations", reward_units=[16], predict_termination=False)
    model = build_world_model(options, module.Options(units=[64]), OBS, ACT)
    assert model.latent_dim == OBS
    assert not list(model.encoder.parameters())
    move, push = 0.1 * torch.randn(OBS, OBS), torch.randn(ACT, OBS)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    valid = torch.ones(1, 256, dtype=torch.bool)
    for _ in range(300):
        z, action = torch.randn(256, OBS), torch.rand(256, ACT) * 2 - 1
        target = z + z @ move + action @ push
        model.observe(torch.stack([z, target]), valid)
        loss = model.dynamics.loss(z[None], action[None], target[None], torch.ones(1, 256)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z, action = torch.randn(256, OBS), torch.rand(256, ACT) * 2 - 1
    change = z @ move + action @ push
    error = model.next(z, action) - z - change
    # The velocity of a flow is fitted on the whole path and used at its start.
    assert float(error.square().sum() / change.square().sum()) < 0.1


@pytest.mark.parametrize("head", ["tangent", "simnorm"])
def test_heads_that_need_groups_are_refused(head: str) -> None:
    with pytest.raises(ConfigError, match=f"velocity_head={head} is made for alg.latents=simnorm"):
        flow.build(flow.Options(velocity_head=head), Observations(OBS), ACT, 0)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"alg\.latents='pixels'; choose one of: simnorm, observations"):
        Options(latents="pixels")


def test_tasks_count_alike_and_entries_of_others_do_not_count() -> None:
    """Two tasks with 4 and 2 entries: units come from who has them, losses are means over a task's own."""
    options = Options(latents="observations", obs_rms=False, predict_termination=False, task_dim=3)
    model = build_world_model(options, residual.Options(units=[8]), OBS, ACT, n_tasks=2)
    space = model.dynamics.space
    assert isinstance(space, Observations)
    space.has_widths([4, 2])
    task = torch.arange(BATCH) % 2
    sizes = torch.tensor([0.5, 2.0, 1.0, 3.0])
    for _ in range(200):
        obs, valid = windows(sizes)
        obs[:, task == 1, 2:] = 0.0
        model.observe(obs, valid, task)
    torch.testing.assert_close(space.change_rms.rms, sizes, rtol=0.05, atol=0)
    action = torch.rand(STEPS, BATCH, ACT)
    latents = unroll(model.dynamics, obs[0], action, model.embed(task))
    assert not latents[:, task == 1, 2:].any()
    assert latents[1:, task == 0].all()
    reward = torch.zeros(STEPS, BATCH)
    ends = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    batch = Batch(obs, action, reward, ends, valid, task)
    found = world_model_loss(model, batch, gamma=1.0)[1]["dynamics_loss"]
    errors = ((latents - obs)[1:] / space.change_rms.rms).square()
    wanted = (errors[:, task == 0].mean() + errors[:, task == 1, :2].mean()) / 2
    torch.testing.assert_close(found, wanted)
