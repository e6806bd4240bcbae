"""The contracts of policies and dynamics: complete, and enough to train with."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tests.end_to_end.tiny import ANALYTIC, LOCKSTEP, overrides
from torch import nn

import pwm.models.actors
from pwm import components
from pwm.analysis.cost.operations import epoch_flops
from pwm.checkpoints.policies import load_policy
from pwm.configuration.config import compose_config
from pwm.logging.loggers import read_metrics
from pwm.models.actors.base import Actor, load_actor
from pwm.models.dynamics.base import Dynamics
from pwm.runs.run import train

# A policy of another kind than the one that ships: no standard deviation of its own, noise of another width.
SHIFTED = '''
"""a = sin(net(z) + 0.3 mean(noise)): two noise entries, a squashing that is no tanh."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pwm.models.actors.base import Actor, Decision
from pwm.models.layers import mlp


@dataclass
class Options:
    name: str = "shifted"
    units: list[int] = field(default_factory=list)
    shift: float = 0.0


class ShiftedActor(Actor):
    def __init__(self, options: Options, latent_dim: int, act_dim: int) -> None:
        super().__init__()
        self.noise_dim = 2
        self.head = nn.Linear([latent_dim, *options.units][-1], act_dim)
        self.net = mlp(latent_dim, options.units, self.head)
        nn.init.constant_(self.head.bias, options.shift)

    def decide(self, z: Tensor, noise: Tensor | None = None) -> Decision:
        location = self.net(z)
        raw = location if noise is None else location + 0.3 * noise.mean(-1, keepdim=True)
        return Decision(torch.sin(raw), location)

    def mean_std(self) -> Tensor:
        return torch.tensor(0.2)


def build(options: Options, latent_dim: int, act_dim: int) -> ShiftedActor:
    return ShiftedActor(options, latent_dim, act_dim)
'''


@pytest.fixture
def shifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One new file in the folder of policies, as a user would add it."""
    folder = tmp_path / "actors"
    folder.mkdir()
    (folder / "shifted.py").write_text(SHIFTED)
    monkeypatch.setattr(pwm.models.actors, "__path__", [*pwm.models.actors.__path__, str(folder)])
    yield "shifted"
    sys.modules.pop("pwm.models.actors.shifted", None)
    shutil.rmtree(folder)


ACTORS = components.names("actor")


@pytest.mark.parametrize("name", ACTORS)
def test_decisions_are_what_the_contract_says(name: str) -> None:
    torch.manual_seed(0)
    module = load_actor(name)
    actor = module.build(module.Options(units=[16]), 8, 3)
    z, noise = torch.randn(4, 5, 8, requires_grad=True), torch.randn(4, 5, actor.noise_dim)
    drawn, certain = actor.decide(z, noise), actor.decide(z)
    for decision in (drawn, certain):
        assert decision.action.shape == decision.location.shape == (4, 5, 3)
        assert bool((decision.action.abs() <= 1.0).all())
    assert certain.log_prob is None
    assert (drawn.log_prob is not None) == actor.has_density
    assert torch.equal(actor.act(z, noise), drawn.action)
    assert torch.equal(actor.act(z), certain.action)
    # Rows do not know of each other.
    torch.testing.assert_close(actor.act(z[1, 2], noise[1, 2]), drawn.action[1, 2])
    loss = drawn.action.square().sum() + (drawn.log_prob.sum() if actor.has_density else 0.0)
    loss.backward()
    assert bool((z.grad != 0).any(-1).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in actor.parameters() if p.grad is not None)
    assert not actor.mean_std().requires_grad
    assert actor.mean_std().shape == ()
    assert 0.01 < float(actor.mean_std()) < 2.0


@pytest.mark.parametrize("name", ACTORS)
def test_every_policy_trains_in_lower_precision_and_is_read_back(name: str, tmp_path: Path) -> None:
    wanted = [f"actor={name}", "alg.saturation_coef=0.01", "alg.actor_average=0.5", "dynamics=flow"]
    if load_actor(name).build(load_actor(name).Options(), 8, 1).has_density:
        wanted.append("alg.entropy_target=-1")
    with warnings.catch_warnings():
        # Said of processors without instructions for it.
        warnings.filterwarnings("ignore", "general.precision=bfloat16", RuntimeWarning)
        config = compose_config(overrides(tmp_path, *ANALYTIC, *wanted, "general.precision=bfloat16"))
        result = train(config)
    assert result.outcome == "finished"
    agent, saved, spec, _ = load_policy(result.folder / "final_policy.pt", torch.device("cpu"))
    assert saved.chosen["actor"].name == name
    action = agent.act(torch.randn(7, spec.obs_dim), deterministic=True)
    assert action.shape == (7, spec.act_dim)
    assert bool(torch.isfinite(action).all())
    assert {"actor/std", "actor/saturation"} <= read_metrics(result.folder / "metrics.jsonl")[-1].keys()
    assert epoch_flops(config, spec.obs_dim, spec.act_dim)["actor"] > 0


@pytest.mark.parametrize("contract", [Actor, Dynamics])
def test_an_incomplete_component_cannot_be_made(contract: type[nn.Module]) -> None:
    class Incomplete(contract):  # type: ignore[misc, valid-type]
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()


@pytest.mark.parametrize("collect", [[], LOCKSTEP], ids=["closed_loop", "lockstep"])
def test_another_policy_trains_with_every_option_of_the_actor(
    shifted: str, tmp_path: Path, collect: list[str]
) -> None:
    assert shifted in components.names("actor")
    changes = ["alg.saturation_coef=0.01", "alg.actor_average=0.5"]
    wanted = [*ANALYTIC, *changes, *collect, f"alg.actor.name={shifted}", "alg.actor.shift=0.1"]
    config = compose_config(overrides(tmp_path, *wanted))
    assert config.chosen["actor"].shift == 0.1
    result = train(config)
    assert result.outcome == "finished"
    policy = torch.load(result.folder / "final_policy.pt", weights_only=True)["modules"]
    assert not torch.all(policy["actor.head.bias"] == 0.1)
