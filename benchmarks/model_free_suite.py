"""Make the runs of ``model_free.py`` that stand beside those of ``pwm experiment experiment=cpu_suite``.

    python benchmarks/model_free_suite.py                              SAC and CrossQ, everything (a day)
    python benchmarks/model_free_suite.py --algos tqc --only dflex_ant/1
    python benchmarks/model_free_suite.py --dry-run                    what is left

Every run takes as many environment steps as ours, and at least ``--minutes`` of training, is evaluated as
often, and has a processor core of its own. Where the suite names a task's discount, agents have it, too.
What is in ``results/cpu_suite`` already is not repeated; an interrupted run begins anew. ``export_suite.py``
then makes tables and pictures of all that is stored.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from model_free import ALGORITHMS, SUITE, UNFINISHED, Job, finished

from pwm.errors import PwmError
from pwm.study.cells import Cell
from pwm.study.experiment_file import load_experiment
from pwm.study.plan import make_plan

SCRIPT = Path(__file__).with_name("model_free.py")
EVALUATIONS = 50
MINUTES = 20.0


def jobs(
    algorithms: Sequence[str], minutes: float, only: Sequence[str], overrides: Sequence[str]
) -> Iterator[Job]:
    """The runs, seeds outermost, so that after an interruption every task has been seen equally often.

    Args:
        algorithms: keys of ``ALGORITHMS``.
        minutes: of training at least.
        only: patterns ``TASK``, ``TASK/SEED`` with wildcards; none for all.
        overrides: of the experiment, as ``pwm experiment`` takes them.
    """
    plan = make_plan(load_experiment(["experiment=cpu_suite", *overrides]))
    cells = [cell for cell in plan.cells if cell.arm == plan.experiment.baseline]
    for seed in plan.experiment.seeds:
        for cell in cells:
            name = f"{cell.task}/{seed}"
            if only and not any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}/*") for p in only):
                continue
            for algorithm in algorithms:
                every = max(1, cell.steps // EVALUATIONS)
                yield Job(algorithm, task_argument(cell), seed, minutes, cell.steps, every, own_gamma(cell))


def task_argument(cell: Cell) -> str:
    """What ``model_free.py`` calls the task: a Gymnasium id, or a preset."""
    env = cell.config.env
    return str(getattr(env, "id", "")) or next(o for o in cell.overrides if o.startswith("env="))[4:]


def own_gamma(cell: Cell) -> float | None:
    """Return the discount that the suite gives to every agent on the task; None where each has its own."""
    named = [o.partition("=")[2] for o in cell.overrides if o.startswith("alg.gamma=")]
    return float(named[-1]) if named else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; returns 1 if a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the experiment: seeds=[1]")
    parser.add_argument("--algos", nargs="+", choices=ALGORITHMS, default=["sac", "crossq"])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of training, at least")
    parser.add_argument("--only", action="append", default=[], metavar="TASK/SEED", help="* for any")
    parser.add_argument("--jobs", type=int, help="runs at the same time (default: one per core)")
    parser.add_argument("--results", type=Path, default=SUITE, help="where finished runs go")
    parser.add_argument("--unfinished", type=Path, default=UNFINISHED, help="curves of running runs")
    parser.add_argument("--dry-run", action="store_true", help="print the commands of what is left")
    chosen = parser.parse_args(arguments)
    try:
        wanted = list(jobs(chosen.algos, chosen.minutes, chosen.only, chosen.overrides))
    except PwmError as error:
        print(f"model_free_suite: {error}", file=sys.stderr)
        return 2
    left = [job for job in wanted if not finished(job, chosen.results)]
    print(f"{len(wanted)} runs, {len(wanted) - len(left)} stored already", flush=True)
    if chosen.dry_run:
        print("\n".join(job.command for job in left))
        return 0
    folders = ["--results", str(chosen.results), "--unfinished", str(chosen.unfinished)]
    failed = run(left, folders, chosen.jobs)
    if failed:
        print(f"{failed} runs failed; the same command tries them again")
    return 1 if failed else 0


def run(left: Sequence[Job], folders: Sequence[str], at_a_time: int | None) -> int:
    """Run jobs in processes with a core each; returns how many failed."""
    cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0))[:at_a_time]:
        cores.put(core)

    def execute(job: Job) -> int:
        core = cores.get()
        try:
            command = ["taskset", "-c", str(core), sys.executable, str(SCRIPT), *job.arguments, *folders]
            return subprocess.run(command, check=False).returncode
        finally:
            cores.put(core)

    with ThreadPoolExecutor(max(1, cores.qsize())) as pool:
        return sum(code != 0 for code in pool.map(execute, left))


if __name__ == "__main__":
    sys.exit(main())
