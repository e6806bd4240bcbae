"""Runs that measure their gradients: the metrics come at the interval, and nothing else is different."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.tiny import (
    ANALYTIC,
    FLOW,
    HOPPER,
    LOCKSTEP,
    assert_same_run,
    assert_same_weights,
    computed,
    metrics,
    only_run,
    status,
    train,
    trained,
)

from pwm.algorithm.gradient_quality import MICRO_BATCHES
from pwm.configuration.config import compose_config
from pwm.launch.cli import INTERRUPTED
from pwm.runs.preemption import EXIT_CODE
from pwm.training.trainers.online.trainer import OnlineTrainer

RUNS = {
    "hopper-flow-closed_loop": [*HOPPER, *FLOW],
    "analytic-lockstep": [*ANALYTIC, *LOCKSTEP],
}
NAMES = {
    f"{network}/{name}"
    for network in ("actor", "wm")
    for name in (
        "esnr",
        "esnr_db",
        "esnr_unbiased",
        "mean_grad_norm",
        "mean_grad_max_abs",
        "mean_grad_zeros",
        "mean_grad_non_finite",
    )
} | {"wm/stretch_db"}


@pytest.mark.parametrize("name", RUNS)
def test_measured_at_the_interval_and_nothing_else_differs(name: str, tmp_path: Path) -> None:
    options = [*RUNS[name], "general.epochs=5"]
    off = trained(tmp_path / "off", *options, "general.esnr_every=0")
    on = trained(tmp_path / "on", *options, "general.esnr_every=2")
    found = [{key: r[key] for key in NAMES | {"time/gradients"} if key in r} for r in metrics(on)]
    assert [len(values) for values in found] == [0, 0, len(NAMES) + 1, 0, len(NAMES) + 1, 0]
    for measured in (found[2], found[4]):
        assert all(math.isfinite(value) for value in measured.values())
        for network in ("actor", "wm"):
            # All gradients alike would be infinite signal; the floor is what pure noise shows on average.
            assert 0.2 / (MICRO_BATCHES - 1) < measured[f"{network}/esnr"] < 1e6
            assert measured[f"{network}/esnr_db"] == pytest.approx(
                10 * math.log10(measured[f"{network}/esnr"]), abs=1e-6
            )
            assert 0 < measured[f"{network}/mean_grad_max_abs"] <= measured[f"{network}/mean_grad_norm"]
            assert measured[f"{network}/mean_grad_non_finite"] == 0
    assert found[2] != found[4]
    assert computed(off) == [{k: v for k, v in r.items() if k not in NAMES} for r in computed(on)]
    for policy in ("best_policy.pt", "final_policy.pt"):
        assert_same_weights(off / policy, on / policy)


@pytest.mark.parametrize("name", RUNS)
def test_preempted_while_measuring_ends_bit_identical(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*RUNS[name], "general.epochs=2", "general.esnr_every=1"]
    uninterrupted = trained(tmp_path / "whole", *options)
    measure = OnlineTrainer.gradient_quality
    asked = 0

    def interrupted(trainer: OnlineTrainer, own: Any) -> dict[str, float]:
        """Asked to stop once per sitting, in the middle of the gradients of either network."""
        nonlocal asked
        asked += 1
        stop_at = {1: 3, 3: MICRO_BATCHES + 3}.get(asked)
        passed = 0

        def counted() -> None:
            nonlocal passed
            passed += 1
            if passed == stop_at:
                os.kill(os.getpid(), signal.SIGUSR1)
            own()

        return measure(trainer, counted)

    monkeypatch.setattr(OnlineTrainer, "gradient_quality", interrupted)
    codes = [train(tmp_path / "parts", *options) for _ in range(3)]
    assert codes == [EXIT_CODE, EXIT_CODE, 0]
    assert asked == 4
    assert_same_run(only_run(tmp_path / "parts"), uninterrupted)


def test_interrupted_between_measurements_ends_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*HOPPER, *FLOW, "general.epochs=5", "general.esnr_every=2", "general.save_interval=0"]
    uninterrupted = trained(tmp_path / "whole", *options)
    run_epoch = OnlineTrainer.run_epoch

    def killed(trainer: OnlineTrainer, *arguments: Any) -> dict[str, float]:
        if trainer.epoch == 3:
            raise KeyboardInterrupt
        return run_epoch(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(OnlineTrainer, "run_epoch", killed)
        assert train(tmp_path / "parts", *options) == INTERRUPTED
    assert train(tmp_path / "parts", *options) == 0
    assert_same_run(only_run(tmp_path / "parts"), uninterrupted)


def test_interval_may_change_within_a_run(tmp_path: Path) -> None:
    assert compose_config(ANALYTIC).hash() == compose_config([*ANALYTIC, "general.esnr_every=1"]).hash()
    folder = trained(tmp_path, *ANALYTIC)
    assert train(tmp_path, *ANALYTIC, "general.epochs=5", "general.esnr_every=1") == 0
    assert status(folder)["epoch"] == 5
    assert ["actor/esnr" in record for record in metrics(folder)] == [False] * 4 + [True] * 2


def test_negative_interval_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, *ANALYTIC, "general.esnr_every=-1") == 2
    assert "general.esnr_every=-1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
