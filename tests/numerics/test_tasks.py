"""Several tasks in one agent: embeddings, masks, and statistics that belong to one task each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pwm import components
from pwm.algorithm.agent import Agent
from pwm.configuration.config import compose_config
from pwm.configuration.overrides import last_of_each
from pwm.data.batch import Batch
from pwm.models.critic import CriticEnsemble
from pwm.models.normalization import MovingMeanStd, RunningMeanStd
from pwm.models.tasks import told_critic, told_policy

OBS, ACT, TASKS, B = 5, 3, 3, 12
MASKS = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
SMALL = ["alg=pwm_small_h16", "alg.horizon=4", "alg.latent_dim=16", "alg.target_rate=1", "actor=sac"]
SMALL += ["alg.entropy_target=-1", "alg.dynamics.units=[16]", "alg.actor.units=[16]", "alg.critic_units=[16]"]


def agent_of(*changes: str) -> Agent:
    torch.manual_seed(0)
    config = compose_config(last_of_each([*SMALL, *changes]))
    config.alg.world_model.task_dim = 6
    return Agent(config.alg, config.chosen, OBS, ACT, torch.Generator().manual_seed(1), "cpu", MASKS)


def batch_of(agent: Agent, task: Tensor) -> Batch:
    steps, windows = agent.objective.horizon, len(task)
    g = torch.Generator().manual_seed(2)
    flags = torch.zeros(steps, windows).bool()
    obs = torch.randn(steps + 1, windows, OBS, generator=g)
    action = torch.rand(steps, windows, ACT, generator=g) * 2 - 1
    return Batch(obs, action, torch.randn(steps, windows, generator=g), flags, ~flags, task)


@pytest.mark.parametrize("kind", [RunningMeanStd, MovingMeanStd])
def test_statistics_of_a_group_are_those_of_its_values_alone(kind: type) -> None:
    together = kind(epsilon=0.0, groups=3) if kind is RunningMeanStd else kind(groups=3)
    apart = [kind(epsilon=0.0) if kind is RunningMeanStd else kind() for _ in range(3)]
    for step in range(5):
        values = torch.randn(20) * 10.0 ** torch.arange(20).remainder(3) + step
        # Group 2 is absent from every second batch.
        group = torch.randint(0, 3 if step % 2 else 2, (20,))
        together.update(values, group)
        for index, alone in enumerate(apart):
            if bool((group == index).any()):
                alone.update(values[group == index])
    for index, alone in enumerate(apart):
        torch.testing.assert_close(together.mean[index], alone.mean.squeeze(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.std[index], alone.std.squeeze(), rtol=1e-4, atol=1e-4)


def test_rescaling_values_of_one_task_changes_no_value() -> None:
    critic = CriticEnsemble(4, [8], tasks=TASKS)
    z, task = torch.randn(10, 4), torch.randint(0, TASKS, (10,))
    before = critic(z, task)
    critic.rescale(torch.tensor([5.0, 0.0, -3.0]), torch.tensor([10.0, 0.1, 2.0]))
    torch.testing.assert_close(critic(z, task), before, rtol=1e-4, atol=1e-4)
    assert before.shape == (3, 10)
    # Of every task its own output.
    alone = critic(z[:1], torch.tensor([0]))[:, 0]
    torch.testing.assert_close(critic(z, torch.zeros(10, dtype=torch.int64))[:, 0], alone)
    assert critic(z.expand(7, 10, 4), task).shape == (3, 7, 10)


@pytest.mark.parametrize("latents", ["simnorm", "observations"])
def test_every_network_is_told_the_task(latents: str) -> None:
    agent = agent_of(f"alg.latents={latents}")
    obs = torch.randn(1, OBS).expand(TASKS, OBS)
    task = torch.arange(TASKS)
    with torch.no_grad():
        agent.world_model.task_embedding.weight.mul_(20.0)
        agent.world_model.reward_net[-1].weight.normal_()
    z, inputs = agent.world_model.encode(obs, task), agent.actor_critic.inputs(agent.world_model, task)
    same = agent.world_model.encode(obs, torch.zeros(TASKS, dtype=torch.int64))
    # Normalised observations say nothing of the task; networks behind them do.
    assert torch.equal(z, same) == (latents == "observations")
    action = torch.zeros(TASKS, ACT)
    outputs = (
        agent.world_model.next(same, action, task),
        agent.world_model.reward(same, action, task),
        told_policy(agent.actor, inputs).decide(same).location[:, :1],
        told_critic(agent.critic, inputs)(same).T,
    )
    for output in outputs:
        assert not torch.allclose(output[0], output[1])
        assert not torch.allclose(output[1], output[2])


@pytest.mark.parametrize("actor", components.names("actor"))
def test_actions_that_a_task_does_not_have_are_zero_and_have_no_entropy(actor: str) -> None:
    agent = agent_of(f"actor={actor}")
    task = torch.arange(TASKS).repeat(4)
    obs = torch.randn(B, OBS)
    assert bool((agent.act(obs, task=task)[MASKS[task] == 0] == 0).all())
    assert bool((agent.act(obs, task=task)[MASKS[task] == 1] != 0).all())
    inputs = agent.actor_critic.inputs(agent.world_model, task)
    rollout = agent.actor_critic.imagine(agent.world_model, agent.world_model.encode(obs, task), inputs)
    assert bool((rollout.actions[:, MASKS[task] == 0] == 0).all())
    decision = told_policy(agent.actor, inputs).decide(rollout.latents[0], torch.randn(B, ACT))
    assert bool((decision.log_prob[MASKS[task] == 0] == 0).all())
    # What is drawn for entries that a task does not have changes nothing of those that it has.
    noise = torch.randn(B, ACT)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        policy = told_policy(agent.actor, inputs)
        drawn = [
            policy.decide(rollout.latents[0], torch.where(MASKS[task] == 0, x, noise)) for x in (0.0, 3.0)
        ]
    assert torch.equal(drawn[0].action, drawn[1].action)
    assert torch.equal(drawn[0].log_prob, drawn[1].log_prob)
    # Per entry of the action, so that tasks with few entries are held at the same entropy as others.
    found = agent.actor_critic.update_actor(agent.world_model, rollout.latents[0].detach(), inputs=inputs)[2]
    assert -2.0 < float(found["entropy"]) < 2.0


def test_a_task_learns_as_if_others_paid_nothing() -> None:
    """Rewards of one task a thousand times larger leave the losses of the other tasks as they are."""
    task = torch.arange(TASKS).repeat(4)
    losses, scales = [], []
    for factor in (1.0, 1000.0):
        agent = agent_of("alg.rew_rms=true")
        batch = batch_of(agent, task)
        large = torch.where(task == 0, factor, 1.0)
        batch = batch._replace(reward=batch.reward * large)
        agent.model.observe(batch.obs[0], batch.reward[0], task)
        scales.append(agent.reward_scale.clone())
        losses.append(agent.model.loss(batch, agent.generator)[0].detach())
    assert agent.reward_scale.shape == (TASKS,)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scales[1] / scales[0], torch.tensor([1000.0, 1.0, 1.0]), rtol=1e-4, atol=1e-4)


def test_all_updates_run_and_are_part_of_the_state() -> None:
    agent, other = agent_of("alg.actor_average=0.1"), agent_of("alg.actor_average=0.1")
    task = torch.randint(0, TASKS, (B,), generator=torch.Generator().manual_seed(3))
    batch = batch_of(agent, task)
    for _ in range(3):
        agent.model.update(batch)
        z = agent.world_model.encode(batch.obs[0], task).detach()
        inputs = agent.actor_critic.inputs(agent.world_model, task)
        rollout, targets, _ = agent.actor_critic.update_actor(agent.world_model, z, inputs=inputs)
        for t in range(len(targets)):
            latents = rollout.latents[t].detach()
            agent.actor_critic.update_critic(latents, targets[t], torch.ones(B), inputs)
    assert all(int(updater.skipped) == 0 for updater in agent.updaters.values())
    assert agent.actor_critic.return_rms.var.shape == agent.critic.mean.shape == (TASKS,)
    assert bool((agent.world_model.task_embedding.weight.norm(dim=-1) <= 1.0).all())
    other.load_training_state(agent.training_state())
    obs = torch.randn(B, OBS)
    assert torch.equal(other.act(obs, True, task), agent.act(obs, True, task))
