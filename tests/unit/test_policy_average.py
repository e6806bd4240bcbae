"""The average of the actor: how it moves, where it acts, and that training does not notice it."""

from __future__ import annotations

import pytest
import torch

from pwm.algorithm.agent import Agent
from pwm.configuration.config import compose_config
from pwm.errors import ConfigError

OBS_DIM, ACT_DIM = 3, 2
SMALL = ["alg=pwm_small_h16_flow", "alg.latent_dim=16", "alg.horizon=4", "alg.critic_units=[16]"]


def agent(rate: float) -> Agent:
    torch.manual_seed(0)
    config = compose_config([*SMALL, f"alg.actor_average={rate}"])
    generator = torch.Generator().manual_seed(1)
    return Agent(config.alg, config.chosen, OBS_DIM, ACT_DIM, generator)


def learn(learner: Agent, steps: int) -> None:
    z = learner.world_model.encode(torch.randn(8, OBS_DIM, generator=learner.generator)).detach()
    for _ in range(steps):
        rollout, targets, _ = learner.actor_critic.update_actor(learner.world_model, z)
        latents = rollout.latents.detach().flatten(0, 1)
        learner.actor_critic.update_critic(latents, targets.flatten(), torch.ones(len(latents)))


def test_average_moves_its_share_of_the_way_after_every_step() -> None:
    learner = agent(0.25)
    expected = [p.detach().clone() for p in learner.actor.parameters()]
    for _ in range(3):
        learn(learner, 1)
        expected = [0.75 * e + 0.25 * p.detach() for e, p in zip(expected, learner.actor.parameters())]
    for average, by_hand in zip(learner.policy.parameters(), expected, strict=True):
        torch.testing.assert_close(average, by_hand)
        assert not average.requires_grad


def test_training_is_the_same_with_and_without() -> None:
    averaged, plain = agent(0.01), agent(1.0)
    for learner in (averaged, plain):
        learn(learner, 3)
    for name, weights in plain.state_dict().items():
        assert torch.equal(weights, averaged.state_dict()[name]), name
    assert plain.policy is plain.actor


def test_average_acts_deterministically_and_the_actor_explores() -> None:
    learner = agent(0.01)
    learn(learner, 5)
    obs = torch.randn(6, OBS_DIM)
    z = learner.world_model.encode(obs)
    assert torch.equal(learner.act(obs, deterministic=True), learner.policy.act(z))
    assert not torch.equal(learner.policy.act(z), learner.actor.act(z))
    state = learner.generator.get_state()
    explored = learner.act(obs)
    learner.generator.set_state(state)
    assert torch.equal(explored, learner.actor.act(z, learner.actor_critic.noise(len(obs))))


def test_weights_without_an_average_have_no_trace_of_it() -> None:
    assert not [name for name in agent(1.0).state_dict() if "average" in name]
    resumed = agent(0.01)
    learn(resumed, 2)
    again = agent(0.01)
    again.load_training_state(resumed.training_state())
    assert all(torch.equal(a, b) for a, b in zip(resumed.policy.parameters(), again.policy.parameters()))


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_refuses_a_rate_that_is_no_share(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"alg\.actor_average"):
        agent(rate)
