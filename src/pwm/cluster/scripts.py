"""The scripts that `sbatch` gets: one for the array of all runs, one for the report after it.

The array's script starts `pwm array-task`, hands signals on to it and, when it says that its runs have saved
and are not done (exit code 75), puts exactly this task back into the queue.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pwm.cluster.profiles import SlurmProfile
from pwm.runs.preemption import EXIT_CODE

ARRAY_BODY = """\
child= received=
take() {{ received=$1; [ -z "$child" ] || kill -s "$1" "$child"; }}
trap 'take USR1' USR1
trap 'take TERM' TERM
{command} "$SLURM_ARRAY_TASK_ID" & child=$!
[ -z "$received" ] || kill -s "$received" "$child"
# A signal interrupts `wait`, so that it is repeated until the process itself has ended.
while true; do
  received=; wait "$child"; ended=$?
  [ "$ended" = 127 ] || code=$ended
  [ -n "$received" ] || break
done
# Ended by the signal itself it has not begun yet: Python had not taken the signal over.
case "$code" in
  {preempted} | $((128 + $(kill -l USR1))) | $((128 + $(kill -l TERM)))) again=yes ;;
  *) again= ;;
esac
if [ -n "$again" ]; then
  # The number of the array alone would stand for all of its tasks.
  task="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
  state=$(timeout {timeout} scontrol show job -o "$task" | grep -o 'JobState=[A-Z_]*')
  if [ "$state" != JobState=RUNNING ]; then
    echo "pwm: $task is not requeued: ${{state:-SLURM does not answer}}"
  elif [ "${{SLURM_RESTART_COUNT:-0}}" -ge {restarts} ]; then
    echo "pwm: $task is not requeued: launch.attempts={attempts}"
  else
    echo "pwm: $task is requeued"
    timeout {timeout} scontrol requeue "$task" || echo "pwm: scontrol failed; submit again to continue"
  fi
fi
exit "$code"
"""


def array_script(
    profile: SlurmProfile, name: str, folder: Path, jobs: int, threads: int, working_folder: Path
) -> str:
    """Script of the array.

    Args:
        profile: what a job asks for.
        name: of the jobs.
        folder: of the submission; the array's plan lies in it, and the output of its tasks goes there.
        jobs: tasks of the array.
        threads: of one run.
        working_folder: in which relative paths of the runs begin.
    """
    at_once = f"%{profile.max_running}" if profile.max_running else ""
    options = {
        "job-name": name,
        "array": f"0-{jobs - 1}{at_once}",
        "partition": profile.partition,
        "time": profile.time,
        "cpus-per-task": profile.runs_per_job * threads,
        "mem": _megabytes(profile, profile.runs_per_job),
        "gres": _gres(profile),
        "signal": f"B:USR1@{profile.warning}",
        "output": folder / "task_%a.txt",
    }
    body = ARRAY_BODY.format(
        command=_pwm(profile, "array-task", str(folder / "plan.json")),
        preempted=EXIT_CODE,
        timeout=profile.requeue_timeout,
        attempts=profile.attempts,
        restarts=profile.attempts - 1,
    )
    return _script(profile, options, working_folder, ["--requeue"], [*_staging(profile), body])


def report_script(
    profile: SlurmProfile, name: str, folder: Path, arguments: Sequence[str], working_folder: Path
) -> str:
    """Script of the job that writes the report of what there is: ``pwm`` with ``arguments``."""
    options = {
        "job-name": f"{name}-report",
        "partition": profile.report_partition or profile.partition,
        "time": profile.report_time,
        "cpus-per-task": 1,
        "mem": _megabytes(profile, 1),
        "output": folder / "report.txt",
    }
    return _script(profile, options, working_folder, [], [f"exec {_pwm(profile, *arguments)}\n"])


def _script(
    profile: SlurmProfile,
    options: Mapping[str, object],
    working_folder: Path,
    flags: Sequence[str],
    body: Sequence[str],
) -> str:
    shared = {
        "account": profile.account,
        "qos": profile.qos,
        "mail-user": profile.mail_user,
        "mail-type": ",".join(profile.mail_type) if profile.mail_user else None,
        "chdir": working_folder,
    }
    given = [f"--{key}={_quoted(value)}" for key, value in {**options, **shared}.items() if value is not None]
    # A task that continues adds to the output of its earlier attempts.
    lines = [f"#SBATCH {option}" for option in (*given, "--open-mode=append", *flags, *profile.options)]
    modules = [f"module load {shlex.join(profile.modules)}"] if profile.modules else []
    return "\n".join(["#!/bin/bash", *lines, "", *modules, *profile.setup, *body])


def _staging(profile: SlurmProfile) -> list[str]:
    """Shell lines that fill the scratch folder; tasks that share it do so one after the other."""
    if profile.scratch is None:
        return []
    lines = [f"export PWM_SCRATCH={_path(profile.scratch)}", 'mkdir -p "$PWM_SCRATCH" || exit 1']
    for folder in profile.stage:
        # Only what is missing there or older is copied.
        copy = f'cp -ru --preserve=timestamps {_path(folder)} "$PWM_SCRATCH/"'
        lines.append(f'flock "$PWM_SCRATCH/.lock" {copy} || exit 1')
    return lines


def _pwm(profile: SlurmProfile, *arguments: str) -> str:
    python = [sys.executable]
    if profile.container:
        gpu = ["--nv"] if profile.gpus else []
        python = ["apptainer", "exec", *gpu, os.path.expanduser(profile.container), "python"]
    return shlex.join([*python, "-m", "pwm.launch.cli", *arguments])


def _megabytes(profile: SlurmProfile, runs: int) -> str | None:
    return None if profile.memory_per_run is None else f"{round(profile.memory_per_run * runs * 1024)}M"


def _gres(profile: SlurmProfile) -> str | None:
    if not profile.gpus:
        return None
    return ":".join(["gpu", *filter(None, [profile.gpu_type]), str(profile.gpus)])


def _quoted(value: object) -> str:
    """As a value of ``#SBATCH``, which knows double quotes."""
    text = str(value)
    return f'"{text}"' if " " in text else text


def _path(text: str) -> str:
    """For the shell, where ``~`` and variables mean what they do there."""
    home, rest = ("~/", text[2:]) if text.startswith("~/") else ("", text)
    return f'{home}"{rest}"' if rest else "~"
