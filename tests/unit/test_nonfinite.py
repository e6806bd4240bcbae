"""A rollout, target or batch that is not finite changes nothing that learning keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.configuration.config import compose_config
from pwm.data.batch import Batch
from pwm.models.normalization import MovingMeanStd, RunningMeanStd

OBS_DIM, ACT_DIM, B, H = 3, 2, 8, 4
SMALL = ["alg=pwm_small_h16_flow", "alg.latent_dim=16", f"alg.horizon={H}", "alg.critic_units=[16]"]
BAD = [float("nan"), float("inf"), float("-inf"), 3e38]


@pytest.fixture
def agent() -> Agent:
    torch.manual_seed(0)
    config = compose_config(SMALL)
    return Agent(
        config.alg,
        config.chosen,
        OBS_DIM,
        ACT_DIM,
        torch.Generator().manual_seed(1),
    )


def learn_policy(agent: Agent, z: Tensor) -> None:
    rollout, targets, _ = agent.actor_critic.update_actor(agent.world_model, z)
    latents = rollout.latents.detach().flatten(0, 1)
    agent.actor_critic.update_critic(latents, targets.flatten(), torch.ones(len(latents)))


def starts(agent: Agent) -> Tensor:
    return agent.world_model.encode(torch.randn(B, OBS_DIM, generator=agent.generator)).detach()


def batch(agent: Agent) -> Batch:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=agent.generator)

    nothing = torch.zeros(H, B, dtype=torch.bool)
    return Batch(draw(H + 1, B, OBS_DIM), draw(H, B, ACT_DIM).tanh(), draw(H, B), nothing, ~nothing)


def kept(agent: Agent) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in agent.state_dict().items()}


def changed(agent: Agent, before: dict[str, Tensor]) -> list[str]:
    return [name for name, value in agent.state_dict().items() if not torch.equal(value, before[name])]


@pytest.mark.parametrize("value", BAD)
def test_a_rollout_that_diverged_leaves_no_trace(agent: Agent, value: float) -> None:
    learn_policy(agent, starts(agent))
    before = kept(agent)
    z = starts(agent)
    z[0, 0] = value
    learn_policy(agent, z)
    # Critics still learn from the rollouts of the batch that are sound, and the average follows the actor.
    assert not [
        name
        for name in changed(agent, before)
        if not name.startswith(("averaged_actor.", "critic.", "target_critic."))
    ]
    assert all(bool(torch.isfinite(v).all()) for v in agent.state_dict().values())
    assert [int(agent.updaters[name].skipped) for name in ("wm", "actor")] == [0, 1]
    learn_policy(agent, starts(agent))
    after = changed(agent, before)
    for name in ("actor.", "critic.", "return_rms.", "value_rms."):
        assert any(key.startswith(name) for key in after), name
    assert all(bool(torch.isfinite(v).all()) for v in agent.state_dict().values())


# Normalised observations are clamped, so an infinite one is as good as a large one.
@pytest.mark.parametrize(
    ("part", "value"), [("obs", BAD[0]), *((p, v) for p in ("action", "reward") for v in BAD[:3])]
)
def test_a_batch_that_is_not_finite_leaves_no_trace(agent: Agent, part: str, value: float) -> None:
    agent.model.update(batch(agent))
    before, bad = kept(agent), batch(agent)
    getattr(bad, part)[0, 0] = value
    agent.model.update(bad)
    assert changed(agent, before) == []
    agent.model.update(batch(agent))
    assert changed(agent, before)


@pytest.mark.parametrize("value", BAD[:3])
def test_observations_that_are_not_finite_leave_no_trace(agent: Agent, value: float) -> None:
    agent.model.observe(torch.randn(5, OBS_DIM), torch.randn(5))
    before = kept(agent)
    agent.model.observe(torch.full((5, OBS_DIM), value), torch.full((5,), value))
    assert changed(agent, before) == []


@pytest.mark.parametrize("value", BAD[:3])
@pytest.mark.parametrize("first", [True, False], ids=["first batch", "later batch"])
def test_statistics_take_finite_batches_only(value: float, first: bool) -> None:
    for statistics in (RunningMeanStd((2,)), RunningMeanStd(), MovingMeanStd()):
        shape = (6, *statistics.mean.shape) if statistics.mean.dim() and len(statistics.mean) > 1 else (6,)
        if not first:
            statistics.update(torch.randn(shape))
        before = {name: buffer.clone() for name, buffer in statistics.named_buffers()}
        bad = torch.randn(shape)
        bad[0] = value
        statistics.update(bad)
        for name, buffer in statistics.named_buffers():
            assert torch.equal(buffer, before[name]), (statistics, name)
