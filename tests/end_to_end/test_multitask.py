"""``pwm pretrain`` and ``pwm extract``, and runs that begin with recorded data, on real tasks of MT30."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.end_to_end.tiny import ANALYTIC, assert_same_run, metrics, train, trained
from tests.unit.foreign_checkpoints import outputs, world_model

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.checkpoints import storage
from pwm.checkpoints.policies import load_policy
from pwm.data.offline.dataset import OfflineData
from pwm.launch.cli import INTERRUPTED, main
from pwm.training.trainers.online.trainer import OnlineTrainer
from pwm.training.trainers.pretraining.trainer import PretrainingTrainer

MODEL = [
    "alg.latent_dim=16",
    "alg.encoder_units=[16]",
    "alg.reward_units=[16]",
    "alg.dynamics.units=[16]",
    "alg.task_dim=4",
    "alg.wm_batch_size=16",
    "alg.wm_iterations=4",
    "alg.horizon=3",
    "general.epochs=3",
    "general.progress=false",
]
POLICY = [
    "general.epochs=2",
    "general.eval_runs=2",
    "alg.horizon=3",
    "alg.actor_batch_size=8",
    "alg.actor_iterations=2",
    "alg.critic_units=[8]",
    "alg.actor.units=[8]",
    "env.num_threads=1",
    "env.episode_length=20",
    # So short a training leaves a model that predicts nothing.
    "alg.max_model_error=1e9",
]
TASKS = ("pendulum-swingup", "reacher-easy")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out, which take longer than such a run."""
    monkeypatch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random episodes of two tasks of different widths."""
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    folder = tmp_path_factory.mktemp("collected") / "data"
    assert main(["data", "collect", f"tasks={','.join(TASKS)}", "episodes=3", "envs=3", f"to={folder}"]) == 0
    return folder


def pretrain(logdir: Path, data: Path, *changes: str) -> int:
    given = {word.partition("=")[0] for word in changes}
    sizes = [word for word in MODEL if word.partition("=")[0] not in given]
    return main(["pretrain", f"data={data}", f"general.logdir={logdir}", *sizes, *changes])


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of pretraining."""
    logdir = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
        assert pretrain(logdir, data) == 0
    return logdir / "mt30" / "pwm_multitask" / "seed42"


def test_pretraining_continues_bit_by_bit_with_the_same_data(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = PretrainingTrainer._update

    def killed(trainer: PretrainingTrainer, timer: Any) -> Any:
        if trainer.updates == 6:
            raise KeyboardInterrupt
        return update(trainer, timer)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTrainer, "_update", killed)
        assert pretrain(tmp_path, data) == INTERRUPTED
    assert pretrain(tmp_path, data) == 0
    assert_same_run(tmp_path / "mt30" / "pwm_multitask" / "seed42", model)
    digest = json.loads((model / "manifest.json").read_text())["data"]
    assert digest == OfflineData(data, 1).digest


def test_other_data_are_refused(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert main(["data", "collect", "tasks=reacher-easy,pendulum-swingup", "episodes=2", f"to={other}"]) == 0
    assert pretrain(model.parents[2], other, "general.epochs=4") == 2
    assert "was started with the data set with the digest" in capsys.readouterr().err


def test_policies_of_all_tasks_are_extracted_and_compared(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "extract",
        "task=all",
        f"checkpoint={model}",
        f"data={data}",
        f"general.logdir={tmp_path}",
        *POLICY,
    ]
    assert main([*words, "--episodes", "2"]) == 0
    shown = capsys.readouterr().out
    table = tmp_path / "extraction" / "extract_pwm_multitask_seed42.csv"
    with table.open() as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(TASKS)
    assert all(name in shown for name in TASKS)
    assert float(rows["pendulum-swingup"]["published_pwm"]) == pytest.approx(0.8691)
    run = Path(rows["reacher-easy"]["run"])
    # The policy is one of the task alone: any command that takes policies takes it.
    assert main(["evaluate", str(run), "--episodes", "2", "--planner", "mppi"]) == 0
    assert (run / "evaluation_best_policy_mppi.json").exists()
    # What is done is not done again.
    before = (run / "metrics.jsonl").read_bytes()
    assert main([*words, "--episodes", "2"]) == 0
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_frozen_world_model_stays_as_it_was_and_another_learns(
    data: Path, model: Path, tmp_path: Path
) -> None:
    words = [
        "extract",
        "task=reacher-easy",
        f"checkpoint={model}",
        f"data={data}",
        *POLICY,
        "--episodes",
        "1",
    ]
    for updates, frozen in (("0", True), ("1", False)):
        logdir = tmp_path / updates
        changes = [f"general.logdir={logdir}", f"alg.wm_iterations={updates}"]
        assert main([*words, *changes, "--episodes", "1"]) == 0
        run = logdir / "dmc_reacher-easy" / "extract_pwm_multitask" / "seed42"
        after = storage.load(run / "final_policy.pt", storage.POLICY_FORMAT)["modules"]
        before = storage.load(model / "final_policy.pt", storage.POLICY_FORMAT)["modules"]
        # The last layer of the rewards does not depend on widths or tasks.
        name = max(key for key in before if key.startswith("world_model.reward_net"))
        assert torch.equal(after[name], before[name]) == frozen


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=reacher-easy", "data={data}"], "checkpoint= is missing"),
        (["task=reacher-easy", "checkpoint={model}"], "data= is missing"),
        (["task=walker-walk", "checkpoint={model}", "data={data}"], "'walker-walk'"),
        (["task=walker-wlak", "checkpoint={model}", "data={data}"], "did you mean 'walker-walk'"),
        (["checkpoint={model}", "data={data}"], "task= is missing"),
        (["task=reacher-easy", "checkpoint=nowhere", "data={data}"], "nowhere"),
        (["task=reacher-easy", "checkpoint={model}", "data={data}", "alg.latent_dim=8"], "alg.latent_dim"),
    ],
)
def test_what_extraction_refuses(
    words: list[str],
    message: str,
    data: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.format(data=data, model=model) for word in words]
    code = main(["extract", *given, f"general.logdir={tmp_path}", *POLICY, "--episodes", "1"])
    told = capsys.readouterr()
    assert code == 2
    assert message in told.err


def test_a_model_that_does_not_fit_the_data_is_refused(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = [word for word in POLICY if "max_model_error" not in word]
    words = [
        "task=reacher-easy",
        f"checkpoint={model}",
        f"data={data}",
        f"general.logdir={tmp_path}",
        *policy,
    ]
    assert main(["extract", *words, "alg.max_model_error=1e-6"]) == 2
    assert "does not fit" in capsys.readouterr().err


def test_a_world_model_is_not_taken_for_a_policy(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(model)]) == 2
    assert "`pwm extract` makes one" in capsys.readouterr().err


def test_a_run_begins_with_recorded_data_and_continues_within_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained(tmp_path / "first", *ANALYTIC)
    assert main(["data", "from-run", str(first), "--to", str(tmp_path / "data")]) == 0
    prior = [*ANALYTIC, f"general.pretrain={tmp_path / 'data'}", "general.pretrain_steps=5"]
    whole = trained(tmp_path / "whole", *prior)
    state = storage.load(whole / "latest.pt", storage.STATE_FORMAT)["trainer"]["counters"]
    assert state["prior_updates"] == 5
    learn = OnlineTrainer._learn_from_prior_data

    def killed(trainer: OnlineTrainer, safe_point: Any) -> None:
        def stop() -> None:
            if trainer.prior_updates == 3:
                raise KeyboardInterrupt
            safe_point()

        learn(trainer, stop)

    with monkeypatch.context() as patch:
        patch.setattr(OnlineTrainer, "_learn_from_prior_data", killed)
        assert train(tmp_path / "parts", *prior) == INTERRUPTED
    assert_same_run(trained(tmp_path / "parts", *prior), whole)
    # The untrained model of both begins alike, so the difference is what was recorded.
    plain = trained(tmp_path / "plain", *ANALYTIC)
    assert metrics(plain)[1]["wm/loss"] != metrics(whole)[1]["wm/loss"]


@pytest.mark.parametrize("source", ["tdmpc2", "pwm"])
def test_a_foreign_model_of_a_whole_set_is_extracted_from(
    source: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = world_model(source, obs=24, act=6, bins=101, tasks=30, task_dim=5)
    torch.save({"model": state} if source == "tdmpc2" else {"world_model": state}, tmp_path / "foreign.pt")
    ours = tmp_path / "ours.pt"
    assert main(["convert", str(tmp_path / "foreign.pt"), str(ours), "--from", source]) == 0
    words = ["extract", "task=reacher-easy", f"checkpoint={ours}", f"data={data}", *POLICY]
    assert main([*words, f"general.logdir={tmp_path}", "--episodes", "1"]) == 0
    run = tmp_path / "dmc_reacher-easy" / "extract_ours" / "seed42"
    agent, _, spec, _ = load_policy(run / "final_policy.pt", torch.device("cpu"))
    obs, action = torch.randn(3, spec.obs_dim), torch.rand(3, spec.act_dim) * 2 - 1
    padded, acted = torch.zeros(3, 24), torch.zeros(3, 6)
    padded[:, : spec.obs_dim], acted[:, : spec.act_dim] = obs, action
    # Task 4 of MT30, as the project itself computes it.
    z, following, raw = outputs(state, padded, acted, task=4)
    model = agent.world_model
    assert torch.allclose(model.encode(obs), z, atol=1e-5)
    assert torch.allclose(model.next(z, action), following, atol=1e-5)
    assert torch.allclose(model.reward(z, action), raw, atol=1e-4)
