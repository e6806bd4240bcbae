"""What differs between arms that are compared, and which of it was meant to.

A comparison says something about what was declared to differ only if nothing else that decides the results
does. Besides the configuration this is what the runs were made with and which runs there are. Each difference
has a dotted key, by which it can be declared:

    ``alg.horizon`` ...        the resolved configuration
    ``manifest.device`` ...    ``manifest.json``: commit, Python, library versions, device, machine, threads
    ``reference.zero_action``  returns of the policies that know nothing, which differ where tasks do
    ``runs.tasks``             tasks that only one of the two arms has
    ``runs.seeds``             seeds of a task that only one of the two arms has
    ``runs.env_steps``         environment steps of training; ``runs.updates`` of runs that count updates
    ``runs.changed``           what was changed within a run, such as its planned length
    ``runs.data``              digest of the data set that is learned from, where there is one
    ``start.alg.horizon`` ...  the same of what the runs began from (``general.checkpoint``), declared with
                               the key itself; ``start.sha256`` where nothing tells how that was made

What a run was made with and does not tell, or tells no more of than that there were uncommitted changes, may
differ, and counts as a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pwm.analysis.tables.runs import Run
from pwm.configuration.config import flatten
from pwm.configuration.predecessor_keys import ALIASES
from pwm.runs import start
from pwm.runs.provenance import names_code, read_manifest
from pwm.runs.run_diff import COMPARED
from pwm.study.comparison.arms import Arm

# Names of a run; what they name is compared.
NAMES = ("preset", "general.name", "general.logdir", "general.seed", "general.checkpoint")
# What arms may differ in where nothing else is said: a comparison of dynamics.
DECLARED = ("alg.dynamics.*",)
# Begins the keys of what the runs began from.
START = "start."
ABSENT = "(absent)"
UNKNOWN = "(unknown)"
# Parameter counts have a test of their own, parity.
MADE_WITH = tuple(key for key in COMPARED if key != "parameters")
SITTINGS = ", then "
# What is no setting always decides results.
RESULTS = ("manifest.", "reference.", "runs.", START)


@dataclass(frozen=True)
class Difference:
    """One value that is not the same in two arms, or in two seeds of one arm.

    Attributes:
        arm: label of the candidate; of the arm itself where its own seeds differ.
        key: dotted, see above.
        baseline, candidate: the two values; of seeds of one arm, that of its first seed and the other one.
        runs: where, in words: ``all runs``, or tasks and seeds.
        declared: the arms were meant to differ in it.
        decides: False for what cannot change results, such as progress bars.
    """

    arm: str
    key: str
    baseline: str
    candidate: str
    runs: str
    declared: bool
    decides: bool

    @property
    def unfair(self) -> bool:
        """It decides results and was not declared."""
        return self.decides and not self.declared

    def __str__(self) -> str:
        return f"{self.key} ({self.baseline} against {self.candidate}, {self.runs})"


def find_differences(arms: Sequence[Arm], declared: Sequence[str]) -> list[Difference]:
    """Every difference of the other arms from the first one, and of the seeds of each arm from one another.

    Runs of the same task and seed are compared with each other; a run without such a partner with the other
    arm's first run of its task.

    Args:
        arms: the first is the baseline.
        declared: keys, groups of keys (``alg.dynamics``), patterns (``alg.dynamics.*``), or their aliases on
            the command line (``dynamics``, ``alg.flow_*``) in which the arms may differ.
    """
    baseline, *candidates = arms
    found = [difference for arm in arms for difference in _between_seeds(arm)]
    for candidate in candidates:
        pairs = list(_pairs(baseline, candidate))
        for key, groups in _differing(pairs).items():
            for (a, b), where in groups.items():
                decides = key.startswith(RESULTS) or _decides(pairs, key)
                text = _where(where, pairs)
                found.append(
                    Difference(candidate.label, key, a, b, text, is_declared(key, declared), decides)
                )
        found += _missing_runs(baseline, candidate, declared)
    return sorted(found, key=lambda d: (not d.unfair, not d.decides, d.key))


def between(differences: Iterable[Difference], baseline: Arm, candidate: Arm) -> list[Difference]:
    """Return those of ``differences`` between these two arms, and between seeds of either."""
    return [d for d in differences if d.arm in (baseline.label, candidate.label)]


def is_declared(key: str, declared: Iterable[str]) -> bool:
    """True if a pattern names ``key``, a group it belongs to, or an alias of either."""
    key = key.removeprefix(START)
    names = [key]
    for alias, target in ALIASES.items():
        place = target.rpartition("@")[2]
        if key == place or key.startswith(f"{place}."):
            names.append(alias + key.removeprefix(place))
    return any(fnmatchcase(name, end) for name in names for p in declared for end in (p, f"{p}.*"))


def stated_origin(folder: Path) -> dict[str, str]:
    """Return what a run was made with, flattened; of several sittings every value, in order.

    Empty without that file.

    Raises:
        DataError: the file is damaged.
    """
    if not (manifest := read_manifest(folder)):
        return {}
    return _of_sittings(manifest, MADE_WITH)


def _of_sittings(manifest: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str]:
    """Values of ``keys`` of a manifest, flattened; of several sittings every value, in order."""
    sittings = [
        flatten({key: sitting[key] for key in keys if key in sitting})
        for sitting in (*manifest.get("earlier", []), manifest)
    ]
    values = {key: [str(s.get(key, UNKNOWN)) for s in sittings] for s in sittings for key in s}
    return {key: SITTINGS.join(dict.fromkeys(found)) for key, found in values.items()}


def _pairs(baseline: Arm, candidate: Arm) -> Iterator[tuple[Run, Run]]:
    """Runs to compare with each other, the baseline's first."""
    for task in sorted(set(baseline.tasks) & set(candidate.tasks)):
        ours = {run.key[2]: run for run in baseline.runs(task)}
        theirs = {run.key[2]: run for run in candidate.runs(task)}
        for seed in sorted(ours.keys() | theirs.keys()):
            yield ours.get(seed, ours[min(ours)]), theirs.get(seed, theirs[min(theirs)])


def _differing(
    pairs: Iterable[tuple[Run, Run]],
) -> dict[str, dict[tuple[str, str], list[tuple[Run, Run]]]]:
    """By key, and by the two values it has, the pairs of runs in which it differs, or may differ."""
    found: dict[str, dict[tuple[str, str], list[tuple[Run, Run]]]] = {}
    for pair in pairs:
        ours, theirs = map(_facts, pair)
        for key in sorted(_with_untold(ours.keys() | theirs.keys())):
            default = UNKNOWN if key.startswith(("manifest.", "reference.")) else ABSENT
            values = ours.get(key, default), theirs.get(key, default)
            if values[0] != values[1] or UNKNOWN in values[0]:
                found.setdefault(key, {}).setdefault(values, []).append(pair)
    return found


def _with_untold(keys: AbstractSet[str]) -> set[str]:
    """``keys``, and what runs are made with of which neither of two runs says anything."""
    every = {f"manifest.{key}" for key in MADE_WITH}
    return set(keys) | {name for name in every if not any(f"{key}.".startswith(f"{name}.") for key in keys)}


def _facts(run: Run) -> dict[str, str]:
    """All that is compared of a run, by dotted key."""
    manifest = {f"manifest.{key}": value for key, value in stated_origin(run.path).items()}
    if (commit := manifest.get("manifest.git_commit")) and not all(map(names_code, commit.split(SITTINGS))):
        manifest["manifest.git_commit"] = f"{commit} {UNKNOWN}"
    reference = {f"reference.{name}": str(score) for name, score in run.reference.items()}
    found = {f"runs.{run.progress}": str(run.steps), "runs.changed": run.changed}
    stated = read_manifest(run.path)
    found |= {f"runs.{key}": value for key, value in _of_sittings(stated, ("data",)).items()}
    return _settings(run) | manifest | reference | found | _start(stated.get(start.KEY))


def _start(stated: Mapping[str, Any] | None) -> dict[str, str]:
    """All that is compared of what a run began from, as its manifest states it; empty where it is nothing."""
    if stated is None:
        return {}
    if "configuration" not in stated:
        return {f"{START}sha256": str(stated.get("sha256"))}
    settings = {k: str(v) for k, v in stated["configuration"].items() if k not in NAMES}
    made_with = _of_sittings(stated["manifest"], MADE_WITH)
    found = settings | {f"manifest.{key}": value for key, value in made_with.items()}
    found |= {f"runs.{key}": value for key, value in _of_sittings(stated["manifest"], ("data",)).items()}
    return {f"{START}{key}": v for key, v in (found | {"runs.changed": stated["changed"]}).items()}


def _settings(run: Run) -> dict[str, str]:
    return {k: str(v) for k, v in flatten(run.config.to_dict()).items() if k not in NAMES}


def _decides(pairs: Iterable[tuple[Run, Run]], key: str) -> bool:
    return any(key in run.config.identity() for pair in pairs for run in pair)


def _between_seeds(arm: Arm) -> Iterator[Difference]:
    """Return what decides results and differs between seeds of a task: they are no repetitions."""
    for task in arm.tasks:
        first, *others = arm.runs(task)
        for run in others:
            ours, theirs = _settings(first), _settings(run)
            deciding = first.config.identity().keys() | run.config.identity().keys()
            ours["runs.changed"], theirs["runs.changed"] = first.changed, run.changed
            for key in sorted((deciding | {"runs.changed"}) & (ours.keys() | theirs.keys())):
                a, b = ours.get(key, ABSENT), theirs.get(key, ABSENT)
                if a != b:
                    where = f"seeds {first.key[2]} and {run.key[2]} of {arm.label} on {task}"
                    yield Difference(arm.label, key, a, b, where, declared=False, decides=True)


def _missing_runs(baseline: Arm, candidate: Arm, declared: Sequence[str]) -> Iterator[Difference]:
    def difference(key: str, a: Iterable[object], b: Iterable[object], where: str) -> Difference:
        first, second = (", ".join(map(str, group)) for group in (a, b))
        meant = is_declared(key, declared)
        return Difference(candidate.label, key, first, second, where, meant, decides=True)

    ours, theirs = baseline.tasks, candidate.tasks
    if ours != theirs:
        yield difference("runs.tasks", ours, theirs, "all runs")
    lacking: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for task in sorted(set(ours) & set(theirs)):
        seeds = [tuple(run.key[2] for run in arm.runs(task)) for arm in (baseline, candidate)]
        if seeds[0] != seeds[1]:
            lacking.setdefault((seeds[0], seeds[1]), []).append(task)
    for (a, b), tasks in lacking.items():
        yield difference("runs.seeds", a, b, ", ".join(tasks))


def _where(found: Sequence[tuple[Run, Run]], pairs: Sequence[tuple[Run, Run]]) -> str:
    """``all runs``, or the tasks, with seeds where it is not all of them."""
    if len(found) == len(pairs):
        return "all runs"
    return "; ".join(
        task if len(seeds) == len(every) else f"{task} seed {', '.join(map(str, seeds))}"
        for task, every in _seeds(pairs).items()
        if (seeds := _seeds(found).get(task))
    )


def _seeds(pairs: Iterable[tuple[Run, Run]]) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = {}
    for _, run in pairs:
        found.setdefault(run.key[0], []).append(run.key[2])
    return found
