"""A run that was changed on its way does not pass for one that had its last configuration all along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.end_to_end.tiny import (
    ANALYTIC,
    interrupt_after,
    metrics,
    only_run,
    overrides,
    train,
    trained,
)

from pwm.analysis.tables.runs import RunTable, load_runs
from pwm.configuration.config import compose_config
from pwm.errors import DataError
from pwm.launch.cli import INTERRUPTED, main
from pwm.runs.run_changes import NEVER, Change, add_change, describe_changes, find_change, read_changes
from pwm.study.comparison.arms import Arm, load_arms
from pwm.study.comparison.fairness import DECLARED, find_differences

LONG, SHORT = "general.epochs=4", "general.epochs=2"
FURTHER = "extended at epoch 2 from 2 to 4 epochs"


def extended(logdir: Path, *changes: str) -> Path:
    """A run of two epochs that was then trained to four."""
    assert train(logdir, *ANALYTIC, *changes, SHORT) == 0
    assert train(logdir, *ANALYTIC, *changes, LONG) == 0
    return only_run(logdir)


def manifest(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text())


def test_an_extended_run_is_told_from_a_straight_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = trained(tmp_path / "straight", *ANALYTIC, LONG, "general.name=straight")
    further = extended(tmp_path / "further", "general.name=further")
    rates = [[record["lr/wm"] for record in metrics(run)[1:]] for run in (straight, further)]
    assert rates[0][1] != rates[1][1]

    assert "changed" not in manifest(straight)
    assert manifest(straight)["epochs"] == 4
    assert manifest(further)["epochs"] == 4
    assert [sitting["epochs"] for sitting in manifest(further)["earlier"]] == [2]
    assert manifest(further)["changed"] == [
        {"epoch": 2, "epochs_before": 2, "epochs_after": 4, "settings": []}
    ]
    capsys.readouterr()
    assert main(["diff", str(straight), str(further)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"  within the run: {NEVER} -> {FURTHER}" in lines
    assert main(["diff", str(further), str(further)]) == 0
    capsys.readouterr()

    arms = load_arms({"a": [straight], "b": [further]})
    unfair = [str(d) for d in find_differences(arms, DECLARED) if d.unfair]
    assert f"runs.changed ({NEVER} against {FURTHER}, all runs)" in unfair
    assert not [d for d in find_differences(arms, ["runs.changed"]) if d.unfair]
    named = f"changed: analytic_lqr further seed 42 ({further}): {FURTHER}; used"
    assert named in arms[1].table.report()
    seeds = load_runs(
        [trained(tmp_path / "seed1", *ANALYTIC, LONG, "general.name=further", "general.seed=1")]
    )
    both = Arm("b", RunTable([*arms[1].table.runs, *seeds.runs], []))
    (difference,) = [d for d in find_differences([both], DECLARED) if d.key == "runs.changed"]
    assert difference.unfair
    # The next extension forgets nothing.
    assert train(tmp_path / "further", *ANALYTIC, "general.name=further", "general.epochs=5") == 0
    assert len(manifest(further)["changed"]) == 2


def test_an_extension_that_changes_no_rate_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constant = "alg.lr_schedule=constant"
    straight = trained(tmp_path / "straight", *ANALYTIC, LONG, constant)
    further = extended(tmp_path / "further", constant)
    assert manifest(further)["changed"][0]["epoch"] == 2
    assert [r["wm/loss"] for r in metrics(straight)[1:]] == [r["wm/loss"] for r in metrics(further)[1:]]
    assert main(["diff", str(straight), str(further)]) == 0
    assert "within the run" not in capsys.readouterr().out


def test_forced_settings_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert train(tmp_path, *ANALYTIC, LONG, "general.save_interval=0") == INTERRUPTED
    # The same configuration goes on: nothing is recorded.
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert train(tmp_path, *ANALYTIC, LONG, "general.save_interval=0") == INTERRUPTED
    run = only_run(tmp_path)
    assert "changed" not in manifest(run)
    assert train(tmp_path, *ANALYTIC, LONG, "alg.gamma=0.9", "general.resume=force") == 0
    assert manifest(run)["changed"] == [
        {"epoch": 3, "epochs_before": 4, "epochs_after": 4, "settings": ["alg.gamma: 0.995 -> 0.9"]}
    ]
    text = "changed at epoch 3 (alg.gamma: 0.995 -> 0.9)"
    assert (
        describe_changes(manifest(run), compose_config(overrides(tmp_path, *ANALYTIC)).alg.optimisation)
        == text
    )


def test_changes_before_the_first_epoch_and_of_patience_are_none() -> None:
    short, long = (compose_config(["alg=pwm_small_h16", f"general.epochs={n}"]) for n in (100, 200))
    patient = compose_config(["alg=pwm_small_h16", "general.epochs=100", "general.patience=3"])
    assert find_change(short, long, 0) is None
    assert find_change(short, patient, 50) is None
    assert find_change(short, long, 100) == Change(100, 100, 200)
    assert str(find_change(long, short, 70)) == "shortened at epoch 70 from 200 to 100 epochs"
    default = compose_config(["alg=pwm_small_h16"])
    assert find_change(default, short, 9) == Change(9, 500, 100)
    # A sitting that was killed before it wrote its configuration does so again.
    once = add_change([], Change(100, 100, 200))
    assert add_change(once, Change(100, 100, 200)) == once


def test_the_decay_decides_whether_an_extension_matters() -> None:
    late = compose_config(["alg.lr_decay_start=150"]).alg.optimisation
    assert not Change(100, 200, 400).decides(late)
    assert Change(180, 200, 400).decides(late)
    assert Change(100, 100, 200).decides(compose_config([]).alg.optimisation)


@pytest.mark.parametrize("found", ["x", [1], [{"epoch": 1}], [{"epoch": "x"}]])
def test_damaged_changes_are_named(found: object) -> None:
    with pytest.raises(DataError, match="changed="):
        read_changes({"changed": found})
