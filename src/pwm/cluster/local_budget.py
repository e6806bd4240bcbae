"""How many runs this machine trains at a time within what it may use."""

from __future__ import annotations

from pwm.cluster.profiles import LocalProfile
from pwm.envs.engines.mujoco_cpu import usable_cores
from pwm.errors import ConfigError
from pwm.study.run_pool import visible_gpus


def runs_at_a_time(
    profile: LocalProfile, jobs: int | None, threads: int, device: str
) -> tuple[int, list[str]]:
    """How many runs fit into the budget, and the GPUs they share.

    Args:
        profile: the budget.
        jobs: a number that was asked for; None for as many as fit.
        threads: of one run.
        device: of all runs.

    Raises:
        ConfigError: not even one fits, or the number asked for is not positive.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs {jobs}; it must be at least 1")
    # A device with a number is the user's own choice.
    gpus = _gpus(profile) if device == "cuda" else []
    limits = []
    if profile.memory is not None and profile.memory_per_run is not None:
        limits.append(int(profile.memory // profile.memory_per_run))
        if not limits[0]:
            raise ConfigError(
                f"launch.memory={profile.memory:g} GB is not enough for one run of "
                f"launch.memory_per_run={profile.memory_per_run:g}"
            )
    if profile.cores is not None or device == "cpu":
        limits.append(max(1, (profile.cores or usable_cores()) // threads))
    if device != "cpu":
        limits.append(max(1, len(gpus)) * profile.runs_per_gpu)
    fitting = min(limits)
    return (fitting if jobs is None else jobs), gpus


def _gpus(profile: LocalProfile) -> list[str]:
    visible = visible_gpus()
    if profile.gpus is not None and profile.gpus > len(visible):
        raise ConfigError(f"launch.gpus={profile.gpus}; {len(visible)} can be used here")
    return visible[: profile.gpus]
