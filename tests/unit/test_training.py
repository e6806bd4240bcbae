"""Epochs, evaluations and options of training, against what they must do in worlds that are known."""

from __future__ import annotations

import copy
import math
import re
import statistics

import pytest
import torch
from tests.end_to_end.tiny import NETWORKS
from torch import Tensor

from pwm.data.batch import Batch
from pwm.envs import analytic
from pwm.envs.base import StepResult, VectorEnv
from pwm.errors import ConfigError, EnvError, NonFiniteError
from pwm.experiment.config import compose_config
from pwm.experiment.monitoring import PhaseTimer
from pwm.experiment.policies import build_agent
from pwm.experiment.run import build_env
from pwm.training import online
from pwm.training.episode_statistics import EpisodeStatistics
from pwm.training.evaluation import Recording, evaluate, random_policy, reference_scores, zero_policy
from pwm.training.hooks import Preempted, SafePoint, go_on
from pwm.training.loop import Hooks, LoopState, Plan, TrainingLoop
from pwm.training.online import OnlineTrainer
from pwm.training.options import Options

CPU = torch.device("cpu")
ENVS, HORIZON = 3, 4
SMALL = dict(override.split("=") for override in NETWORKS) | {
    "alg": "pwm_small_flow",
    "env": "analytic",
    "alg.num_envs": str(ENVS),
    "alg.horizon": str(HORIZON),
    "alg.actor_batch_size": "8",
    "alg.wm_batch_size": "8",
    "alg.buffer_size": "2000",
    "alg.warmup_env_steps": "0",
    "alg.warmup_updates": "0",
}
LOCKSTEP = {
    "alg.collect": "lockstep",
    "alg.actor_iterations": "1",
    "alg.replay_starts": "0",
    "alg.open_loop_share": "0",
}
# Environment i ends after 2, 3, 5 steps; whether for good alternates.
COUNTING = {"env.task": "counting", "env.episode_lengths": "[2,3,5]", "env.ends": "[terminated,truncated]"}


def trainer_of(changes: dict[str, str]) -> OnlineTrainer:
    config = compose_config([f"{key}={value}" for key, value in (SMALL | changes).items()])
    env = build_env(config, ENVS, 0, CPU)
    return OnlineTrainer(config.alg, env, build_agent(config, env.spec, CPU))


def counting(lengths: list[int], copies: int) -> VectorEnv:
    options = analytic.Options(task="counting", episode_lengths=lengths, ends=["terminated", "truncated"])
    return analytic.build(options, copies, CPU, 0)


def oscillators(copies: int, length: int = 5) -> VectorEnv:
    return analytic.build(analytic.Options(episode_length=length), copies, CPU, 0)


# --- episodes -----------------------------------------------------------------------------------------------


def test_training_episodes_are_counted_once_and_whole() -> None:
    env, still = counting([2, 3, 5], 3), torch.zeros(3, 2)
    whole, resumed = EpisodeStatistics(3, CPU), EpisodeStatistics(3, CPU)
    for _ in range(7):
        whole.add(env.step(still))
    # In 7 steps: three episodes of 2 steps, two of 3, one of 5; one of length L returns L (L - 1) / 2.
    assert whole.flush() == {
        "train/episode_return": pytest.approx((3 * 1 + 2 * 3 + 10) / 6),
        "train/episode_length": pytest.approx((3 * 2 + 2 * 3 + 5) / 6),
        "train/episodes": 6,
    }
    assert whole.flush() == {}
    # Unfinished episodes go on, also from a state that was saved in their middle.
    resumed.load_state_dict(whole.state_dict())
    last = env.step(still)
    for counted in (whole, resumed):
        counted.add(last)
        assert counted.flush() == {
            "train/episode_return": 1.0,
            "train/episode_length": 2.0,
            "train/episodes": 1,
        }


def test_an_evaluation_takes_the_first_episode_of_every_copy() -> None:
    recording = Recording()
    result = evaluate(counting([2, 4, 3], 3), zero_policy(2), 5, recording=recording)
    assert recording.stacked().running.sum(0).tolist() == [2, 4, 3]
    assert result.lengths == [2, 4, 3, 2, 4]
    assert result.returns == [1.0, 6.0, 3.0, 1.0, 6.0]
    assert result.summary() == {
        "episodes": 5,
        "mean": pytest.approx(3.4),
        "std": pytest.approx(statistics.stdev(result.returns)),
        "min": 1.0,
        "max": 6.0,
        "mean_length": 3.0,
        "returns": result.returns,
        "lengths": result.lengths,
    }
    assert evaluate(counting([4], 1), zero_policy(2), 1).std == 0.0


def test_every_round_of_an_evaluation_has_a_seed_of_its_own() -> None:
    env = oscillators(3)
    returns = evaluate(env, zero_policy(2), 6, seed=5).returns
    assert len(set(returns)) == 6
    assert evaluate(env, zero_policy(2), 3, seed=5).returns == returns[:3]
    assert evaluate(env, zero_policy(2), 3, seed=6).returns == returns[3:]
    assert evaluate(env, zero_policy(2), 3).returns == evaluate(env, zero_policy(2), 3, 1_000_000).returns


def test_reference_scores_are_those_of_doing_nothing_and_of_uniform_actions() -> None:
    env, looks = oscillators(4), []
    found = reference_scores(env, 8, seed=3, safe_point=lambda: looks.append(0))
    assert found == {
        "zero_action": evaluate(env, zero_policy(2), 8, 3).mean,
        "random_action": evaluate(env, random_policy(2), 8, 3).mean,
    }
    assert len(looks) == 2 * 2 * 5
    actions = random_policy(3)(torch.zeros(4000, 5))
    assert actions.shape == (4000, 3)
    assert -1 <= actions.min() < -0.99 < 0.99 < actions.max() <= 1
    assert abs(actions.mean()) < 0.02
    assert actions.var() == pytest.approx(1 / 3, rel=0.03)
    assert not zero_policy(3)(torch.ones(7, 5)).any()


def test_evaluations_that_give_no_number_are_refused() -> None:
    env = oscillators(2)
    with pytest.raises(ConfigError, match="episodes=0"):
        evaluate(env, zero_policy(2), 0)
    step = env.step

    def broken(action: Tensor) -> StepResult:
        result = step(action)
        result.reward[1] = math.nan
        return result

    env.step = broken  # type: ignore[method-assign]
    with pytest.raises(EnvError, match=r"environments \[1\]"):
        evaluate(env, zero_policy(2), 2)


# --- epochs -------------------------------------------------------------------------------------------------


def test_warm_up_acts_uniformly_and_does_what_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of({"alg.warmup_env_steps": "100", "alg.warmup_updates": "5"})
    actions, updates, looks = [], [], []
    step, update = trainer.env.step, trainer.agent.update_world_model
    monkeypatch.setattr(trainer.env, "step", lambda action: actions.append(action) or step(action))
    monkeypatch.setattr(
        trainer.agent, "update_world_model", lambda batch: updates.append(batch) or update(batch)
    )
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
    rates = {"alg.actor_lr": "1e-3", "alg.lr_final": "1e-4"}
    trainer = trainer_of(COUNTING | flow | rates)
    records = [trainer.run_epoch(decay, PhaseTimer()) for decay in (0.0, 0.5)]
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
    update_actor, update_model = trainer.agent.update_actor, trainer.agent.update_world_model

    def actor(*arguments: object) -> object:
        result = update_actor(*arguments)  # type: ignore[arg-type]
        seen["actor"].append(float(result[2]["loss"]))
        return result

    def model(batch: Batch) -> dict[str, Tensor]:
        assert batch.action.shape[:2] == (HORIZON, 8)
        metrics = update_model(batch)
        seen["wm"].append(float(metrics["loss"]))
        return metrics

    monkeypatch.setattr(trainer.agent, "update_actor", actor)
    monkeypatch.setattr(trainer.agent, "update_world_model", model)
    record = trainer.run_epoch(0.0, PhaseTimer())
    assert [len(values) for values in seen.values()] == [3, 4]
    for network, values in seen.items():
        assert record[f"{network}/loss"] == pytest.approx(statistics.fmean(values), rel=1e-5)


def test_lockstep_executes_the_rollout_it_learns_from(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without running statistics an observation has one latent during the epoch, at every moment of it.
    trainer = trainer_of(COUNTING | LOCKSTEP | {"alg.wm_iterations": "0", "alg.obs_rms": "false"})
    agent, rollouts, steps = trainer.agent, [], []
    update, step = agent.update_actor, trainer.env.step

    def spying_update(z: Tensor, interrupt: object) -> object:
        result = update(z, interrupt)  # type: ignore[arg-type]
        rollouts.append(result[0])
        return result

    def spying_step(action: Tensor) -> StepResult:
        assert not action.requires_grad
        result = step(action)
        steps.append((action, result, agent.world_model.encode(result.obs).detach()))
        return result

    monkeypatch.setattr(agent, "update_actor", spying_update)
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
    actor, model = online.actor_gradient, online.model_gradient
    monkeypatch.setattr(online, "actor_gradient", lambda a, z, g: starts.append(z) or actor(a, z, g))
    monkeypatch.setattr(online, "model_gradient", lambda a, b, g: batches.append(b) or model(a, b, g))
    trainer.gradient_quality()
    assert {z.shape for z in starts} == {(states, trainer.options.latent_dim)}
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
    trainer.agent.updaters["wm"].skipped_in_row.fill_(trainer.options.max_skipped_updates - 1)
    trainer.warm_up()
    trainer.run_epoch(0.0, PhaseTimer())
    # Counts are looked at once in an epoch, so there may be more.
    trainer.agent.updaters["wm"].skipped_in_row.fill_(trainer.options.max_skipped_updates + 3)
    with pytest.raises(NonFiniteError, match="world-model"):
        trainer.warm_up()
    with pytest.raises(NonFiniteError, match="world-model"):
        trainer.run_epoch(0.0, PhaseTimer())


# --- the loop around epochs ---------------------------------------------------------------------------------


class Kept:
    """Sink, store and progress of a loop that keep what they are given."""

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []
        self.policies: list[tuple[str, dict[str, float]]] = []
        self.epochs: list[int] = []
        self.shown: list[int] = []
        self.states: list[dict[str, object]] = []

    def write(self, record: dict[str, float]) -> None:
        self.records.append(record)

    def save_policy(self, name: str, record: dict[str, float]) -> None:
        self.policies.append((name, dict(record)))

    def save_epoch(self, epoch: int, record: dict[str, float]) -> None:
        self.epochs.append(epoch)

    def save_state(self, loop: dict[str, object]) -> None:
        self.states.append(dict(loop))

    def update(self, epoch: int, record: dict[str, float]) -> None:
        self.shown.append(epoch)


QUICK = {"alg.wm_iterations": "1", "alg.actor_iterations": "1", "alg.warmup_env_steps": "15"}


def loop_of(
    changes: dict[str, str], plan: Plan, safe_point: SafePoint = go_on, state: LoopState | None = None
) -> tuple[TrainingLoop, Kept]:
    trainer, kept = trainer_of(QUICK | changes), Kept()
    config = compose_config([f"{key}={value}" for key, value in (SMALL | QUICK | changes).items()])
    hooks = Hooks(kept, kept, kept, PhaseTimer(), lambda: {"memory/rss": 7.0}, safe_point)
    env = build_env(config, 2, 1, CPU)
    return TrainingLoop(trainer, env, hooks, plan, state or LoopState()), kept


def test_a_loop_evaluates_keeps_the_best_and_writes_every_epoch() -> None:
    plan = Plan(epochs=5, eval_every=2, eval_runs=3, esnr_every=4)
    loop, kept = loop_of({"env.episode_length": "10", "alg.actor_lr": "0.05"}, plan)
    agent, state = loop.trainer.agent, loop.state
    untrained = evaluate(loop.eval_env, lambda obs: agent.act(obs, deterministic=True), 3)
    loop.run()
    assert [record["epoch"] for record in kept.records] == kept.epochs == kept.shown == [0, 1, 2, 3, 4, 5]
    found = {r["epoch"]: r["eval/episode_return"] for r in kept.records if "eval/episode_return" in r}
    assert list(found) == [0, 2, 4, 5]
    first = kept.records[0]
    assert first["eval/episode_return"] == untrained.mean
    assert first["eval/episode_return_std"] == untrained.std
    assert first["eval/episode_length"] == 10
    last = evaluate(loop.eval_env, lambda obs: agent.act(obs, deterministic=True), 3)
    assert found[5] == last.mean
    assert [r["epoch"] for r in kept.records if "actor/esnr" in r] == [4]
    best = [record for name, record in kept.policies if name == "best"]
    assert [r["epoch"] for r in best] == [
        e for e in found if found[e] > max([-math.inf, *(found[k] for k in found if k < e)])
    ]
    assert (state.best_epoch, state.best_return) == (best[-1]["epoch"], max(found.values()))
    assert state.evaluations_since_best == len([e for e in found if e > state.best_epoch])
    assert kept.policies[-1] == ("final", {"epoch": 5, "env_steps": 15 + 5 * ENVS * HORIZON})
    assert len(kept.states) == 1
    times = [r["wall_time"] for r in kept.records]
    assert 0 < times[0] < times[-1] <= kept.states[0]["wall_time"]
    for record in kept.records:
        assert record["memory/rss"] == 7.0
        errors = {key for key in record if key.startswith("wm/latent_error")}
        # Of 1, 4 and the horizon; nothing is stored before the first epoch.
        evaluated = record["epoch"] in (2, 4, 5)
        assert errors == ({"wm/latent_error_k1", "wm/latent_error_k4"} if evaluated else set())
        assert ("fps" in record) == (record["epoch"] > 0)
    assert "time/warmup" in kept.records[1]
    assert not any("time/warmup" in r for r in kept.records[2:])


def test_a_loop_stops_when_its_patience_ends() -> None:
    # Returns of counters are the same whatever the policy does, so nothing is better than the first.
    plan = Plan(epochs=9, eval_every=1, eval_runs=2, patience=2)
    loop, kept = loop_of(COUNTING, plan)
    loop.run()
    assert [record["epoch"] for record in kept.records] == [0, 1, 2]
    assert [(name, record["epoch"]) for name, record in kept.policies] == [("best", 0), ("final", 2)]
    assert vars(loop.state) | {"wall_time": 0} == vars(LoopState((1 + 3) / 2, 0, 2, 0, None))


@pytest.mark.parametrize(("interval", "saves"), [(0.0, 5), (1e6, 1)])
def test_the_state_is_saved_as_often_as_asked(interval: float, saves: int) -> None:
    plan = Plan(epochs=3, eval_every=5, eval_runs=1, save_interval=interval)
    loop, kept = loop_of(COUNTING | {"alg.warmup_env_steps": "0"}, plan)
    loop.run()
    # After every record, that of the untrained policy included, and at the end.
    assert len(kept.states) == saves


def test_a_loop_that_gives_way_saves_where_it_stands_and_goes_on_there() -> None:
    looks = []

    def safe_point() -> None:
        looks.append(0)
        if len(looks) == 15:
            raise Preempted

    plan = Plan(epochs=3, eval_every=1, eval_runs=2)
    loop, kept = loop_of(COUNTING, plan, safe_point, LoopState(wall_time=100.0))
    with pytest.raises(Preempted):
        loop.run()
    (saved,) = kept.states
    assert saved["wall_time"] > 100.0
    assert [name for name, _ in kept.policies] == ["best"]
    done = [record["epoch"] for record in kept.records]
    assert done == [0, 1]
    loop.run()
    assert [record["epoch"] for record in kept.records] == [0, 1, 2, 3]
    assert kept.policies[-1][0] == "final"


def test_a_plan_ends_with_its_epochs_or_its_patience() -> None:
    plan = Plan(epochs=10, eval_every=1, eval_runs=1, patience=3)
    done = LoopState(pending=None)
    assert [plan.fulfilled(epoch, done) for epoch in (9, 10, 11)] == [False, True, True]
    assert not plan.fulfilled(10, LoopState())
    tried = [LoopState(evaluations_since_best=n, pending=None) for n in (2, 3, 4)]
    assert [plan.fulfilled(5, state) for state in tried] == [False, True, True]
    endless = Plan(epochs=10, eval_every=1, eval_runs=1)
    assert not any(endless.fulfilled(5, state) for state in tried)


# --- options ------------------------------------------------------------------------------------------------

# Values at the edge that are allowed, and values beyond it.
AT_LEAST_ONE = [
    "max_epochs",
    "num_critics",
    "critic_iterations",
    "critic_batches",
    "wm_batch_size",
    "actor_batch_size",
    "actor_iterations",
    "max_skipped_updates",
    "horizon",
    "num_envs",
]
NOT_NEGATIVE = [
    "wm_iterations",
    "warmup_env_steps",
    "warmup_updates",
    "lr_final",
    "dynamics_coef",
    "reward_coef",
    "termination_coef",
    "saturation_coef",
]
POSITIVE = [
    "actor_lr",
    "critic_lr",
    "model_lr",
    "encoder_lr_scale",
    "actor_grad_norm",
    "critic_grad_norm",
    "wm_grad_norm",
    "simnorm_scale",
]
SHARES = ["gamma", "lam", "target_rate", "actor_average", "replay_starts", "open_loop_share"]
BOUNDS: dict[str, tuple[list[object], list[object]]] = {
    **{key: ([1], [0, -1]) for key in AT_LEAST_ONE},
    **{key: ([0], [-1]) for key in NOT_NEGATIVE},
    **{key: ([1e-12], [0.0, -0.5, math.nan]) for key in POSITIVE},
    **{key: ([0.0, 1.0], [-0.01, 1.01, math.nan]) for key in SHARES},
    "replay_recency": ([1.0, 100.0], [0.99, math.inf, math.nan]),
    "lr_decay_start": ([0.0, 0.99], [-0.01, 1.0]),
    "adam_betas": ([[0.0, 0.99]], [[0.9], [0.9, 0.9, 0.9], [0.9, 1.0], [-0.1, 0.9]]),
    "buffer_size": ([128 * 18], [128 * 18 - 1]),
    "simnorm_dim": ([2], [1, 0, 3]),
    "latent_dim": ([8], [0, -8, 12]),
    "encoder_units": ([[1], []], [[0], [8, -1]]),
    "critic_units": ([[1], []], [[0]]),
    "task_dim": ([0], [1]),
}


@pytest.mark.parametrize("key", BOUNDS)
def test_options_end_where_they_say(key: str) -> None:
    allowed, refused = BOUNDS[key]
    for value in allowed:
        small = {"actor_batch_size": 1} if key in ("horizon", "num_envs") else {}
        assert getattr(Options(**{key: value} | small), key) == value  # type: ignore[arg-type]
    for value in refused:
        with pytest.raises(ConfigError, match=re.escape(f"alg.{key}={value}")):
            Options(**{key: value})  # type: ignore[arg-type]


def test_sizes_that_need_each_other_end_where_they_say() -> None:
    sizes = {"num_envs": 4, "horizon": 5, "actor_batch_size": 20}
    assert Options(**sizes, buffer_size=28).buffer_size == 28  # type: ignore[arg-type]
    assert Options(**sizes, warmup_updates=1, warmup_env_steps=24)  # type: ignore[arg-type]
    assert Options(**sizes | {"actor_batch_size": 40}, replay_starts=0.5).replayed_starts == 20  # type: ignore[arg-type]
    refused = [
        ({"buffer_size": 27}, r"buffer_size=27 .* = 28"),
        ({"warmup_updates": 1, "warmup_env_steps": 23}, r"warmup_env_steps=23 .* = 24"),
        ({"actor_batch_size": 21}, "needs 21 states .* = 20"),
        ({"actor_batch_size": 42, "replay_starts": 0.5}, "needs 21 states .* = 20"),
    ]
    for changes, named in refused:
        with pytest.raises(ConfigError, match=named):
            Options(**sizes | changes)  # type: ignore[arg-type]
    # Lockstep takes no start states.
    assert Options(**sizes | {"actor_batch_size": 21}, collect="lockstep")  # type: ignore[arg-type]
