"""What memory there is: that of the machine, or what a container or batch system leaves of it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from pwm.configuration.building import build_env
from pwm.configuration.config import compose_config
from pwm.errors import ConfigError
from pwm.training.trainers.online import memory

CPU = torch.device("cpu")


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    return tmp_path


def test_without_limits_it_is_the_machines(groups: Path) -> None:
    before = psutil.virtual_memory().total
    assert 0 < memory.available_memory(CPU) <= before
    (groups / "own").write_text("0::/job\n")
    group(groups / "cgroup" / "job", memory__max="max\n", memory__current="5\n", memory__stat="anon 5\n")
    assert 0 < memory.available_memory(CPU) <= before


def test_the_tightest_group_counts_and_cached_files_are_free(groups: Path) -> None:
    (groups / "own").write_text("0::/batch/job\n")
    top = groups / "cgroup"
    group(
        top / "batch" / "job",
        memory__max="9000\n",
        memory__current="1000\n",
        memory__stat="inactive_file 0\n",
    )
    for name, text in {"max": "5000\n", "current": "3500\n", "stat": "anon 1\ninactive_file 500\n"}.items():
        (top / "batch" / f"memory.{name}").write_text(text)
    assert memory.available_memory(CPU) == 5000 - 3500 + 500


def test_limits_of_the_first_version_are_read(groups: Path) -> None:
    (groups / "own").write_text("5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    folder = groups / "cgroup" / "memory" / "job"
    group(
        folder,
        memory__limit_in_bytes="7000\n",
        memory__usage_in_bytes="6000\n",
        memory__stat="total_inactive_file 10\n",
    )
    assert memory.available_memory(CPU) == 1010


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        (5150, "alg.buffer_size=5100 fits"),
        # The smallest buffer has 64 * (18 + 2) rows, which is more than the two digits of what fits.
        (1288, "alg.buffer_size=1280 fits"),
        (1279, "no size of it fits"),
        (-9, "no size of it fits"),
    ],
)
def test_the_size_that_is_named_fits_and_is_allowed(
    rows: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["alg.num_envs=64", "alg.horizon=18", "alg.wm_batch_size=4", "alg.buffer_size=1000000"]
    config = compose_config(["env=analytic", "alg=pwm_small_h16", *sizes])
    env = build_env(config, 64, 0, CPU)
    numbers = env.spec.obs_dim * (2 * 64 * (env.spec.episode_length + 1) + 4 * 19 + 64 * 18)
    row = memory.FLOAT * (env.spec.obs_dim + env.spec.act_dim + 2) + memory.ROW
    available = int(((rows + 0.5) * row + memory.FLOAT * numbers) / 0.9)
    monkeypatch.setattr(memory, "available_memory", lambda device: available)
    with pytest.raises(ConfigError, match=rf"^alg\.buffer_size=1000000 does not fit .*; {advice}$"):
        memory.check_memory(config.alg, env, env)
