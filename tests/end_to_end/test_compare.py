"""``pwm compare`` and its script on run folders with known numbers: both forms, files, text, errors."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.run_folders import write_run

from pwm.analysis.plots.style import save_figure
from pwm.analysis.statistics.comparison import sample_size_notes
from pwm.analysis.statistics.estimates import (
    Estimate,
    holm,
    permutation_test,
    summarise,
    welch_test,
)
from pwm.analysis.tables.run_measures import MEASURES
from pwm.configuration.config import ExperimentConfig
from pwm.launch import compare
from pwm.launch.cli import main
from pwm.study.comparison import files
from pwm.study.comparison.arm_comparison import StudyComparison, compare_study
from pwm.study.comparison.arms import Arm, load_algorithms, load_arms
from pwm.study.comparison.fairness import DECLARED
from pwm.study.comparison.plots import learning_curves, losses, task_bars
from pwm.study.comparison.tables import comparison_text

pytest.importorskip("rliable")

ROOT = Path(__file__).parents[2]
LQR, COUNTING = "analytic_lqr", "analytic_counting"
FINAL = {
    "mlp": {LQR: [20.0, 24.0, 19.0], COUNTING: [200.0, 240.0]},
    "flow": {LQR: [30.0, 36.0, 33.0], COUNTING: [210.0, 230.0]},
}
FILES = {
    "comparison.txt",
    "runs.csv",
    "evaluations.csv",
    "comparison.csv",
    "differences.csv",
    "learning_curves_env_steps.png",
    "learning_curves_wall_time.png",
    "task_bars.png",
    "gradient_norms.png",
    "losses.png",
}
PROFILES = "performance_profiles.png"
Shown = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two algorithms, two tasks with three and two seeds; not to be changed."""
    folder = tmp_path_factory.mktemp("logs")
    for algorithm, tasks in FINAL.items():
        for task, scores in tasks.items():
            for seed, score in enumerate(scores, start=1):
                write_run(
                    folder, task, algorithm, seed, [5.0, score + 1, score], more={"actor/loss": [1.0, 2.0]}
                )
    return folder


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Run ``pwm compare`` in an empty folder; returns its exit code and output (its message if it failed)."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, str]:
        code = main(["compare", *map(str, arguments)])
        output = capsys.readouterr()
        return code, output.err if code else output.out

    return command


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons draw nothing, which would take nearly all of their time."""
    monkeypatch.setattr(files, "draw_study", lambda study, smoothing: {})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def compared_by_final(arms: list[Arm]) -> StudyComparison:
    """The arms compared by their last evaluations."""
    scores = {arm.label: arm.scores() for arm in arms}
    return compare_study(arms, MEASURES["final"], scores, DECLARED, {})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def compared(logdir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Output folder and text of a comparison over both tasks."""
    output = tmp_path_factory.mktemp("out") / "analysis"
    paths = [f"{logdir}/*/mlp", f"{logdir}/*/flow"]
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code = main(
            ["compare", "--run-dirs", *paths, "--labels", "baseline", "flow", "--output-dir", str(output)]
        )
    assert code == 0
    return output, text.getvalue()


# --- output ---------------------------------------------------------------------------------------


def test_all_files_are_written_and_named(compared: tuple[Path, str]) -> None:
    output, text = compared
    assert names(output) == FILES
    for name in FILES:
        assert f"{output / name}\n" in text
        if name.endswith(".png"):
            assert (output / name).read_bytes().startswith(b"\x89PNG")
    assert (output / "comparison.txt").read_text() in text


def test_comparison_is_that_of_the_statistics(compared: tuple[Path, str]) -> None:
    found = rows(compared[0] / "comparison.csv")
    assert [(r["task"], r["label"], r["algorithm"], r["seeds"]) for r in found] == [
        (task, *arm, seeds)
        for task, seeds in ((COUNTING, "2"), (LQR, "3"))
        for arm in (("baseline", "mlp"), ("flow", "flow"))
    ]
    pairs = [(FINAL["flow"][task], FINAL["mlp"][task]) for task in (COUNTING, LQR)]
    tests = [welch_test(*pair) for pair in pairs]
    permuted = [permutation_test(*pair) for pair in pairs]
    wanted = {
        "welch_p": [test.p_value for test in tests],
        "welch_p_holm": holm([test.p_value for test in tests]),
        "permutation_p": permuted,
        "permutation_p_holm": holm(permuted),
        "difference": [test.difference.value for test in tests],
        "difference_low": [test.difference.low for test in tests],
        "difference_high": [test.difference.high for test in tests],
        "percent": [0.0, 100 * 12 / 21],
    }
    for name, values in wanted.items():
        assert [float(row[name]) for row in found[1::2]] == pytest.approx(values), name
        assert [row[name] for row in found[::2]] == ["", ""]
    assert [row["baseline"] for row in found] == ["", "baseline"] * 2
    for row in found:
        summary = summarise(FINAL[row["algorithm"]][row["task"]])
        numbers = [float(row[key]) for key in ("mean", "mean_low", "mean_high", "std")]
        assert numbers == [summary.mean.value, summary.mean.low, summary.mean.high, summary.std]
        assert (row["measure"], float(row["zero_action"])) == ("final", 10.0)
        assert (float(row["env_steps"]), float(row["wall_time"])) == (200.0, 120.0)


def test_runs_and_evaluations_carry_the_label(compared: tuple[Path, str]) -> None:
    runs = rows(compared[0] / "runs.csv")
    assert len(runs) == 10
    scores = [float(r["final"]) for r in runs if (r["label"], r["task"]) == ("baseline", LQR)]
    assert scores == FINAL["mlp"][LQR]
    evaluations = rows(compared[0] / "evaluations.csv")
    assert len(evaluations) == 30
    first = [evaluations[0][key] for key in ("label", "algorithm", "seed", "episode_return")]
    assert first == ["baseline", "mlp", "1", "5.0"]


def test_text_shows_differences_and_what_so_few_seeds_cannot_show(compared: tuple[Path, str]) -> None:
    text = compared[1]
    assert "return of the last evaluation" in text
    (line,) = [line for line in text.split("flow against baseline")[1].splitlines() if line.startswith(LQR)]
    assert line.split()[1:] == ["+12.0", "[5.5,", "18.5]", "+57.1", "%", "0.007", "0.014", "0.10", "0.20"]
    for note in [*sample_size_notes(2, 2, tasks=2), *sample_size_notes(3, 3, tasks=2)]:
        assert f"- {note}\n" in text
    assert "there is no figure over all tasks" in text
    assert "no performance profiles" in text
    assert "baseline: 5 runs used, 0 problems" in text
    assert "declared to differ: alg.dynamics.*; nothing else that decides results differs\n" in text


def test_script_of_the_predecessor_runs(
    logdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = [f"{logdir}/*/{name}/seed1" for name in ("mlp", "flow")]
    output = tmp_path / "analysis"
    script = ROOT / "scripts" / "compare_runs.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--run-dirs", *arms, "--output-dir", str(output)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr()
    assert (ended.value.code, shown.err) == (0, "")
    assert names(output) == FILES | {PROFILES}
    assert "flow against mlp" in shown.out
    assert (
        "probability that a run of flow beats one of mlp, with 95 % bootstrap intervals: 1.00\n" in shown.out
    )
    # One seed each, of the floor (10) and the best arm (30 and 210).
    assert (
        "interquartile mean of normalised scores, with 95 % bootstrap intervals: flow 1.00, mlp 0.72\n"
        in (shown.out)
    )
    assert (
        "on which 0 is the floor and 1 the mean of the best arm: analytic_counting 10.0 and 210.0;"
        in shown.out
    )


def test_figures_over_tasks_are_shown_with_their_intervals(logdir: Path) -> None:
    arms = load_algorithms([f"{logdir}/*/mlp/seed1", f"{logdir}/*/flow/seed1"])
    study = compared_by_final(arms)
    (pair,) = study.candidates
    pair = replace(pair, comparison=replace(pair.comparison, improvement=Estimate(0.72, 0.5, 0.91)))
    iqm = study.iqm | {"flow": Estimate(0.8, 0.7, 0.9)}
    text = comparison_text(replace(study, candidates=[pair], iqm=iqm), DECLARED)
    assert "beats one of mlp, with 95 % bootstrap intervals: 0.72 [0.50, 0.91]\n" in text
    assert "with 95 % bootstrap intervals: flow 0.80 [0.70, 0.90], mlp 0.72\n" in text


# --- calling forms --------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_both_forms_say_the_same_and_missing_seeds_are_named(
    logdir: Path, shown: Shown, tmp_path: Path
) -> None:
    by_name = ("--task", LQR, "--algorithm", "mlp", "flow", "--seeds", 3, 7, "--logdir", logdir)
    by_path = ("--run-dirs", logdir / LQR / "mlp" / "seed3", logdir / LQR / "flow" / "seed3")
    texts, tables = [], []
    for arguments in (by_name, by_path):
        code, text = shown(*arguments)
        assert code == 0
        assert "one run has no spread" in text
        texts.append(text)
        # Where no folder is named, and no label: the labels are the algorithms' names.
        tables.append(rows(tmp_path / "analysis" / "comparison.csv"))
    assert tables[0] == tables[1]
    assert [row["label"] for row in tables[0]] == ["mlp", "flow"]
    assert [row["difference"] for row in tables[0]] == ["", "14.0"]
    assert [row["welch_p"] for row in tables[0]] == ["", ""]
    assert "flow: 1 runs used, 1 problems\n  missing: analytic_lqr flow seed 7" in texts[0]
    assert "flow: 1 runs used, 0 problems" in texts[1]


def test_a_label_given_twice_joins_its_folders_and_one_arm_is_only_drawn(
    logdir: Path, shown: Shown, tmp_path: Path
) -> None:
    # A profile of an earlier comparison must not stay as if it belonged to this one.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / PROFILES).write_bytes(b"old")
    seeds = [logdir / LQR / "mlp" / f"seed{seed}" for seed in (1, 3)]
    code, text = shown("--run-dirs", *seeds, "--labels", "x", "x", "--output-dir", "out")
    assert code == 0
    (row,) = rows(tmp_path / "out" / "comparison.csv")
    assert (row["label"], row["seeds"], row["mean"], row["baseline"]) == ("x", "2", "19.5", "")
    assert names(tmp_path / "out") == FILES
    assert "no performance profiles" in text
    assert "against" not in text


def test_measure_and_smoothing_reach_tables_and_figures(logdir: Path, shown: Shown, tmp_path: Path) -> None:
    paths = [logdir / LQR / "mlp" / "seed1", logdir / LQR / "flow" / "seed1"]
    code, text = shown("--run-dirs", *paths, "--measure", "best", "--smoothing", 0.5)
    assert code == 0
    assert [row["mean"] for row in rows(tmp_path / "analysis" / "comparison.csv")] == ["21.0", "31.0"]
    assert "higher than what the policy is worth" in text
    arms = load_algorithms(paths)
    scores = {arm.label: arm.scores("best") for arm in arms}
    best = compare_study(arms, MEASURES["best"], scores, DECLARED, {})
    for name, figure in {
        "learning_curves_wall_time.png": learning_curves(arms, "wall_time", 0.5),
        "losses.png": losses(arms, 0.5),
        "task_bars.png": task_bars(best),
    }.items():
        assert (tmp_path / "analysis" / name).read_bytes() == save_figure(
            figure, tmp_path / name
        ).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_unfinished_runs_are_used_when_asked(logdir: Path, shown: Shown, tmp_path: Path) -> None:
    late = write_run(tmp_path / "logs", LQR, "late", 1, [5.0, 9.0], state="running")
    arms = ("--run-dirs", logdir / LQR / "mlp" / "seed1", late, "--labels", "mlp", "late")
    code, text = shown(*arms)
    assert code == 2
    assert "late: no run can be used" in text
    assert "partial: analytic_lqr late seed 1" in text
    code, text = shown(*arms, "--up-to-common-step")
    assert code == 0
    table = rows(tmp_path / "analysis" / "comparison.csv")
    assert [(row["label"], row["mean"], row["env_steps"]) for row in table] == [
        ("mlp", "21.0", "100.0"),
        ("late", "9.0", "100.0"),
    ]
    assert "late: 1 runs used, 1 problems\n  partial: " in text


@pytest.mark.usefixtures("undrawn")
def test_thresholds_say_when_they_were_reached(logdir: Path, shown: Shown, tmp_path: Path) -> None:
    code, text = shown(
        "--run-dirs",
        logdir / LQR,
        logdir / COUNTING,
        "--threshold",
        f"{LQR}=26",
        "--threshold",
        f"{COUNTING}=-1e3",
    )
    assert code == 0
    assert f"{LQR}: first evaluation that returns 26 or more\n" in text
    assert "\n  flow: 3 of 3 seeds, after 100.0 ± 0.0 steps and 1.00 ± 0.00 minutes\n" in text
    assert "\n  mlp: 0 of 3 seeds\n" in text
    names_of = ("threshold", "steps_to_threshold", "seconds_to_threshold")
    found = {
        tuple(row[name] for name in ("task", "label", *names_of))
        for row in rows(tmp_path / "analysis" / "runs.csv")
    }
    assert found == {
        (LQR, "flow", "26.0", "100", "60.0"),
        (LQR, "mlp", "26.0", "", ""),
        (COUNTING, "flow", "-1000.0", "0", "0.0"),
        (COUNTING, "mlp", "-1000.0", "0", "0.0"),
    }


# --- what is unfair or impossible -----------------------------------------------------------------


def test_what_makes_a_comparison_unfair_is_named(logdir: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path, LQR, "long", 4, [5.0, 6.0, 7.0, 8.0])
    paths = {"a": [f"{logdir}/*/mlp/seed1"], "b": [other], "c": [logdir / LQR / "flow" / "seed1"]}
    arms = load_arms(paths)
    text = comparison_text(compared_by_final(arms), DECLARED)
    of_b, of_c = text.split("c against a\n")
    assert "b and a are NOT COMPARABLE: more differs than was declared (alg.dynamics.*):\n" in of_b
    for line in (
        "runs.env_steps (200 against 300, all runs)",
        "runs.seeds (1 against 4, analytic_lqr)",
        "runs.tasks (analytic_counting, analytic_lqr against analytic_lqr, all runs)",
    ):
        assert f"  {line}\n" in of_b
    assert "c and a are NOT COMPARABLE" in of_c
    assert "runs.tasks" in of_c
    assert "runs.seeds" not in of_c
    assert "not for the 2 comparisons with a.\n" in text


@pytest.fixture
def unfair(tmp_path: Path) -> list[Path]:
    """A flow run beside that of an MLP, from which it also differs in what decides results."""
    pair = [write_run(tmp_path / "logs", LQR, name, 1, [5.0, 20.0]) for name in ("mlp", "flow")]
    values = ExperimentConfig.load(pair[1] / "config.yaml").to_dict()
    values["alg"]["dynamics"] = {"name": "flow", "units": values["alg"]["dynamics"]["units"]}
    values["alg"]["actor_lr"] *= 10
    values["general"]["eval_runs"] = 2
    (pair[1] / "config.yaml").write_text(ExperimentConfig.from_dict(values).to_yaml())
    manifest = json.loads((pair[1] / "manifest.json").read_text())
    (pair[1] / "manifest.json").write_text(json.dumps(manifest | {"git_commit": "other"}))
    return pair


@pytest.mark.usefixtures("undrawn")
def test_undeclared_differences_are_named_and_can_be_declared(
    unfair: list[Path], shown: Shown, tmp_path: Path
) -> None:
    code, text = shown("--run-dirs", *unfair)
    assert code == 0
    named = text.split("flow and mlp are NOT COMPARABLE")[1].split("\n\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in named] == ["alg.actor_lr", "general.eval_runs", "manifest.git_commit"]
    assert "(16 against 2, all runs)" in named[1]
    assert [row["comparable"] for row in rows(tmp_path / "analysis" / "comparison.csv")] == ["", "False"]
    table = {row["key"]: row for row in rows(tmp_path / "analysis" / "differences.csv")}
    assert (table["general.eval_runs"]["value"], table["general.eval_runs"]["declared"]) == ("2", "False")
    assert table["alg.dynamics.name"]["declared"] == "True"

    meant = ["--declared", "dynamics", "alg.actor_lr", "general.eval_runs", "manifest"]
    code, text = shown("--run-dirs", *unfair, *meant)
    assert "NOT COMPARABLE" not in text
    assert "general.eval_runs and manifest; nothing else that decides results differs" in text
    assert [row["comparable"] for row in rows(tmp_path / "analysis" / "comparison.csv")] == ["", "True"]
    # Nothing at all.
    assert "alg.dynamics.name (mlp against flow" in shown("--run-dirs", *unfair, "--declared")[1]


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_run_is_named_and_stops_no_comparison(logdir: Path, shown: Shown, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    good = write_run(logs, LQR, "flow", 8, [5.0, 6.0])
    bad = write_run(logs, LQR, "flow", 9, [5.0, math.nan])
    code, text = shown("--run-dirs", logdir / LQR / "mlp", good.parent)
    assert code == 0
    assert f"damaged: analytic_lqr flow seed 9 ({bad}): metrics.jsonl, epoch 1: eval/episode_return" in text


def test_algorithms_without_a_common_task_are_refused(logdir: Path, shown: Shown, tmp_path: Path) -> None:
    code, text = shown("--run-dirs", logdir / LQR / "mlp", logdir / COUNTING / "flow")
    assert code == 2
    assert text == f"pwm: mlp and flow share no task: {LQR} against {COUNTING}\n"
    assert not (tmp_path / "analysis").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --run-dirs, or --task, --algorithm and --seeds"),
        (["--run-dirs", "LOGS", "--task", "x"], "give either --run-dirs"),
        (["--task", "x", "--seeds", "1"], "one of them is missing"),
        (["--run-dirs", "MLP", "FLOW", "--labels", "a"], "--labels has 1 values for 2 paths of --run-dirs"),
        (["--run-dirs", "MLP", "--labels", "a", "b"], "--labels has 2 values for 1 paths of --run-dirs"),
        (["--run-dirs", "MLP", "MLP", "--labels", "a", "b"], "seed1 belongs to both a and b"),
        (["--run-dirs", "MLP", "MLP"], "all runs are of mlp; tell the paths apart with --labels"),
        (["--run-dirs", "LOGS", "--labels", "a"], "a: one label, but runs of 2 algorithms: flow, mlp"),
        (["--run-dirs", "nowhere"], "no run folder in nowhere"),
        (["--run-dirs", "LOGS", "--smoothing", "1"], "smoothing=1 "),
        (["--run-dirs", "LOGS", "--smoothing", "nan"], "smoothing=nan "),
        (["--run-dirs", "MLP", "--output-dir", "MLP/seed1"], "is a run folder"),
        (["--task", "x", "--algorithm", "a", "--seeds", "1", "1"], "--seeds names one twice: 1 1"),
        (
            ["--run-dirs", "MLP", "--threshold", "hopper=1"],
            "thresholds of tasks that no arm has: hopper; tasks: analytic_lqr",
        ),
        (
            ["--run-dirs", "MLP", "--threshold", f"{LQR}=high"],
            f"--threshold {LQR}=high; it must be TASK=VALUE",
        ),
        (["--run-dirs", "MLP", "--threshold", f"{LQR}=inf"], "it must be TASK=VALUE with a finite number"),
        (["--run-dirs", "MLP", "--threshold", "5"], "--threshold 5; it must be TASK=VALUE"),
        (
            ["--run-dirs", "MLP", "--threshold", f"{LQR}=1", "--threshold", f"{LQR}=2"],
            f"--threshold names {LQR} twice",
        ),
        (["--task", "x", "--algorithm", "a", "a", "--seeds", "1"], "--labels names one twice: a a"),
        (
            ["--task", "x", "--algorithm", "a", "b", "--seeds", "1", "--labels", "a"],
            "1 values for 2 of --algorithm",
        ),
        (
            ["--task", "x", "--algorithm", "a", "--seeds", "1", "2"],
            "none of these exists: logs/x/a/seed1, logs/x/a/seed2; in logs: nothing",
        ),
        (
            ["--logdir", "LOGS", "--task", LQR, "--algorithm", "a", "--seeds", "1"],
            f"{LQR}: flow, mlp",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    arguments: list[str], message: str, logdir: Path, shown: Shown, tmp_path: Path
) -> None:
    places = {"LOGS": f"{logdir}", "MLP": f"{logdir / LQR / 'mlp'}", "FLOW": f"{logdir / LQR / 'flow'}"}
    filled = []
    for argument in arguments:
        name, slash, rest = argument.partition("/")
        filled.append(places.get(name, name) + slash + rest)
    code, text = shown(*filled)
    assert code == 2
    assert message in text
    assert text.startswith("pwm: ")
    assert not (tmp_path / "analysis").exists()


def test_a_folder_that_cannot_be_written_is_named(logdir: Path, shown: Shown, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = logdir / LQR / "mlp" / "seed1"
    code, text = shown("--run-dirs", run, "--output-dir", tmp_path / "file" / "out")
    assert code == 2
    assert f"{tmp_path / 'file' / 'out'} cannot be written" in text


def test_every_measure_can_be_chosen() -> None:
    assert set(compare.MEASURES) == set(MEASURES)
