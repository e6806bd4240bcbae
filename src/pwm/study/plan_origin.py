"""True if what an experiment has still to train will be made with the same as the runs already there."""

from __future__ import annotations

from pwm.configuration.building import pick_device
from pwm.configuration.config import flatten
from pwm.errors import DataError
from pwm.runs.provenance import manifest
from pwm.runs.status import FINISHED
from pwm.study.comparison.fairness import MADE_WITH, UNKNOWN, stated_origin
from pwm.study.plan import ExperimentPlan, PlannedRun

# What another machine than this one decides.
OF_MACHINE = ("device", "machine")


def origin_warnings(plan: ExperimentPlan, here: bool = True) -> list[str]:
    """In what runs trained now would differ from those already there, one line each.

    Empty if nothing is left to train, or no run is there.

    Args:
        plan: the experiment.
        here: whether they would be trained on this machine; of another one the device is not known.
    """
    finished = {run for run in plan.every_run if run.state().state == FINISHED}
    there = [run for run in plan.every_run if run in finished or (run.folder / "manifest.json").exists()]
    if len(finished) == len(plan.every_run) or not there:
        return []
    now = {device: _made_now(device, here) for device in {run.config.general.device for run in there}}
    changes: dict[str, list[str]] = {}
    for run in there:
        made = _made_before(run)
        would = now[run.config.general.device] | {"threads": str(run.config.general.threads)}
        for key in sorted(made.keys() | would.keys()):
            before, after = made.get(key, UNKNOWN), would.get(key, UNKNOWN)
            if before != after and (here or key not in OF_MACHINE):
                changes.setdefault(f"{key}: {before} -> {after}", []).append(run.title)
    if not changes:
        return []
    return [
        "warning: runs already there were made with something else than those to be trained; arms will be "
        "NOT COMPARABLE where a seed is old in one and new in the other:",
        *(f"  {change} ({', '.join(runs)})" for change, runs in changes.items()),
    ]


def _made_now(device: str, here: bool) -> dict[str, str]:
    made = manifest(pick_device(device if here else "cpu"), {})
    return {key: str(value) for key, value in flatten({key: made[key] for key in MADE_WITH}).items()}


def _made_before(run: PlannedRun) -> dict[str, str]:
    try:
        return stated_origin(run.folder)
    except DataError:
        # Its manifest is damaged: the report will say so.
        return {}
