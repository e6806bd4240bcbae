"""Pretraining and extraction: data, steps, one task of many, planning where the best action is known."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tests.unit.offline_data import MT30, block, write_store
from tests.unit.small_trainers import CPU
from torch.utils.flop_counter import FlopCounterMode

from pwm import components
from pwm.algorithm.actor_critic import Examples
from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import latent_errors
from pwm.algorithm.planning import MPPI, Planner
from pwm.analysis.cost.operations import epoch_flops
from pwm.checkpoints.pretrained import of_pretraining
from pwm.checkpoints.single_task import of_task, task_names
from pwm.checkpoints.world_model_file import narrowed
from pwm.configuration.building import build_agent, build_trainer
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.data.batch import Batch
from pwm.data.offline.dataset import HELD_OUT, OfflineData
from pwm.envs.base import EnvSpec
from pwm.errors import CheckpointError, ConfigError, DataError
from pwm.logging.monitoring import PhaseTimer
from pwm.training.trainers.extraction.trainer import better_half
from pwm.training.trainers.pretraining import trainer as pretraining
from pwm.training.trainers.pretraining.trainer import PretrainingTrainer

WALKER, REACHER = 1, 4
SIZES = [
    "alg.latent_dim=16",
    "alg.encoder_units=[16]",
    "alg.reward_units=[16]",
    "alg.dynamics.units=[16]",
    "alg.task_dim=4",
    "alg.wm_batch_size=8",
    "alg.wm_iterations=2",
    "alg.horizon=3",
    "alg.held_out=0.3",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segments of different lengths of two tasks of different widths."""
    folder = tmp_path_factory.mktemp("store") / "data"
    blocks = [block(WALKER, 4, 9), block(WALKER, 3, 20, seed=1), block(REACHER, 5, 12, seed=2)]
    return write_store(folder, blocks[:2], blocks[2:])


def config_of(data: Path, *changes: str) -> ExperimentConfig:
    given = {word.partition("=")[0] for word in changes}
    sizes = [word for word in SIZES if word.partition("=")[0] not in given]
    alg = [] if "alg" in given else ["alg=pwm_multitask"]
    return compose_config(["alg.trainer=pretraining", *alg, *sizes, f"alg.data={data}", *changes])


def trainer_of(data: Path, *changes: str) -> PretrainingTrainer:
    trainer = build_trainer(config_of(data, *changes), CPU)
    assert isinstance(trainer, PretrainingTrainer)
    return trainer


def test_the_parts_of_a_data_set_share_no_segment_and_miss_none(data: Path) -> None:
    whole = OfflineData(data, 3)
    parts = [OfflineData(data, 3, held_out=0.3), OfflineData(data, 3, held_out=0.3, part=HELD_OUT)]
    assert sum(map(len, parts)) == len(whole)
    first, second = ({tuple(obs) for obs in p.gather(torch.arange(len(p))).obs[0].tolist()} for p in parts)
    assert not first & second
    assert parts[0].tasks == parts[1].tasks == whole.tasks
    # However small the share, something is predicted of every task, and something learned.
    for share in (0.001, 0.999):
        for part in ("training", HELD_OUT):
            assert OfflineData(data, 3, held_out=share, part=part).tasks == whole.tasks


def test_a_single_segment_cannot_be_held_out(tmp_path: Path) -> None:
    write_store(tmp_path / "one", [block(WALKER, 1, 9)])
    with pytest.raises(DataError, match="'walker-walk' has a single segment"):
        OfflineData(tmp_path / "one", 3, held_out=0.1)


def test_spread_windows_cover_a_task_from_its_first_to_its_last_transition(data: Path) -> None:
    whole = OfflineData(data, 3)
    everything = whole.gather(torch.arange(len(whole)))
    mine = (everything.task == REACHER).nonzero().flatten()
    spread = whole.spread(REACHER, 7)
    assert spread.task is not None
    assert spread.task.tolist() == [REACHER] * 7
    for place, index in ((0, mine[0]), (-1, mine[-1])):
        assert torch.equal(spread.obs[:, place], everything.obs[:, index])
    assert whole.spread(REACHER, 10_000).obs.shape[1] == len(mine)


@pytest.mark.parametrize("dynamics", ["mlp", "residual", "flow"])
def test_gradients_of_parts_add_up_to_those_of_the_whole_batch(data: Path, dynamics: str) -> None:
    """Windows at the end of segments are padded, so that parts count differently."""
    trainers = [trainer_of(data, f"dynamics={dynamics}", f"alg.accumulate={n}") for n in (1, 3)]
    for _ in range(3):
        found = [trainer.run_epoch(0.0, PhaseTimer()) for trainer in trainers]
        for name in ("wm/loss", "wm/grad_norm", "wm/reward_loss"):
            assert found[1][name] == pytest.approx(found[0][name], rel=1e-4)
    states = [trainer.learner.state_dict() for trainer in trainers]
    for name, value in states[0].items():
        assert torch.allclose(states[1][name], value, atol=1e-4), name


def test_every_task_is_measured_and_the_mean_is_what_is_compared(data: Path) -> None:
    trainer = trainer_of(data)
    record = trainer.evaluate(1)
    errors = [record[f"heldout/latent_error_k3/{name}"] for name in ("walker-walk", "reacher-easy")]
    assert record["heldout/latent_error_k3"] == pytest.approx(sum(errors) / 2)
    assert record[trainer.score] == pytest.approx(1.0 - sum(errors) / 2)
    # With the rewards of every task in its own unit, an untrained model errs by their size: U(0, 2).
    assert record["heldout/reward_rmse"] == pytest.approx((4 / 3) ** 0.5, rel=0.2)


@pytest.mark.parametrize("dynamics", ["mlp", "flow"])
def test_tasks_are_measured_together_and_each_by_itself(
    data: Path, dynamics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tasks go through the model at once, their errors are those of each alone."""
    trainer = trainer_of(data, f"dynamics={dynamics}", "alg.held_out_windows=7")
    together = trainer.evaluate(1)
    monkeypatch.setattr(pretraining, "AT_ONCE", 1)
    assert trainer.evaluate(1) == pytest.approx(together, rel=1e-5)
    model = trainer.learner.world_model
    for number, name in ((WALKER, "walker-walk"), (REACHER, "reacher-easy")):
        batch = trainer.held_out.spread(number, 7)
        assert batch.reward.shape[1] == 7
        for key, value in latent_errors(model, batch).items():
            assert together[f"heldout/{key}/{name}"] == pytest.approx(value, rel=1e-5)
    few, many = (trainer_of(data, f"alg.held_out_windows={n}").evaluate(1) for n in (1, 1000))
    assert few["heldout/reward_rmse"] != many["heldout/reward_rmse"]


def test_one_task_has_its_own_widths_and_no_task_table(data: Path) -> None:
    trainer = trainer_of(data, "alg.tasks=reacher-easy")
    assert (trainer.spec.name, trainer.spec.obs_dim, trainer.spec.act_dim) == ("reacher-easy", 6, 2)
    assert trainer.learner.world_model.n_tasks == 0
    assert trainer_of(data).spec.name == "mt30"
    assert trainer_of(data).learner.world_model.n_tasks == len(MT30.tasks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["env=dflex_ant"], "alg.trainer=pretraining has no env"),
        (["env.task=reach"], "alg.trainer=pretraining has no env"),
        (["actor=sac"], "the preset of alg= has no actor"),
        (["alg=pwm_small", "actor=sac"], "alg.trainer=pretraining has no actor"),
        (["alg.tasks=walker-wlak"], "walker-wlak"),
        (["alg.tasks=walker-walk,walker-run"], "no data of task 'walker-run'"),
        (["alg.held_out=0"], "alg.held_out=0"),
        (["alg.held_out_windows=0"], "alg.held_out_windows=0"),
        (["alg.wm_iterations=0"], "at least one update"),
        (["alg.accumulate=9"], "accumulate=9"),
        (["alg.task_dim=0"], "alg.task_dim=0"),
        (["alg.latents=observations", "alg.padded_obs_dim=23"], "alg.padded_obs_dim=23; .* at least 24"),
        (["alg.data=nowhere"], "nowhere"),
        (["general.pretrain=x"], "learns from alg.data alone"),
        (["alg.num_envs=4"], "alg.num_envs"),
    ],
)
def test_what_pretraining_refuses(data: Path, changes: list[str], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        trainer_of(data, *changes)


def test_a_trainer_says_from_how_many_states_an_update_imagines() -> None:
    assert compose_config(["alg=pwm_extract", "alg.actor_batch_size=96"]).alg.starts == 96
    assert compose_config(["alg=pwm_small", "alg.actor_batch_size=96"]).alg.starts == 96
    lockstep = compose_config(["alg=pwm", "alg.num_envs=7", "alg.horizon=3"]).alg
    assert (lockstep.collect, lockstep.starts) == ("lockstep", 7)


@pytest.mark.parametrize("dynamics", ["mlp", "flow"])
def test_operations_are_those_of_a_real_epoch(data: Path, dynamics: str) -> None:
    sizes = [
        "alg.actor_iterations=3",
        "alg.actor_batch_size=5",
        "alg.critic_units=[12]",
        "alg.actor.units=[8]",
    ]
    model = [word for word in SIZES if not word.startswith(("alg.task_dim", "alg.held_out"))]
    extraction = ["env=dmc", "env.task=reacher-easy", "alg=pwm_extract", *model, *sizes]
    configs = {
        len(MT30.tasks): config_of(data, f"dynamics={dynamics}"),
        0: compose_config([*extraction, f"dynamics={dynamics}", f"alg.data={data}"]),
    }
    for n_tasks, config in configs.items():
        with contextlib.closing(build_trainer(config, CPU)) as trainer:
            with FlopCounterMode(display=False) as counter:
                record = trainer.run_epoch(0.0, PhaseTimer())
            widths = (24, 6) if n_tasks else (trainer.spec.obs_dim, trainer.spec.act_dim)
            counted = epoch_flops(config, *widths, n_tasks)
            assert counted["total"] == pytest.approx(counter.get_total_flops(), rel=1e-9)
            assert config.alg.steps(1) == record[config.alg.progress]


def test_a_data_set_has_to_be_named() -> None:
    for trainer in ("alg=pwm_multitask", "alg=pwm_extract"):
        with pytest.raises(ConfigError, match=r"alg\.data is missing"):
            build_trainer(compose_config([trainer]), CPU)


ON_SIMPLICES = ["mlp", "residual", "flow", "gated_flow", "generative_flow", "flow_map"]
LATENTS = [("simnorm", dynamics) for dynamics in ON_SIMPLICES]
LATENTS += [("observations", dynamics) for dynamics in components.names("dynamics")]


@pytest.mark.parametrize(("latents", "dynamics"), LATENTS)
@pytest.mark.parametrize("changes", [["alg.rew_rms=true"], ["alg.predict_termination=true"]], ids=" ".join)
def test_one_task_of_many_computes_what_all_of_them_did(
    data: Path, latents: str, dynamics: str, changes: list[str]
) -> None:
    config = config_of(data, f"alg.latents={latents}", f"dynamics={dynamics}", *changes)
    trainer = build_trainer(config, CPU)
    trainer.warm_up()
    trainer.run_epoch(0.0, PhaseTimer())
    model, spec = trainer.learner.world_model, vars(trainer.spec)
    content = {"config": config.to_dict(), "spec": spec, "modules": trainer.learner.state_dict()}
    stored = of_pretraining(content)
    assert task_names(stored.sizes)[REACHER] == "reacher-easy"
    alone = narrowed(of_task(stored, "reacher-easy"), 6, 2)
    single = alone.build()
    obs, action = torch.randn(5, 6), torch.rand(5, 2) * 2 - 1
    padded_obs, padded_action = torch.zeros(5, 24), torch.zeros(5, 6)
    padded_obs[:, :6], padded_action[:, :2] = obs, action
    task = torch.full((5,), REACHER)
    z = model.encode(padded_obs, task)
    assert torch.allclose(single.encode(obs), z, atol=1e-5)
    assert torch.allclose(single.next(z, action), model.next(z, padded_action, task), atol=1e-5)
    if latents == "observations":
        assert not single.next(z, action)[:, 6:].any()
    assert torch.allclose(single.reward(z, action), model.reward(z, padded_action, task), atol=1e-5)
    expected = model.termination(z, padded_action, task)
    if expected is not None:
        found = single.termination(z, action)
        assert found is not None
        assert torch.allclose(found, expected, atol=1e-5)
    if config.alg.model_learning.rew_rms:
        assert alone.reward is not None
        assert alone.reward.var.sqrt() == pytest.approx(float(trainer.learner.reward_scale[REACHER]))
    else:
        assert alone.reward is None
    with pytest.raises(CheckpointError, match="not of ant"):
        of_task(stored, "ant")


def test_a_model_that_does_not_name_its_tasks_has_those_of_the_set_of_its_size(data: Path) -> None:
    sizes = of_pretraining(
        {
            "config": (config := config_of(data)).to_dict(),
            "spec": vars((trainer := build_trainer(config, CPU)).spec),
            "modules": trainer.learner.state_dict(),
        }
    ).sizes
    assert task_names(replace(sizes, tasks=())) == tuple(MT30.names)
    assert task_names(replace(sizes, tasks=(), n_tasks=80))[79] == "mw-hand-insert"
    with pytest.raises(CheckpointError, match="7 tasks and does not say which"):
        task_names(replace(sizes, tasks=(), n_tasks=7))
    assert "tasks" in asdict(sizes)


def test_a_planner_finds_the_action_that_the_model_pays_for() -> None:
    """The reward is -(a - target)^2 whatever the state, so that every step of the best plan is the target."""
    config = compose_config(["env=analytic", "alg=pwm_small", "alg.predict_termination=false"])
    agent = build_agent(config, EnvSpec("known", 3, 2, 10, 0.0), CPU)
    target = torch.tensor([0.6, -0.3])
    model = agent.world_model

    def reward(z: torch.Tensor, a: torch.Tensor, task: None = None) -> torch.Tensor:
        return -(a - target).square().sum(-1, keepdim=True)

    model.reward = reward  # type: ignore[method-assign]
    agent.critic.minimum = lambda z: torch.zeros(len(z))  # type: ignore[method-assign]
    obs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    planner = Planner(agent, seed=1)
    assert (planner.act(obs) - target).abs().max() < 0.1
    assert torch.equal(Planner(agent, seed=1).act(obs), Planner(agent, seed=1).act(obs))
    # The next step begins around the plan before, and so comes nearer with the same work.
    hasty = MPPI(iterations=1, samples=32, elites=8, policy_samples=0, max_std=0.5)
    cold, warm = Planner(agent, seed=2, settings=hasty), Planner(agent, seed=2, settings=hasty)
    for _ in range(6):
        action = warm.act(obs)
    assert (action - target).abs().mean() < (cold.act(obs) - target).abs().mean()


def known_agent(*changes: str) -> Agent:
    config = compose_config(["env=analytic", "alg=pwm_extract", "alg.data=none", *changes])
    return build_agent(config, EnvSpec("known", 3, 2, 10, 0.0), CPU)


def test_the_better_half_of_the_recorded_actions_are_examples() -> None:
    agent, steps, size = known_agent("alg.gamma=0.9"), 4, 6
    # One state everywhere, so that rewards alone tell actions apart.
    obs = torch.ones(steps + 1, size, 3)
    reward = torch.zeros(steps, size)
    reward[0, 0], reward[-1, 1], reward[1, 2] = 1.0, 1.1, 1.0
    # Late rewards count less, and those behind an end not at all.
    reward[2:, 3] = 9.0
    valid = torch.ones(steps, size, dtype=torch.bool)
    valid[2:, 3] = False
    action = torch.rand(steps, size, 2, generator=torch.Generator().manual_seed(0))
    batch = Batch(obs, action, reward, torch.zeros(steps, size, dtype=torch.bool), valid)
    found = better_half(agent, agent.world_model.encode(obs[0]), batch)
    assert torch.equal(found.actions, action[0])
    value = float(agent.actor_critic.target_critic(agent.world_model.encode(obs[0])).mean().detach())
    expected = [0.9**steps * value + r for r in (1.0, 1.1 * 0.9**3, 0.9, 0.0, 0.0, 0.0)]
    expected[3] = 0.9**2 * value
    median = sorted(expected)[(size - 1) // 2]
    assert found.weights.tolist() == [float(e > median + 1e-6) for e in expected]
    assert found.weights[:3].tolist() == [1, 1, 1]


def test_a_policy_is_kept_near_recorded_actions() -> None:
    def distance(coef: str) -> float:
        agent = known_agent(f"alg.behaviour_coef={coef}", "alg.horizon=2")
        z = agent.world_model.encode(torch.randn(32, 3, generator=torch.Generator().manual_seed(0))).detach()
        recorded = torch.tensor([0.7, -0.4]).expand(32, 2)
        # Those of the second half must not be followed.
        actions = torch.cat([recorded[:16], -recorded[16:]])
        examples = Examples(actions, torch.tensor([1.0, 0.0]).repeat_interleave(16))
        for _ in range(60):
            agent.actor_critic.update_actor(agent.world_model, z, examples=examples)
        return float((agent.actor.act(z).detach() - recorded).square().mean())

    assert distance("100") < 0.1 * distance("0")
    with pytest.raises(ConfigError, match=r"alg\.behaviour_coef=1\.0 needs recorded actions"):
        compose_config(["env=analytic", "alg.behaviour_coef=1"])
