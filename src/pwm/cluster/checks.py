"""What a cluster would refuse, or leave in the queue for ever, found before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pwm.cluster.profiles import SlurmProfile, time_seconds
from pwm.cluster.slurm import Partition
from pwm.errors import ConfigError


def check_cluster(
    profile: SlurmProfile,
    partitions: Mapping[str, Partition],
    jobs: int,
    largest_array: int,
    threads: int,
    report: bool,
) -> None:
    """Refuse what no node of the cluster can do.

    Args:
        profile: what every job asks for.
        partitions: of the cluster.
        jobs: tasks of the array.
        largest_array: tasks that an array may have.
        threads: of one run.
        report: whether a report follows.

    Raises:
        ConfigError: every reason, one a line.
    """
    reasons = [
        *_unknown_partitions(profile, partitions),
        *_node_reasons(profile, _chosen(profile, profile.partition, partitions), threads),
        *_time_reasons("time", profile, _chosen(profile, profile.partition, partitions)),
    ]
    if report:
        where = _chosen(profile, profile.report_partition or profile.partition, partitions)
        reasons += _time_reasons("report_time", profile, where)
    if jobs > largest_array:
        reasons.append(
            f"{jobs} jobs are more than an array of this cluster may have ({largest_array}); let each train "
            "more runs with launch.runs_per_job, or make a part of them with --only"
        )
    if reasons:
        raise ConfigError("not submitted:\n  " + "\n  ".join(reasons))


def check_devices(profile: SlurmProfile, devices: Mapping[str, str]) -> None:
    """Refuse a GPU that nothing runs on, and runs on a GPU that nobody asks for.

    Args:
        profile: what every job asks for.
        devices: ``general.device`` by the title of each run.

    Raises:
        ConfigError: names the first such run.
    """
    for title, device in devices.items():
        if device != "cpu" and not profile.gpus:
            raise ConfigError(
                f"{title}: general.device={device}, but launch.gpus=0; ask for one: launch.gpus=1"
            )
        if device == "cpu" and profile.gpus:
            raise ConfigError(
                f"{title}: general.device=cpu, but launch.gpus={profile.gpus} would be idle; write "
                "general.device=cuda or launch.gpus=0"
            )


def _unknown_partitions(profile: SlurmProfile, partitions: Mapping[str, Partition]) -> Iterator[str]:
    for key in ("partition", "report_partition"):
        if unknown := set(_names(getattr(profile, key))) - set(partitions):
            yield (
                f"launch.{key}={getattr(profile, key)}: there is no partition {sorted(unknown)[0]}; "
                f"choose from: {', '.join(partitions)}"
            )


def _chosen(
    profile: SlurmProfile, partition: str | None, partitions: Mapping[str, Partition]
) -> list[Partition]:
    """The partitions that a job may get; empty where none of that name is known."""
    if partition is not None:
        return [partitions[name] for name in _names(partition) if name in partitions]
    # Where a GPU is asked for, the cluster may choose the partition by its kind.
    return [p for p in partitions.values() if p.default or profile.gpus] or list(partitions.values())


def _node_reasons(profile: SlurmProfile, chosen: list[Partition], threads: int) -> Iterator[str]:
    if not chosen:
        return
    where = ", ".join(p.name for p in chosen)
    if profile.gpus:
        yield from _gpu_reasons(profile, chosen, where)
    if (cpus := profile.runs_per_job * threads) > (most := max(p.cpus for p in chosen)):
        yield (
            f"a job of launch.runs_per_job={profile.runs_per_job} runs with {threads} threads each asks for "
            f"{cpus} processor cores; a node of {where} has {most}"
        )
    if profile.memory_per_run is not None:
        gigabytes = profile.memory_per_run * profile.runs_per_job
        if gigabytes * 1024 > (most := max(p.megabytes for p in chosen)):
            yield (
                f"launch.memory_per_run={profile.memory_per_run:g} GB for {profile.runs_per_job} runs is "
                f"more than the {most / 1024:.1f} GB that a node of {where} has"
            )


def _names(partition: str | None) -> list[str]:
    return partition.split(",") if partition else []


def _time_reasons(key: str, profile: SlurmProfile, chosen: list[Partition]) -> Iterator[str]:
    limits = [p.seconds for p in chosen if p.seconds is not None]
    if not chosen or len(limits) < len(chosen):
        return
    longest = max(limits)
    if time_seconds(key, asked := getattr(profile, key)) > longest:
        limit = f"{longest // 3600}:{longest // 60 % 60:02}:{longest % 60:02}"
        where = ", ".join(p.name for p in chosen)
        yield f"launch.{key}={asked} is above the limit of partition {where}, {limit}"


def _gpu_reasons(profile: SlurmProfile, chosen: list[Partition], where: str) -> Iterator[str]:
    found: dict[str, int] = {}
    for partition in chosen:
        for kind, count in partition.gpus.items():
            found[kind] = max(found.get(kind, 0), count)
    if not found:
        yield f"launch.gpus={profile.gpus}: no node of partition {where} has a GPU"
        return
    types = {kind.lower(): count for kind, count in found.items() if kind}
    wanted = profile.gpu_type
    if wanted and types and wanted.lower() not in types:
        yield f"launch.gpu_type={wanted}: partition {where} has {', '.join(kind for kind in found if kind)}"
        return
    most = types[wanted.lower()] if wanted and types else max(found.values())
    if profile.gpus > most:
        yield f"launch.gpus={profile.gpus} for one job; a node of {where} has {most}"
