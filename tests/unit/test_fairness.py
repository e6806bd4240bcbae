"""Differences between arms: what is found, where, and what counts as declared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.run_folders import MANIFEST, configuration

from pwm.analysis.tables.run_measures import EvaluationRecord
from pwm.analysis.tables.runs import Run, RunTable
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.runs.run_changes import NEVER
from pwm.study.comparison.arms import Arm
from pwm.study.comparison.fairness import Difference, find_differences, is_declared, stated_origin

TASKS = ("analytic_counting", "analytic_lqr")
COMMIT = MANIFEST["git_commit"]

Runs = dict[tuple[str, str, int], Run]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Runs by task, arm and seed: two arms, ``a`` and ``b``, that differ in nothing."""
    made = {}
    for key in [(task, arm, seed) for task in TASKS for arm in ("a", "b") for seed in (1, 2)]:
        task, arm, seed = key
        config = configuration(task)
        general = dataclasses.replace(config.general, seed=seed, name=arm)
        made[key] = Run(
            path=tmp_path / task / arm / str(seed),
            task=task,
            config=dataclasses.replace(config, general=general),
            state="finished",
            reason="",
            parameters={},
            commit=None,
            reference={},
            evaluations=(EvaluationRecord(2, 200, 60.0, 1.0, None),),
        )
        made[key].path.mkdir(parents=True)
        change_manifest(made[key])
    return made


def change_config(
    runs: Runs, change: Callable[[dict[str, Any]], object], *keys: tuple[str, str, int]
) -> None:
    """Change the configuration, given as a nested dict, of some runs, or of all of ``b``."""
    for key in keys or [key for key in runs if key[1] == "b"]:
        values = runs[key].config.to_dict()
        change(values)
        runs[key] = dataclasses.replace(runs[key], config=ExperimentConfig.from_dict(values))


def change_manifest(run: Run, **values: object) -> None:
    (run.path / "manifest.json").write_text(json.dumps({**MANIFEST, **values}))


def found(runs: Runs, *declared: str) -> list[Difference]:
    tables = {arm: RunTable([run for key, run in runs.items() if key[1] == arm], []) for arm in ("a", "b")}
    return find_differences([Arm(arm, table) for arm, table in tables.items()], declared)


def test_equal_arms_have_no_differences(runs: Runs) -> None:
    assert found(runs) == []


def test_a_setting_of_all_runs_is_one_difference(runs: Runs) -> None:
    change_config(runs, lambda values: values["alg"].update(horizon=8))
    (difference,) = found(runs)
    assert difference == Difference("b", "alg.horizon", "16", "8", "all runs", declared=False, decides=True)
    assert difference.unfair
    assert str(difference) == "alg.horizon (16 against 8, all runs)"
    assert not found(runs, "alg.horizon")[0].unfair


def test_values_that_depend_on_the_task_are_told_apart(runs: Runs) -> None:
    for task, iterations in zip(TASKS, (10, 12)):
        keys = [(task, "b", seed) for seed in (1, 2)]
        change_config(runs, lambda values, n=iterations: values["alg"].update(wm_iterations=n), *keys)
    assert [(d.baseline, d.candidate, d.runs) for d in found(runs)] == [
        ("8", "10", "analytic_counting"),
        ("8", "12", "analytic_lqr"),
    ]


def test_other_components_bring_their_own_settings(runs: Runs) -> None:
    def use_flow(values: dict[str, Any]) -> None:
        values["alg"]["dynamics"] = {"name": "flow", "units": values["alg"]["dynamics"]["units"]}

    change_config(runs, use_flow)
    by_key = {d.key: d for d in found(runs, "dynamics")}
    assert (by_key["alg.dynamics.name"].baseline, by_key["alg.dynamics.name"].candidate) == ("mlp", "flow")
    assert by_key["alg.dynamics.integrator"].baseline == "(absent)"
    assert not any(d.unfair for d in by_key.values())


def test_a_seed_with_other_settings_is_no_repetition(runs: Runs) -> None:
    change_config(runs, lambda values: values["alg"].update(gamma=0.9), ("analytic_lqr", "b", 2))
    between_arms, between_seeds = sorted(found(runs, "alg.gamma"), key=lambda d: d.unfair)
    assert (between_arms.runs, between_arms.declared) == ("analytic_lqr seed 2", True)
    # Arms may differ in it, seeds of one arm may not.
    assert (between_seeds.arm, between_seeds.key, between_seeds.unfair) == ("b", "alg.gamma", True)
    assert between_seeds.runs == "seeds 1 and 2 of b on analytic_lqr"


def test_seeds_that_differ_in_the_same_way_in_both_arms_are_found(runs: Runs) -> None:
    keys = [("analytic_lqr", arm, 2) for arm in ("a", "b")]
    change_config(runs, lambda values: values["alg"].update(gamma=0.9), *keys)
    assert [(d.arm, d.key) for d in found(runs)] == [("a", "alg.gamma"), ("b", "alg.gamma")]


def test_what_cannot_change_results_is_listed_and_fair(runs: Runs) -> None:
    change_config(runs, lambda values: values["general"].update(save_interval=1.0))
    (difference,) = found(runs)
    assert (difference.key, difference.decides, difference.unfair) == ("general.save_interval", False, False)


def test_names_of_runs_are_no_differences(runs: Runs) -> None:
    def rename(values: dict[str, Any]) -> None:
        values["preset"] = "other"
        values["general"]["logdir"] = "elsewhere"

    change_config(runs, rename)
    assert found(runs) == []


def test_what_runs_were_made_with_is_compared_run_by_run(runs: Runs) -> None:
    for arm in ("a", "b"):
        # The same seed of both arms at another commit is as fair as before.
        change_manifest(runs["analytic_lqr", arm, 2], git_commit="def")
    assert found(runs) == []
    change_manifest(runs["analytic_lqr", "b", 1], device="GPU", versions={"torch": "2.9"})
    assert [str(d) for d in found(runs, "alg.*")] == [
        "manifest.device (Test CPU against GPU, analytic_lqr seed 1)",
        "manifest.versions.torch (2.8.0 against 2.9, analytic_lqr seed 1)",
    ]
    assert all(d.unfair for d in found(runs))
    assert not any(d.unfair for d in found(runs, "manifest.*"))


def test_earlier_sittings_count(runs: Runs) -> None:
    run = runs["analytic_lqr", "b", 1]
    change_manifest(run, earlier=[{**MANIFEST, "git_commit": "old"}])
    assert [str(d) for d in found(runs)] == [
        f"manifest.git_commit ({COMMIT} against old, then {COMMIT}, analytic_lqr seed 1)"
    ]
    assert stated_origin(run.path)["device"] == "Test CPU"


def test_unknown_origin_is_a_difference(runs: Runs) -> None:
    (runs["analytic_lqr", "b", 1].path / "manifest.json").unlink()
    differences = found(runs)
    assert {d.candidate for d in differences} == {"(unknown)"}
    assert "manifest.git_commit" in {d.key for d in differences}


def test_origin_unknown_of_both_is_no_equality(runs: Runs) -> None:
    for arm in ("a", "b"):
        (runs["analytic_lqr", arm, 1].path / "manifest.json").unlink()
    differences = found(runs)
    assert [d.key.removeprefix("manifest.") for d in differences] == sorted(MANIFEST)
    assert {str(d).partition(" ")[2] for d in differences} == {
        "((unknown) against (unknown), analytic_lqr seed 1)"
    }
    assert all(d.unfair for d in differences)


def test_equal_names_of_changed_code_count_only_with_a_hash(runs: Runs) -> None:
    for key, run in runs.items():
        change_manifest(run, git_commit=f"{COMMIT}-dirty" if key[2] == 2 else f"{COMMIT}-dirty.1a2b3c4d")
    value = f"{COMMIT}-dirty (unknown)"
    (difference,) = found(runs)
    assert (difference.key, difference.unfair) == ("manifest.git_commit", True)
    assert (difference.baseline, difference.candidate) == (value, value)
    assert difference.runs == "analytic_counting seed 2; analytic_lqr seed 2"
    for (_, arm, _), run in runs.items():
        change_manifest(run, git_commit=f"{COMMIT}-dirty.{arm * 8}")
    assert [(d.baseline[-8:], d.candidate[-8:]) for d in found(runs)] == [("a" * 8, "b" * 8)]


def test_other_scores_of_doing_nothing_tell_of_another_task(runs: Runs) -> None:
    for key, run in runs.items():
        score = 5.0 if key == ("analytic_lqr", "b", 2) else 1.0
        runs[key] = dataclasses.replace(run, reference={"zero_action": score})
    (difference,) = found(runs)
    assert str(difference) == "reference.zero_action (1.0 against 5.0, analytic_lqr seed 2)"
    assert difference.unfair


def test_missing_seeds_and_tasks_are_named(runs: Runs) -> None:
    del runs["analytic_lqr", "b", 2]
    assert [str(d) for d in found(runs)] == ["runs.seeds (1, 2 against 1, analytic_lqr)"]
    del runs["analytic_lqr", "b", 1]
    assert [str(d) for d in found(runs)] == [
        "runs.tasks (analytic_counting, analytic_lqr against analytic_counting, all runs)"
    ]


def test_unequal_training_is_named(runs: Runs) -> None:
    key = ("analytic_lqr", "b", 2)
    runs[key] = dataclasses.replace(runs[key], evaluations=(EvaluationRecord(1, 100, 30.0, 1.0, None),))
    assert [str(d) for d in found(runs)] == ["runs.env_steps (200 against 100, analytic_lqr seed 2)"]


@pytest.mark.parametrize(
    ("key", "pattern", "declared"),
    [
        ("alg.dynamics.units", "alg.dynamics.units", True),
        ("alg.dynamics.units", "alg.dynamics", True),
        ("alg.dynamics.units", "alg.dynamics.*", True),
        ("alg.dynamics.units", "dynamics", True),
        ("alg.dynamics.units", "dynamics.units", True),
        ("alg.dynamics.integrator", "alg.flow_*", True),
        ("alg.dynamics.integrator", "alg.flow_integrator", True),
        ("alg.actor.units", "dynamics", False),
        ("alg.dynamics_coef", "dynamics", False),
        ("alg.dynamics_coef", "alg.dynamics", False),
        ("alg.horizon", "horizon", False),
        ("manifest.device", "manifest", True),
        ("runs.seeds", "runs.seeds", True),
    ],
)
def test_declarations(key: str, pattern: str, declared: bool) -> None:
    assert is_declared(key, ["some.other", pattern]) is declared


def test_what_runs_began_from_is_compared_like_the_runs(runs: Runs) -> None:
    for (_, arm, seed), run in runs.items():
        config = compose_config(["alg=pwm_multitask", f"dynamics={'mlp' if arm == 'a' else 'flow'}"])
        identity = config.identity() | {"general.seed": seed, "alg.horizon": 8 if arm == "a" else 4}
        commit = {"git_commit": COMMIT if arm == "a" else "f" * 16}
        made_with = {**MANIFEST, **commit, "data": arm}
        start = {"sha256": f"{arm}{seed}", "configuration": identity, "manifest": made_with, "changed": NEVER}
        change_manifest(run, data="same", start=start)
    by_key = {d.key: d for d in found(runs, "dynamics", "alg.horizon")}
    assert by_key["start.alg.dynamics.name"].declared
    assert by_key["start.alg.horizon"].declared
    # The seed of what a run began from is no difference, but what it was made with, and from which data.
    assert [str(d) for d in by_key.values() if d.unfair] == [
        f"start.manifest.git_commit ({COMMIT} against {'f' * 16}, all runs)",
        "start.runs.data (a against b, all runs)",
    ]


def test_a_file_that_nothing_is_known_of_is_compared_by_its_digest(runs: Runs) -> None:
    for (_, arm, _), run in runs.items():
        change_manifest(run, **({"start": {"sha256": "abc"}} if arm == "b" else {}))
    assert [str(d) for d in found(runs)] == ["start.sha256 ((absent) against abc, all runs)"]


def test_runs_on_other_data_are_no_repetition(runs: Runs) -> None:
    for (_, arm, _), run in runs.items():
        change_manifest(run, data=arm)
    assert [str(d) for d in found(runs)] == ["runs.data (a against b, all runs)"]
