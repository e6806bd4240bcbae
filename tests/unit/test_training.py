"""What one epoch does, stores, counts and saves."""

from __future__ import annotations

import copy
import math
import statistics

import pytest
import torch
from tests.unit.small_trainers import COUNTING, ENVS, HORIZON, LOCKSTEP, trainer_of
from torch import Tensor

from pwm.data.batch import Batch
from pwm.envs.base import StepResult
from pwm.errors import EnvError, NonFiniteError
from pwm.logging.monitoring import PhaseTimer
from pwm.training import agent_trainer


def test_warm_up_acts_uniformly_and_does_what_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of({"alg.warmup_env_steps": "100", "alg.warmup_updates": "5"})
    actions, updates, looks = [], [], []
    step, update = trainer.env.step, trainer.agent.model.update
    monkeypatch.setattr(trainer.env, "step", lambda action: actions.append(action) or step(action))
    monkeypatch.setattr(trainer.agent.model, "update", lambda batch: updates.append(batch) or update(batch))
    trainer.warm_up(lambda: looks.append(0))
    # It can be interrupted before every step and every update.
    assert len(looks) == 34 + 5
    # The first multiple of the number of environments that is not below 100.
    assert trainer.env_steps == 102 == len(trainer.replay)
    assert trainer.warmup_updates == len(updates) == 5
    drawn = torch.stack(actions)
    assert drawn.min() >= -1
    assert drawn.max() <= 1
    assert abs(drawn.mean()) < 0.15
    assert drawn.std() == pytest.approx(3**-0.5, rel=0.1)
    trainer.warm_up()
    assert (trainer.env_steps, len(updates)) == (102, 5)
    trainer.warmup_updates = 3
    trainer.warm_up()
    assert len(updates) == 7


def test_an_epoch_counts_what_it_did() -> None:
    flow = {"alg.actor_iterations": "2", "alg.flow_integrator": "heun", "alg.flow_substeps": "3"}
    rates = {"alg.actor_lr": "1e-3", "alg.lr_final": "1e-4", "alg.lr_decay_start": "0.5"}
    trainer = trainer_of(COUNTING | flow | rates)
    # Learning rates are those of the first and of the last of four epochs.
    decays = [trainer.options.optimisation.decay(epoch, 4) for epoch in (0, 3)]
    records = [trainer.run_epoch(decay, PhaseTimer()) for decay in decays]
    for epoch, record in enumerate(records, start=1):
        assert record["epoch"] == epoch
        assert record["env_steps"] == record["replay/size"] == epoch * ENVS * HORIZON
        # Every environment stored one transition per step, the newest 0 steps ago.
        assert record["replay/age"] == (epoch * HORIZON - 1) / 2
        assert record["velocity_evals"] == epoch * 2 * 8 * HORIZON * 2 * 3
        assert record["skipped_updates"] == 0
    # In 4 steps environments with episodes of 2, 3, 5 steps finish 2, 1, 0 of them; in 8 steps 4, 2, 1.
    assert [record["train/episodes"] for record in records] == [3, 4]
    assert records[1]["train/episode_length"] == (2 * 2 + 3 + 5) / 4
    rewards = torch.tensor([t % length for length in (2, 3, 5) for t in range(8)], dtype=torch.float64)
    assert records[1]["reward_scale"] == pytest.approx(float(rewards.std(correction=0)), rel=1e-3)
    assert records[0]["lr/actor"] == pytest.approx(1e-3)
    assert records[1]["lr/actor"] == pytest.approx((1e-3 + 1e-4) / 2)


def test_metrics_are_means_over_the_updates_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of({"alg.actor_iterations": "3", "alg.wm_iterations": "4"})
    seen: dict[str, list[float]] = {"actor": [], "wm": []}
    update_actor, update_model = trainer.agent.actor_critic.update_actor, trainer.agent.model.update

    def actor(*arguments: object) -> object:
        result = update_actor(*arguments)  # type: ignore[arg-type]
        seen["actor"].append(float(result[2]["loss"]))
        return result

    def model(batch: Batch) -> dict[str, Tensor]:
        assert batch.action.shape[:2] == (HORIZON, 8)
        metrics = update_model(batch)
        seen["wm"].append(float(metrics["loss"]))
        return metrics

    monkeypatch.setattr(trainer.agent.actor_critic, "update_actor", actor)
    monkeypatch.setattr(trainer.agent.model, "update", model)
    record = trainer.run_epoch(0.0, PhaseTimer())
    assert [len(values) for values in seen.values()] == [3, 4]
    for network, values in seen.items():
        assert record[f"{network}/loss"] == pytest.approx(statistics.fmean(values), rel=1e-5)


def test_lockstep_executes_the_rollout_it_learns_from(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without running statistics an observation has one latent during the epoch, at every moment of it.
    trainer = trainer_of(COUNTING | LOCKSTEP | {"alg.wm_iterations": "0", "alg.obs_rms": "false"})
    agent, rollouts, steps = trainer.agent, [], []
    update, step = agent.actor_critic.update_actor, trainer.env.step

    def spying_update(model: object, z: Tensor, interrupt: object, *rest: object) -> object:
        result = update(model, z, interrupt, *rest)  # type: ignore[arg-type]
        rollouts.append(result[0])
        return result

    def spying_step(action: Tensor) -> StepResult:
        assert not action.requires_grad
        result = step(action)
        steps.append((action, result, agent.world_model.encode(result.obs).detach()))
        return result

    monkeypatch.setattr(agent.actor_critic, "update_actor", spying_update)
    monkeypatch.setattr(trainer.env, "step", spying_step)
    first = trainer.obs
    trainer.run_epoch(0.0, PhaseTimer())
    (rollout,) = rollouts
    assert len(steps) == HORIZON
    for t, (action, result, _) in enumerate(steps):
        torch.testing.assert_close(rollout.actions[t], action)
        assert torch.equal(rollout.terminated[t], result.terminated)
        assert torch.equal(rollout.ends[t], result.terminated | result.truncated)
        if t:
            before = steps[t - 1][1]
            ended = before.terminated | before.truncated
            torch.testing.assert_close(rollout.latents[t][~ended], rollout.next_latents[t - 1][~ended])
            torch.testing.assert_close(rollout.latents[t][ended], steps[t - 1][2][ended])
    assert torch.equal(trainer.obs, steps[-1][1].obs)
    assert not torch.equal(trainer.obs, first)
    # The next rollout starts where the environments stand.
    trainer.run_epoch(0.0, PhaseTimer())
    torch.testing.assert_close(rollouts[1].latents[0], steps[HORIZON - 1][2])


@pytest.mark.parametrize("collect", [{}, LOCKSTEP], ids=["closed_loop", "lockstep"])
def test_what_is_stored_is_what_the_environments_went_through(collect: dict[str, str]) -> None:
    trainer = trainer_of(COUNTING | collect)
    for _ in range(3):
        trainer.run_epoch(0.0, PhaseTimer())
    stored = trainer.replay.gather(torch.arange(len(trainer.replay)))
    number, step, episode = stored.obs[..., :3].unbind(-1)
    lengths = torch.tensor([2, 3, 5])[number[0].long()]
    # A window follows one episode to its end, or to the latest step.
    assert torch.equal(number, number[:1].expand_as(number))
    assert torch.equal(episode, episode[:1].expand_as(episode))
    assert torch.equal(step[1:] - step[:-1], stored.valid.float())
    assert torch.equal(stored.reward, step[:-1] * stored.valid)
    assert (step <= lengths).all()
    ended = stored.valid & (step[1:] == lengths)
    kind = (number[:-1] + episode[:-1]) % 2 == 0
    assert torch.equal(stored.terminated, ended & kind)
    assert ended.any(0)[step[0] == lengths - 1].all()
    assert -1 <= stored.action.min() < stored.action.max() <= 1


@pytest.mark.parametrize("collect", [{}, LOCKSTEP], ids=["closed_loop", "lockstep"])
def test_a_saved_trainer_goes_on_as_the_one_it_was_saved_from(collect: dict[str, str]) -> None:
    trainer, other = (trainer_of(COUNTING | collect | {"general.seed": seed}) for seed in ("1", "2"))
    trainer.run_epoch(0.0, PhaseTimer())
    trainer.agent.updaters["wm"].skipped_in_row.fill_(2)
    # A state refers to the trainer that it is of; a run writes it to a file at once.
    state, replay = copy.deepcopy(trainer.state_dict()), trainer.replay.state_dict()
    went_on = trainer.run_epoch(0.5, PhaseTimer())
    other.replay.load_state_dict(replay)
    other.load_state_dict(state)
    assert int(other.agent.updaters["wm"].skipped_in_row) == 2
    assert other.run_epoch(0.5, PhaseTimer()) == went_on


def test_a_trainer_whose_environment_cannot_be_saved_begins_new_episodes() -> None:
    trainer, other = trainer_of(COUNTING), trainer_of(COUNTING)
    trainer.run_epoch(0.0, PhaseTimer())
    other.replay.load_state_dict(trainer.replay.state_dict())
    with pytest.warns(RuntimeWarning, match="new episodes begin"):
        other.load_state_dict(trainer.state_dict() | {"env": None})
    other.run_epoch(0.0, PhaseTimer())
    stored = other.replay.gather(torch.arange(len(other.replay)))
    # No window joins the step before to the one after.
    assert torch.equal(stored.obs[1:, :, 1] - stored.obs[:-1, :, 1], stored.valid.float())


@pytest.mark.parametrize(("collect", "states"), [({}, 8), (LOCKSTEP, ENVS)], ids=["closed_loop", "lockstep"])
def test_gradients_are_measured_on_batches_of_the_size_of_training(
    collect: dict[str, str], states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, starts, batches = trainer_of(collect), [], []
    trainer.run_epoch(0.0, PhaseTimer())
    actor, model = agent_trainer.actor_gradient, agent_trainer.model_gradient
    monkeypatch.setattr(agent_trainer, "actor_gradient", lambda a, z, g: starts.append(z) or actor(a, z, g))
    monkeypatch.setattr(agent_trainer, "model_gradient", lambda a, b, g: batches.append(b) or model(a, b, g))
    trainer.gradient_quality()
    assert {z.shape for z in starts} == {(states, trainer.options.world_model.latent_dim)}
    assert {b.reward.shape for b in batches} == {(HORIZON, 8)}
    # Every state that was met: stored transitions start there.
    met = trainer.agent.world_model.encode(trainer.replay.gather(torch.arange(len(trainer.replay))).obs[0])
    for z in starts:
        assert (z[:, None] - met).norm(dim=-1).min(1).values.max() < 1e-5


def test_observations_that_are_not_numbers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for part, named in (("reward", "reward"), ("final_obs", "final_obs"), ("obs", "obs")):
        trainer = trainer_of({})
        step = trainer.env.step

        def broken(action: Tensor, step=step, part=part) -> StepResult:  # type: ignore[no-untyped-def]
            result = step(action)
            value = getattr(result, part).clone()
            value[1] = math.inf
            return result._replace(**{part: value})

        monkeypatch.setattr(trainer.env, "step", broken)
        with pytest.raises(EnvError, match=f"{named} of environment 1 is not finite .* after 0 steps"):
            trainer.run_epoch(0.0, PhaseTimer())
        assert len(trainer.replay) == 0


def test_updates_that_keep_failing_end_warm_up_and_epoch() -> None:
    trainer = trainer_of({"alg.wm_iterations": "0"})
    trainer.agent.updaters["wm"].skipped_in_row.fill_(trainer.options.optimisation.max_skipped_updates - 1)
    trainer.warm_up()
    trainer.run_epoch(0.0, PhaseTimer())
    # Counts are looked at once in an epoch, so there may be more.
    trainer.agent.updaters["wm"].skipped_in_row.fill_(trainer.options.optimisation.max_skipped_updates + 3)
    with pytest.raises(NonFiniteError, match="world-model"):
        trainer.warm_up()
    with pytest.raises(NonFiniteError, match="world-model"):
        trainer.run_epoch(0.0, PhaseTimer())
