"""The part of a report that says how results came about: cost, parity, differences, runs, environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pwm.analysis.cost.operations import PHASES
from pwm.analysis.cost.parameter_parity import TOLERANCE, Parities
from pwm.analysis.cost.training_cost import RunCost
from pwm.analysis.tables.runs import Run
from pwm.study.comparison.arm_comparison import StudyComparison
from pwm.study.comparison.arms import Arm
from pwm.study.comparison.fairness import stated_origin
from pwm.study.comparison.verdict import size_differences
from pwm.study.comparison.wording import count, listing, mean_and_std, minutes, number, percent, share
from pwm.study.report.document import (
    Block,
    Bullets,
    Commands,
    Mark,
    Row,
    Section,
    Table,
    TableCell,
    Text,
    passed_or_not,
)
from pwm.study.report.held_out import POLICIES, HeldOut, steps_title
from pwm.study.report.paths import ReportPaths
from pwm.study.report.run_table import run_table

SHORT_HASH = 10
WITHOUT_EFFECT = "without effect"
WITHOUT_EFFECT_NOTE = (
    f"{WITHOUT_EFFECT}: it cannot change results, as progress bars and logging services cannot."
)
TERA_IN_GIGA = 1000
# Costs of runs by task and arm's label.
Spent = Mapping[tuple[str, str], Sequence[RunCost]]


def cost(
    study: StudyComparison, costs: Mapping[str, Sequence[RunCost]], compute_matched: Mapping[str, str]
) -> Section:
    """Time, memory and operations, what they buy, and how well ``compute_matched`` arms cost the same.

    Args:
        study: the arms.
        costs: by arm's label those of its runs.
        compute_matched: by label of an arm that of the arm it was made as costly as.
    """
    spent: dict[tuple[str, str], list[RunCost]] = {}
    for arm in study.arms:
        for run, of_run in zip(arm.table.runs, costs[arm.label], strict=True):
            spent.setdefault((run.key[0], arm.label), []).append(of_run)
    labelled = [(task, arm.label) for task, arm in study.cells()]
    tables = [
        Table(
            "Cost of training: mean ± standard deviation over seeds.",
            [_resources(study, spent, *place) for place in labelled],
            [
                "Wall clock: all sittings, evaluations included; whatever else ran on the machine slows it. "
                "Steps/s: environment steps, or imagined transitions where nothing is collected; median over "
                "epochs, updates included. Memory: peak of the process. Velocity "
                "evaluations: in the policy's imagination, over the whole run."
            ],
            names=2,
        ),
        Table(
            "Floating-point operations (matrix products, forward and backward, counted from the "
            "configuration).",
            [_operations(study, spent, *place) for place in labelled],
            [
                "Per epoch by phase; a run is all epochs and warm-up. The ratios are to the first arm.",
                *_left_by_matching(spent, compute_matched),
            ],
            names=2,
        ),
        Table(
            "What cost buys: gain of the final policies over the floor, on held-out seeds.",
            [_value(study, spent, *place) for place in labelled],
            names=2,
        ),
    ]
    return Section("Cost", tables)


def parity(study: StudyComparison, checked: Parities) -> Section:
    """Parameter counts of the world models."""
    baseline = study.arms[0].label
    rows: list[Row] = []
    for pair in study.candidates:
        for task, difference in size_differences(pair).items():
            ours, theirs = (_sizes(arm.runs(task)) for arm in (pair.baseline, pair.candidate))
            rows.append(
                [
                    ("Arm", pair.candidate.label),
                    ("Task", task),
                    (f"World model, {baseline}", number(ours.get("world_model"))),
                    ("World model, arm", number(theirs.get("world_model"))),
                    (f"Dynamics, {baseline}", number(ours.get("dynamics"))),
                    ("Dynamics, arm", number(theirs.get("dynamics"))),
                    ("Difference", percent(100 * difference, 2)),
                    ("Result", passed_or_not(abs(difference) <= TOLERANCE)),
                ]
            )
    caption = f"Parameters of the runs' world models; at most {share(TOLERANCE)} apart."
    blocks: list[Block] = [Table(caption, rows, names=2)]
    if any(checked.values()):
        blocks.append(_parts(checked))
    wrong: dict[str, list[str]] = {}
    for arm, pairs in checked.items():
        for task, found in pairs.items():
            for problem in found.problems:
                wrong.setdefault(f"{arm}: {problem}", []).append(task)
    for problem, tasks in wrong.items():
        blocks.append(
            Text(f"Parity check, {problem} ({listing(tasks)}); only the width of the dynamics may differ.")
        )
    return Section("Parity", blocks)


def differences(study: StudyComparison, declared: Sequence[str], paths: ReportPaths) -> Section:
    """Everything in which arms differ, declared or not."""
    found = list(dict.fromkeys(d for pair in study.candidates for d in pair.differences))
    meant = f"Arms may differ in: {listing(declared, 'nothing')}."
    if not found:
        return Section("Differences between arms", [Text(f"{meant} Nothing differs.")])
    rows: list[Row] = []
    for d in found:
        kind: TableCell = "declared" if d.declared else Mark("UNDECLARED", False)
        values = (study.arms[0].label, d.baseline), ("Arm's value", d.candidate)
        rows.append(
            [
                ("Arm", d.arm),
                ("Key", d.key),
                *((title, paths.clean(value)) for title, value in values),
                ("Where", d.runs),
                ("Kind", kind if d.decides else WITHOUT_EFFECT),
            ]
        )
    unfair = sum(d.unfair for d in found)
    table = Table(
        "Resolved configuration, what the runs were made with, and which runs there are: every difference.",
        rows,
        [] if all(d.decides for d in found) else [WITHOUT_EFFECT_NOTE],
        names=2,
        words=True,
    )
    summary = "Nothing else that can change results differs."
    if unfair:
        summary = f"NOT DECLARED, although it can change results: {count(unfair, 'difference')}."
    return Section("Differences between arms", [Text(f"{meant} {summary}"), table])


def runs(
    study: StudyComparison, costs: Mapping[str, Sequence[RunCost]], held_out: HeldOut, paths: ReportPaths
) -> Section:
    """Every run, and every problem that was met while reading them."""
    steps = steps_title(study)
    rows: list[Row] = [
        [
            ("Arm", arm.label),
            ("Task", run.key[0]),
            ("Seed", str(run.key[2])),
            ("State", run.state),
            (steps, f"{run.steps:,}"),
            ("Best", number(row["best"])),
            ("Last", number(row["final"])),
            *(
                (f"{which.title()}, held out", number(float(np.mean(held_out[run.key][which]))))
                for which in reversed(POLICIES)
            ),
            ("Minutes", number(row["wall_time"] / 60)),
            ("Configuration", row["config_hash"][:SHORT_HASH]),
            ("Folder", paths.show(run.path)),
        ]
        for arm in study.arms
        for run, row in zip(arm.table.runs, study.rows[arm.label], strict=True)
    ]
    caption = (
        "Runs. Returns of the best and the last evaluation during training, and of the two policies on "
        "held-out seeds."
    )
    table = Table(caption, rows, names=3)
    problems = problems_in_words(study.arms, paths)
    listed: Block = (
        Bullets(problems) if problems else Text("No run is missing, failed, unfinished or damaged.")
    )
    return Section("Runs", [run_table(study, costs), table, listed])


def problems_in_words(arms: Iterable[Arm], paths: ReportPaths) -> list[str]:
    """Return the problems of the runs of every arm, one sentence each."""
    return [f"{arm.label}: {paths.clean(str(problem))}" for arm in arms for problem in arm.table.problems]


def environment(study: StudyComparison) -> Section:
    """Return what the runs were made with, by their manifests."""
    made = {(arm.label, run.key): stated_origin(run.path) for arm in study.arms for run in arm.table.runs}
    rows: list[Row] = []
    for key in dict.fromkeys(key for facts in made.values() for key in facts):
        groups: dict[str, list[str]] = {}
        for (label, (task, _, seed)), facts in made.items():
            groups.setdefault(facts.get(key, "unknown"), []).append(f"{label} {task} seed {seed}")
        for value, where in groups.items():
            named = "all runs" if len(where) == len(made) else ", ".join(where)
            rows.append([("What", key), ("Value", value), ("Runs", named)])
    blocks: list[Block] = [
        Table("As the runs' manifests state it.", rows, words=True)
        if rows
        else Text("No run says what it was made with: manifest.json is missing.")
    ]
    if any("-dirty" in facts.get("git_commit", "") for facts in made.values()):
        blocks.append(
            Text(
                "A commit with -dirty names a source tree with uncommitted changes, and what follows it is a "
                "hash of them: the commit alone does not say what was run."
            )
        )
    references = [
        f"{task}: zero actions score {number(scores.get('zero_action'))}, random actions "
        f"{number(scores.get('random_action'))}"
        for task, scores in sorted(study.references.items())
    ]
    return Section("Environment", [*blocks, Bullets([*_seeds(study), *references])])


def reproduce(commands: Sequence[str], paths: ReportPaths) -> Section:
    """Commands that make the runs and the report again."""
    if not commands:
        return Section("Reproduce", [Text("No commands were given.")])
    return Section("Reproduce", [Commands([paths.from_here(command) for command in commands])])


def _resources(study: StudyComparison, spent: Spent, task: str, label: str) -> Row:
    costs = spent[task, label]

    def measured(name: str) -> str:
        return mean_and_std(_known(getattr(cost, name) for cost in costs))

    return [
        ("Task", task),
        ("Arm", label),
        ("Wall clock (min)", minutes([cost.seconds for cost in costs])),
        ("Time ratio", _ratio(study, spent, task, label, lambda cost: cost.seconds)),
        ("Steps/s", measured("fps")),
        ("Memory (MB)", measured("memory")),
        ("GPU memory (MB)", measured("device_memory")),
        ("Velocity evaluations", measured("velocity_evals")),
    ]


def _operations(study: StudyComparison, spent: Spent, task: str, label: str) -> Row:
    costs = spent[task, label]
    epochs = [cost.epoch_gflops for cost in costs if cost.epoch_gflops is not None]
    titles = {phase: phase.replace("_", " ") for phase in PHASES} | {"total": "Epoch"}
    return [
        ("Task", task),
        ("Arm", label),
        *((f"{titles[p]} (GFLOP)", number(_mean([epoch[p] for epoch in epochs]))) for p in titles),
        ("FLOP ratio", _ratio(study, spent, task, label, _epoch_total)),
        ("Run (TFLOP)", number(_mean(_known(cost.total_gflops for cost in costs)) / TERA_IN_GIGA)),
    ]


def _left_by_matching(spent: Spent, compute_matched: Mapping[str, str]) -> Iterator[str]:
    """Return the difference that whole updates leave between matched arms, task by task."""
    for matched, other in compute_matched.items():
        for task in sorted(task for task, label in spent if label == matched and (task, other) in spent):
            both = [spent[task, label] for label in (matched, other)]
            ours, theirs = (_mean(_known(map(_epoch_total, costs))) for costs in both)
            whole, other_whole = (_mean(_known(cost.total_gflops for cost in costs)) for costs in both)
            yield (
                f"{matched} was matched to {other}; what whole updates leave on {task}: "
                f"{percent(100 * (ours / theirs - 1), 2)} per epoch, "
                f"{percent(100 * (whole / other_whole - 1), 2)} per run."
            )


def _value(study: StudyComparison, spent: Spent, task: str, label: str) -> Row:
    costs = spent[task, label]
    gain = float(study.scores[label][task].mean()) - study.floor(task)
    return [
        ("Task", task),
        ("Arm", label),
        ("Gain", number(gain, sign=True)),
        ("Gain per minute", number(gain / _mean([cost.seconds / 60 for cost in costs]))),
        ("Gain per GFLOP", number(gain / _mean(_known(cost.total_gflops for cost in costs)))),
    ]


def _ratio(
    study: StudyComparison, spent: Spent, task: str, label: str, of: Callable[[RunCost], float | None]
) -> str:
    """Of the arm's mean to the first arm's."""
    own, first = (
        _mean(_known(map(of, spent.get((task, name), [])))) for name in (label, study.arms[0].label)
    )
    return number(own / first)


def _epoch_total(cost: RunCost) -> float | None:
    return None if cost.epoch_gflops is None else cost.epoch_gflops["total"]


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _seeds(study: StudyComparison) -> list[str]:
    """Which seeds were used where, one line per set of seeds."""
    used: dict[str, list[str]] = {}
    for arm in study.arms:
        for task in arm.tasks:
            seeds = listing(str(run.key[2]) for run in arm.runs(task))
            used.setdefault(seeds, []).append(f"{arm.label} on {task}")
    return [
        f"Seeds {seeds}: {'every arm on every task' if len(used) == 1 else ', '.join(where)}."
        for seeds, where in used.items()
    ]


def _sizes(of: Sequence[Run]) -> Mapping[str, Any]:
    return next((run.parameters for run in of if run.parameters), {})


def _parts(checked: Parities) -> Table:
    """The checked pairs part by part."""
    found = [(arm, task, pair) for arm, pairs in checked.items() for task, pair in pairs.items()]
    names = list(dict.fromkeys(name for _, _, pair in found for name in pair.baseline))
    rows: list[Row] = [
        [
            ("Arm", arm),
            ("Task", task),
            *(
                (name.replace("_", " "), f"{pair.baseline.get(name, 0):,} / {pair.candidate.get(name, 0):,}")
                for name in names
            ),
            ("Total", " / ".join(f"{total:,}" for total in pair.totals)),
            ("Difference", percent(100 * pair.difference, 2)),
            ("Result", passed_or_not(pair.passed)),
        ]
        for arm, task, pair in found
    ]
    caption = "Checked pairs part by part: trainable parameters, baseline / candidate."
    return Table(caption, rows, names=2)
