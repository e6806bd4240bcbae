"""Launch profiles, what is checked before submitting, and the scripts that come of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from pwm.cluster import slurm
from pwm.cluster.checks import check_cluster, check_devices
from pwm.cluster.local_budget import runs_at_a_time
from pwm.cluster.profiles import LocalProfile, SlurmProfile, load_profile, time_seconds, user_file
from pwm.cluster.scripts import array_script, report_script
from pwm.errors import ConfigError
from pwm.study import run_pool

# As sinfo prints them: two kinds of nodes in one partition, types of GPUs with and without sockets.
SINFO = """\
cpu*|1-00:00:00|24|192000|(null)
gpu-v100|16:00:00|24|386000|gpu:v100:2(S:0-1)
gpu-v100|16:00:00|12|192000|gpu:v100:1,nvme:1
gpu-any|infinite|64+|515000|gpu:4
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file of an empty home."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "pwm" / "launch.yaml"


def slurm_profile(*keys: str) -> SlurmProfile:
    profile = load_profile(["launch=slurm", *(f"launch.{key}" for key in keys)])
    assert isinstance(profile, SlurmProfile)
    return profile


# --- profiles --------------------------------------------------------------------------------------


def test_the_sites_values_come_between_profile_and_command_line(site: Path) -> None:
    site.parent.mkdir()
    site.write_text('phoenix: {account: gts-lab, time: "08:00:00", mail_user: me@example.org}\n')
    assert user_file() == site
    profile = load_profile(["launch=phoenix", "launch.time=1-00:00:00"])
    assert isinstance(profile, SlurmProfile)
    assert (profile.account, profile.seconds, profile.qos) == ("gts-lab", 86400, "inferno")
    assert isinstance(load_profile([]), LocalProfile)


def test_what_only_the_user_knows_is_asked_for_with_the_file_it_belongs_to(site: Path) -> None:
    with pytest.raises(ConfigError, match=r"launch=phoenix needs launch.account") as error:
        load_profile(["launch=phoenix"])
    assert str(site) in str(error.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("launch=lsf", "there is no such profile; choose from: local, phoenix, slurm"),
        ("launch.cpus=4", "unknown key launch.cpus"),
        ("launch.time=90", "write HH:MM:SS"),
        ("launch.time=00:00:00", "not zero"),
        ("launch.warning=100000", "must lie between 0 and launch.time=24:00:00"),
        ("launch.gpus=2", "1 would be idle"),
        ("launch.gpu_type=a100", "asks for no GPU"),
        ("launch.stage=[data]", "launch.scratch, which is not given"),
        ("launch.attempts=0", "launch.attempts=0; it must be positive"),
    ],
)
def test_a_profile_that_cannot_be_meant_is_refused(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_profile([key] if key.startswith("launch=") else ["launch=slurm", key])


@pytest.mark.parametrize("text", ["slurm: {time: 24:00:00}", "slurm: 3", "other: {account: a}", "{"])
def test_a_site_file_that_cannot_be_meant_is_refused(site: Path, text: str) -> None:
    site.parent.mkdir()
    # YAML reads 24:00:00 without quotes as a number of seconds, which SLURM would take for minutes.
    site.write_text(text)
    with pytest.raises(ConfigError):
        load_profile(["launch=slurm"])


def test_times_of_slurm_are_seconds() -> None:
    assert time_seconds("time", "2-01:30:05") == 2 * 86400 + 5405


# --- checks ----------------------------------------------------------------------------------------


def test_what_sinfo_prints_is_read_as_the_largest_node_of_each_partition() -> None:
    found = slurm.read_partitions(SINFO)
    assert found["cpu"] == slurm.Partition("cpu", True, 86400, 24, 192000, {})
    assert found["gpu-v100"].gpus == {"v100": 2}
    assert (found["gpu-v100"].cpus, found["gpu-v100"].megabytes) == (24, 386000)
    assert (found["gpu-any"].seconds, found["gpu-any"].gpus, found["gpu-any"].cpus) == (None, {"": 4}, 64)
    assert slurm.read_partitions("short|2:00|2|8192|(null)")["short"].seconds == 120


@pytest.mark.parametrize(
    ("keys", "threads", "message"),
    [
        (["partition=gpu"], 1, "there is no partition gpu; choose from: cpu, gpu-v100, gpu-any"),
        (["time=25:00:00"], 1, "launch.time=25:00:00 is above the limit of partition cpu, 24:00:00"),
        (["partition=gpu-v100", "gpus=4", "runs_per_job=4"], 1, "a node of gpu-v100 has 2"),
        (["partition=gpu-v100", "gpus=1", "gpu_type=A100"], 1, "partition gpu-v100 has v100"),
        (["partition=cpu", "gpus=1"], 1, "no node of partition cpu has a GPU"),
        (["runs_per_job=4"], 8, "asks for 32 processor cores; a node of cpu has 24"),
        (["memory_per_run=100", "runs_per_job=2"], 1, "more than the 187.5 GB"),
        (["report_time=30:00:00"], 1, "launch.report_time=30:00:00 is above the limit of partition cpu"),
        (["report_partition=small"], 1, "launch.report_partition=small: there is no partition small"),
    ],
)
def test_what_no_node_can_do_is_refused_with_the_reason(keys: list[str], threads: int, message: str) -> None:
    with pytest.raises(ConfigError, match="not submitted") as error:
        check_cluster(slurm_profile(*keys), slurm.read_partitions(SINFO), 4, 1000, threads, True)
    assert message in str(error.value)


def test_what_nodes_can_do_is_not_refused_and_all_reasons_come_at_once() -> None:
    partitions = slurm.read_partitions(SINFO)
    good = slurm_profile("partition=gpu-v100", "gpus=2", "gpu_type=V100", "runs_per_job=8", "time=16:00:00")
    check_cluster(good, partitions, 4, 1000, 2, False)
    # Without a partition the cluster chooses one that has such a GPU.
    check_cluster(slurm_profile("gpus=4", "runs_per_job=4", "time=16:00:00"), partitions, 4, 1000, 1, False)
    with pytest.raises(ConfigError) as error:
        check_cluster(slurm_profile("time=2-00:00:00", "runs_per_job=99"), partitions, 2000, 1000, 1, True)
    assert len(str(error.value).splitlines()) == 4


def test_a_gpu_that_nothing_would_use_is_refused_and_one_that_nobody_asks_for() -> None:
    check_devices(slurm_profile("gpus=1"), {"a": "cuda"})
    with pytest.raises(ConfigError, match="would be idle"):
        check_devices(slurm_profile("gpus=1"), {"a": "cuda", "b": "cpu"})
    with pytest.raises(ConfigError, match="ask for one"):
        check_devices(slurm_profile(), {"a": "cuda"})


def test_how_jobs_ended_is_asked_of_the_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The test node keeps no accounts; what the controller remembers instead is asked in test_slurm.py.
    sacct = tmp_path / "sacct"
    sacct.write_text(
        '#!/bin/sh\n[ "$6" = --jobs=12,13 ] && printf "12_0|TIMEOUT\\n12_1|CANCELLED by 0\\n13|FAILED\\n"'
    )
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.ended([13, 12, 12]) == {"12_0": "TIMEOUT", "12_1": "CANCELLED by 0", "13": "FAILED"}
    sacct.unlink()
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\necho "JobId=12 ArrayJobId=12 ArrayTaskId=2-3,5%2 JobState=CANCELLED ExitCode=0:0"\n'
        'echo "JobId=14 ArrayJobId=12 ArrayTaskId=0 JobState=FAILED ExitCode=1:0"\n'
    )
    scontrol.chmod(0o755)
    states = {"12_2": "CANCELLED", "12_3": "CANCELLED", "12_5": "CANCELLED", "12_0": "FAILED (exit code 1:0)"}
    assert slurm.ended([12]) == states
    # Neither of them is there: nothing is known, and nothing stops.
    scontrol.unlink()
    assert slurm.ended([12]) == {}


# --- scripts ---------------------------------------------------------------------------------------


def test_the_array_asks_for_what_the_profile_says(tmp_path: Path) -> None:
    profile = slurm_profile(
        "account=lab",
        "partition=gpu",
        "qos=free",
        "gpus=2",
        "gpu_type=V100",
        "runs_per_job=4",
        "max_running=3",
    )
    lines = array_script(profile, "pwm-x", tmp_path / "0001", 5, 2, tmp_path).splitlines()
    for option in (
        "--array=0-4%3",
        "--account=lab",
        "--partition=gpu",
        "--qos=free",
        "--gres=gpu:V100:2",
        "--cpus-per-task=8",
        "--time=24:00:00",
        "--signal=B:USR1@300",
        "--requeue",
        "--open-mode=append",
        f"--chdir={tmp_path}",
        f"--output={tmp_path}/0001/task_%a.txt",
    ):
        assert f"#SBATCH {option}" in lines
    assert not [line for line in lines if "mail" in line or "--mem" in line]


def test_environment_scratch_and_container_come_before_the_runs(tmp_path: Path) -> None:
    keys = [
        "modules=[cuda,anaconda3]",
        "setup=[conda activate pwm]",
        "scratch=$SCRATCH/fast disk",
        "stage=[data/mt30]",
    ]
    profile = slurm_profile(*keys, "container=/images/pwm.sif", "mail_user=me@x.org", "memory_per_run=1.5")
    text = array_script(profile, "pwm", tmp_path, 1, 1, tmp_path)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    places = [
        text.index(part)
        for part in (
            "#SBATCH --mem=1536M",
            "#SBATCH --mail-type=END,FAIL",
            "module load cuda anaconda3",
            "conda activate pwm",
            'export PWM_SCRATCH="$SCRATCH/fast disk"',
            '"data/mt30" "$PWM_SCRATCH/"',
            "apptainer exec /images/pwm.sif python -m pwm.launch.cli array-task",
        )
    ]
    assert places[2:] == sorted(places[2:])


def test_folders_are_staged_once_and_what_changed_again(tmp_path: Path) -> None:
    (tmp_path / "data" / "mt30").mkdir(parents=True)
    (tmp_path / "data" / "mt30" / "0.bin").write_text("old")
    profile = slurm_profile(f"scratch={tmp_path}/fast disk", "stage=[data/mt30]", "setup=[cd $HERE]")
    text = array_script(profile, "pwm", tmp_path, 1, 1, tmp_path).partition("child=")[0]
    copy = tmp_path / "fast disk" / "mt30" / "0.bin"

    def stage() -> None:
        environment = {"PATH": "/usr/bin:/bin", "HERE": str(tmp_path)}
        subprocess.run(["bash", "-c", text], env=environment, check=True)

    stage()
    before = copy.stat()
    stage()
    assert (copy.stat().st_ctime_ns, copy.read_text()) == (before.st_ctime_ns, "old")
    later = before.st_mtime + 10
    (tmp_path / "data" / "mt30" / "0.bin").write_text("new")
    os.utime(tmp_path / "data" / "mt30" / "0.bin", (later, later))
    stage()
    assert copy.read_text() == "new"


def test_the_report_needs_no_gpu_and_no_array(tmp_path: Path) -> None:
    profile = slurm_profile("gpus=1", "partition=gpu", "report_partition=cpu", "account=lab")
    text = report_script(profile, "pwm", tmp_path, ["experiment", "a=[b, c]", "--report-only"], tmp_path)
    assert "#SBATCH --partition=cpu" in text
    assert "gres" not in text
    assert "--array" not in text
    assert text.rstrip().endswith("-m pwm.launch.cli experiment 'a=[b, c]' --report-only")


def script_with(
    tmp_path: Path, child: str, *, state: str = "RUNNING", restarts: int = 0
) -> tuple[int, list[str]]:
    """Exit code of the array's script with another program, and what it asked of a stand-in for scontrol."""
    text = array_script(slurm_profile("attempts=3"), "pwm", tmp_path, 1, 1, tmp_path)
    start = text.index("& child=")
    begin = text.rindex("\n", 0, start) + 1
    script = tmp_path / "array.sh"
    script.write_text(f"{text[:begin]}{child} {text[start:]}")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho "JobState={state} Reason=None"\n'
    )
    (tools / "scontrol").chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_RESTART_COUNT": str(restarts)}
    environment |= {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "12"}
    code = subprocess.run(["bash", script], env=environment, check=False, capture_output=True).returncode
    asked = tmp_path / "asked"
    return code, asked.read_text().splitlines() if asked.exists() else []


REQUEUED = ["show job -o 12_3", "requeue 12_3"]


@pytest.mark.parametrize(
    ("child", "code", "asked"),
    [
        ("true", 0, []),
        ("sh -c 'exit 1'", 1, []),
        ("sh -c 'exit 75'", 75, REQUEUED),
        # The signal reaches the script alone; the runs get it from there, and take their time.
        (
            "bash -c 'trap \"sleep 0.3; exit 75\" USR1; kill -USR1 $PPID; while :; do sleep 0.05; done'",
            75,
            REQUEUED,
        ),
        # It came before the runs could take it over.
        ("sh -c 'kill -USR1 $$'", 138, REQUEUED),
        ("sh -c 'kill -KILL $$'", 137, []),
    ],
)
def test_exactly_the_task_that_was_preempted_is_requeued(
    tmp_path: Path, child: str, code: int, asked: list[str]
) -> None:
    assert script_with(tmp_path, child) == (code, asked)


def test_a_cancelled_task_and_one_without_attempts_left_are_not_requeued(tmp_path: Path) -> None:
    for name, options in (("a", {"state": "CANCELLED"}), ("b", {"restarts": 2})):
        (tmp_path / name).mkdir()
        _, asked = script_with(tmp_path / name, "sh -c 'exit 75'", **options)
        assert asked == REQUEUED[:1]


# --- this machine ----------------------------------------------------------------------------------


def test_as_many_runs_as_cores_and_memory_allow() -> None:
    assert runs_at_a_time(LocalProfile(cores=8), None, 2, "cpu") == (4, [])
    assert runs_at_a_time(LocalProfile(cores=8, memory=10, memory_per_run=3), None, 1, "cpu") == (3, [])
    assert runs_at_a_time(LocalProfile(cores=1), None, 4, "cpu") == (1, [])
    assert runs_at_a_time(LocalProfile(cores=8), 5, 1, "cpu") == (5, [])
    with pytest.raises(ConfigError, match="not enough for one run"):
        runs_at_a_time(LocalProfile(memory=2, memory_per_run=3), None, 1, "cpu")
    with pytest.raises(ConfigError, match="together"):
        load_profile(["launch.memory=4"])


def test_gpus_are_shared_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwm.cluster.local_budget.visible_gpus", lambda: ["2", "5", "7"])
    assert runs_at_a_time(LocalProfile(gpus=2, runs_per_gpu=3), None, 1, "cuda") == (6, ["2", "5"])
    assert runs_at_a_time(LocalProfile(), None, 1, "cuda") == (3, ["2", "5", "7"])
    assert runs_at_a_time(LocalProfile(), None, 1, "cuda:1") == (1, [])
    with pytest.raises(ConfigError, match="3 can be used here"):
        runs_at_a_time(LocalProfile(gpus=4), None, 1, "cuda")


class Job(SimpleNamespace):
    """What the pool asks of a job."""

    __hash__ = object.__hash__


def test_runs_of_one_job_share_its_gpus_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def start(arguments: object, threads: int, log: Path, gpu: str | None) -> subprocess.Popen[bytes]:
        seen.append(gpu)
        return subprocess.Popen(["sleep", "0.3"])

    monkeypatch.setattr(run_pool, "start_process", start)
    words = {"log": tmp_path / "log", "commands": lambda: [["train"]], "progress": lambda _: None}
    jobs = [Job(title=str(number), **words) for number in range(4)]
    ended: list[str] = []

    def report(job: Job, outcome: run_pool.JobOutcome) -> None:
        ended.append(outcome.state)

    run_pool.run_jobs(jobs, 4, 1, report, ["2", "5"])
    assert sorted(map(str, seen)) == ["2", "2", "5", "5"]
    assert ended == ["finished"] * 4
    # Without time nothing begins.
    outcomes = run_pool.run_jobs(jobs, 4, 1, report, seconds=0.0)
    assert {outcome.state for outcome in outcomes} == {"not started"}
