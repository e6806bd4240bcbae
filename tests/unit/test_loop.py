"""The loop around epochs: what it evaluates, keeps, writes and saves, and when it ends."""

from __future__ import annotations

import math

import pytest
from tests.unit.small_trainers import COUNTING, CPU, ENVS, HORIZON, config_of, trainer_of

from pwm.configuration.building import build_env
from pwm.logging.monitoring import PhaseTimer
from pwm.training.evaluation import evaluate
from pwm.training.hooks import Preempted, SafePoint, go_on
from pwm.training.loop import Hooks, LoopState, Plan, TrainingLoop


class Kept:
    """Sink, store and progress of a loop that keep what they are given."""

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []
        self.policies: list[tuple[str, dict[str, float]]] = []
        self.epochs: list[int] = []
        self.warmed_up: list[float] = []
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

    def warm_up(self, share: float) -> None:
        self.warmed_up.append(share)

    def update(self, epoch: int, record: dict[str, float]) -> None:
        self.shown.append(epoch)


QUICK = {"alg.wm_iterations": "1", "alg.actor_iterations": "1", "alg.warmup_env_steps": "15"}


def loop_of(
    changes: dict[str, str], plan: Plan, safe_point: SafePoint = go_on, state: LoopState | None = None
) -> tuple[TrainingLoop, Kept]:
    trainer, kept = trainer_of(QUICK | changes), Kept()
    hooks = Hooks(kept, kept, kept, PhaseTimer(), lambda: {"memory/rss": 7.0}, safe_point)
    trainer.eval_env = build_env(config_of(QUICK | changes), 2, 1, CPU)
    return TrainingLoop(trainer, hooks, plan, state or LoopState()), kept


def test_a_loop_evaluates_keeps_the_best_and_writes_every_epoch() -> None:
    plan = Plan(epochs=5, eval_every=2, eval_runs=3, esnr_every=4)
    loop, kept = loop_of({"env.episode_length": "10", "alg.actor_lr": "0.05"}, plan)
    agent, state = loop.trainer.learner, loop.state
    untrained = evaluate(loop.trainer.eval_env, lambda obs: agent.act(obs, deterministic=True), 3)
    loop.run()
    assert [record["epoch"] for record in kept.records] == kept.epochs == kept.shown == [0, 1, 2, 3, 4, 5]
    found = {r["epoch"]: r["eval/episode_return"] for r in kept.records if "eval/episode_return" in r}
    assert list(found) == [0, 2, 4, 5]
    first = kept.records[0]
    assert first["eval/episode_return"] == untrained.mean
    assert first["eval/episode_return_std"] == untrained.std
    assert first["eval/episode_length"] == 10
    last = evaluate(loop.trainer.eval_env, lambda obs: agent.act(obs, deterministic=True), 3)
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
    # Shown before each of its five steps.
    assert kept.warmed_up == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert not any("time/warmup" in r for r in kept.records[2:])


def test_a_loop_stops_when_its_patience_ends() -> None:
    # Returns of counters are the same whatever the policy does, so nothing is better than the first.
    plan = Plan(epochs=9, eval_every=1, eval_runs=2, patience=2)
    loop, kept = loop_of(COUNTING, plan)
    loop.run()
    assert [record["epoch"] for record in kept.records] == [0, 1, 2]
    assert [(name, record["epoch"]) for name, record in kept.policies] == [("best", 0), ("final", 2)]
    expected = LoopState((1 + 3) / 2, 0, 2, pending=None)
    assert vars(loop.state) | {"wall_time": 0, "cpu_time": 0} == vars(expected)


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
