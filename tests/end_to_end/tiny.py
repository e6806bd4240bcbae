"""Real runs small enough for a test: the command line with sizes that train in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.checkpoints.storage import POLICY_FORMAT, load
from pwm.launch.cli import main
from pwm.logging.loggers import read_metrics
from pwm.training.trainers.online.trainer import OnlineTrainer

NETWORKS = [
    "alg.latent_dim=16",
    "alg.encoder_units=[16]",
    "alg.reward_units=[16]",
    "alg.termination_units=[8]",
    "alg.critic_units=[16]",
    "alg.dynamics.units=[16]",
    "alg.actor.units=[16]",
]
SIZES = [
    "general.epochs=3",
    "general.eval_every=1",
    "general.eval_runs=2",
    "general.progress=false",
    "alg=pwm_small_h16",
    "alg.horizon=4",
    *NETWORKS,
    "alg.num_envs=4",
    "alg.actor_batch_size=8",
    "alg.wm_batch_size=8",
    "alg.wm_iterations=2",
    "alg.critic_iterations=2",
    "alg.buffer_size=2000",
    "alg.warmup_env_steps=200",
    "alg.warmup_updates=2",
    "alg.actor_iterations=1",
    "env.episode_length=40",
]
HOPPER = ["env=dflex_hopper", "env.num_threads=1"]
ANALYTIC = ["env=analytic"]
LOCKSTEP = ["alg.collect=lockstep", "alg.replay_starts=0", "alg.open_loop_share=0"]
# What depends on the clock or on the process, not on the computation.
MEASURED = ("wall_time", "cpu_time", "fps", "time/", "memory/")
FLOW = [
    "dynamics=flow",
    "alg.flow_integrator=heun",
    "alg.flow_substeps=2",
    "alg.replay_starts=0.5",
    "alg.open_loop_share=0.5",
    "alg.replay_recency=2",
]


def overrides(logdir: Path, *changes: str) -> list[str]:
    """Overrides of a tiny run below ``logdir``; of two values of one key the later one counts."""
    chosen: dict[str, str] = {}
    for override in [f"general.logdir={logdir}", *SIZES, *changes]:
        key, _, value = override.partition("=")
        chosen[key] = value
    return [f"{key}={value}" for key, value in chosen.items()]


def train(logdir: Path, *changes: str, pictures: bool = False) -> int:
    """``pwm train`` with the tiny sizes; returns the exit code.

    Without ``pictures`` it draws none at its end, which would take four times as long as the rest.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not pictures:
            patch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
        return main(["train", *overrides(logdir, *changes)])


def interrupt_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Let training be interrupted when it begins the epoch after ``epochs``."""
    run_epoch = OnlineTrainer.run_epoch

    def interrupted(trainer: OnlineTrainer, *arguments: Any) -> dict[str, float]:
        if trainer.epoch == epochs:
            raise KeyboardInterrupt
        return run_epoch(trainer, *arguments)

    monkeypatch.setattr(OnlineTrainer, "run_epoch", interrupted)


def trained(logdir: Path, *changes: str, pictures: bool = False) -> Path:
    """Train below ``logdir``, which must hold no other run; returns the run folder."""
    assert train(logdir, *changes, pictures=pictures) == 0
    return only_run(logdir)


def only_run(logdir: Path) -> Path:
    """The single run folder below ``logdir``."""
    (status,) = logdir.glob("*/*/seed*/status.json")
    return status.parent


def status(folder: Path) -> dict[str, object]:
    """Contents of ``status.json``."""
    return json.loads((folder / "status.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Weights of a policy file."""
    return load(path, POLICY_FORMAT)["modules"]


def assert_same_weights(a: Path, b: Path) -> None:
    """Every tensor of two policy files is equal bit by bit."""
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def assert_same_run(a: Path, b: Path) -> None:
    """Two run folders hold the same metrics and the same policies."""
    assert computed(a) == computed(b)
    for name in ("best_policy.pt", "final_policy.pt"):
        assert_same_weights(a / name, b / name)


def computed(folder: Path) -> list[dict[str, float]]:
    """Metrics without those that depend on the clock."""
    return [{k: v for k, v in record.items() if not k.startswith(MEASURED)} for record in metrics(folder)]


def metrics(folder: Path) -> list[dict[str, float]]:
    """Records of ``metrics.jsonl``."""
    return read_metrics(folder / "metrics.jsonl")
