"""Compiled kernels compute what PyTorch's operations do, and training goes on without them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.losses import actor_loss, critic_loss
from pwm.configuration.config import compose_config
from pwm.data.batch import Batch
from pwm.errors import ConfigError
from pwm.models import fused

needs_compiler = pytest.mark.skipif(fused._compiler() is None, reason="there is no C compiler")
H, B, OBS, ACT = 5, 11, 5, 2


def parameters(*shape: int) -> list[Tensor]:
    return [torch.randn(*shape) for _ in range(3)]


@needs_compiler
@pytest.mark.parametrize("shape", [(3, 7, 64), (1, 5, 1), (2, 4, 19), (3, 0, 8), (2, 6, 257)])
def test_values_and_gradients_are_those_of_pytorch_in_double_precision(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = [5.0 * torch.randn(*shape), *parameters(shape[0], shape[2])]
    grad = torch.randn(*shape)
    with fused.enabled("on"):
        found = fused._with_gradients(fused.normed_mish, inputs, grad)
    exact = fused._with_gradients(fused.reference, [x.double() for x in inputs], grad.double())
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_members_take_the_layout_of_a_plain_layer_and_any_memory_order() -> None:
    torch.manual_seed(0)
    h, (bias, gain, shift) = torch.randn(4, 6, 16), parameters(16)
    expected = fused.reference(h, *(p.unsqueeze(0) for p in (bias, gain, shift)))
    with fused.enabled("on"):
        torch.testing.assert_close(fused.normed_mish(h, bias, gain, shift), expected)
        strided = h.transpose(0, 1).contiguous().transpose(0, 1)
        torch.testing.assert_close(fused.normed_mish(strided, bias, gain, shift), expected)


@needs_compiler
def test_large_and_undefined_numbers_pass_as_in_pytorch() -> None:
    shift = torch.tensor([-1e30, -100.0, -20.0, 0.0, 20.0, 100.0, 1e30, torch.inf, torch.nan])
    slope = torch.tensor([0.0, 0.0, 0.0, 0.6, 1.0, 1.0, 1.0, 1.0])
    h, zero = torch.zeros(1, 1, len(shift)), torch.zeros(1, len(shift))
    with fused.enabled("on"):
        found = fused._with_gradients(fused.normed_mish, [h, zero, zero, shift[None]], h + 1.0)
    torch.testing.assert_close(found[0][0, 0, :8], torch.nn.functional.mish(shift[:8]), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found[4][0, :8], slope, rtol=1e-5, atol=1e-6)
    assert found[0][0, 0, 8].isnan()
    assert found[4][0, 8].isnan()


@needs_compiler
@pytest.mark.parametrize("preset", ["pwm_small_residual", "pwm_small_flow", "pwm_small_h16"])
def test_losses_and_their_gradients_are_equal_to_rounding(preset: str) -> None:
    config = compose_config([f"alg={preset}", f"alg.horizon={H}"])
    torch.manual_seed(0)
    agent = Agent(config.alg, config.chosen, OBS, ACT, torch.Generator(), "cpu")
    batch = Batch(
        torch.randn(H + 1, B, OBS),
        torch.rand(H, B, ACT),
        torch.randn(H, B),
        torch.rand(H, B) < 0.3,
        torch.ones(H, B, dtype=torch.bool),
    )
    plain = losses_and_gradients(agent, batch)
    with fused.enabled("on"):
        compiled = losses_and_gradients(agent, batch)
    for ours, theirs in zip(compiled, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def losses_and_gradients(agent: Agent, batch: Batch) -> list[Tensor]:
    """Losses of world model, actor and critics, each with its gradients."""
    learner, generator = agent.actor_critic, torch.Generator().manual_seed(1)
    model_loss, _ = agent.model.loss(batch, generator)
    z = agent.world_model.encode(batch.obs[0]).detach()
    rollout = learner.imagine(agent.world_model, z, None, generator)
    result = actor_loss(rollout, learner.target_critic, 0.9)
    value_loss = critic_loss(agent.critic, rollout.latents[0].detach(), result.next_values[0])
    found = [model_loss, result.per_entry.mean(), value_loss]
    for loss, name in zip(list(found), ("wm", "actor", "critic"), strict=True):
        found += torch.autograd.grad(loss, agent.updaters[name].parameters, retain_graph=True)
    return [x.detach() for x in found]


@needs_compiler
def test_only_training_uses_them() -> None:
    x = torch.zeros(2, 3)
    assert not fused.usable(x)
    with fused.enabled("on") as used:
        assert used
        assert fused.usable(x)
        assert not fused.usable(x.double())
        with torch.no_grad():
            assert not fused.usable(x)
    assert not fused.usable(x)
    with fused.enabled("off") as used:
        assert not used


def test_training_goes_on_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    with fused.enabled("auto") as used:
        assert not used
    with pytest.raises(ConfigError, match=r"general\.compile=on cannot be had: there is no C compiler"):
        with fused.enabled("on"):
            pass


@needs_compiler
def test_a_compiler_that_fails_or_errs_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "broken.c"
    source = fused.SOURCE.read_text(encoding="utf-8")
    for text, said in ((source + "}", "could not make them"), (source.replace("+ 2.0f", "+ 2.1f"), "wrong")):
        broken.write_text(text, encoding="utf-8")
        monkeypatch.setattr(fused, "SOURCE", broken)
        with pytest.warns(RuntimeWarning, match=said), fused.enabled("auto") as used:
            assert not used
        with pytest.raises(ConfigError, match=said):
            with fused.enabled("on"):
                pass
    assert not list(tmp_path.rglob("*.tmp"))


def test_determinism_switches_them_off() -> None:
    assert compose_config([]).general.kernels == "auto"
    assert compose_config(["general.deterministic=true"]).general.kernels == "off"
    for wrong in (["general.compile=maybe"], ["general.compile=on", "general.deterministic=true"]):
        with pytest.raises(ConfigError, match=r"general\.compile="):
            compose_config(wrong)
