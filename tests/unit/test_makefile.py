"""What the Makefile installs, and when; a script stands in for Python, so that nothing is fetched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNTIME, EVERYTHING = "install -e . -c constraints.txt", "install -e .[dev] -c constraints.txt"
DEMO, TEST = "examples/demo.py", "-m pytest -n 2 --dist worksteal"

# It writes down what it is asked for. Where there is a file `fail` pip fails; where there is `wait` it waits.
PYTHON = r"""#!/bin/sh
[ "$1" != -u ] || shift
case "$1 $2" in
  "-c "*) ;;
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "venv $3" >> calls ;;
  "-m pip")
    [ "$3" = install ] || exit 0
    shift 2
    echo "$(echo "$*" | sed 's/--disable-pip-version-check //')" >> calls
    while [ -e wait ]; do sleep 0.02; done
    [ ! -e fail ] || { echo "ERROR: no such package" >&2; exit 1; }
    echo "Collecting torch>=2.8 (from flow-pwm==0.1.0)"
    echo "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (31 kB)"
    echo "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (190.1 MB)"
    echo "Processing /some/folder/numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (from flow-pwm==0.1.0)"
    echo "Requirement already satisfied: tqdm>=4.66 in ./somewhere (4.70.1)"
    echo "Installing collected packages: numpy, torch, flow-pwm"
    echo "Successfully installed flow-pwm-0.1.0" ;;
  *) echo "$*" >> calls ;;
esac
"""


def environment() -> dict[str, str]:
    """Variables for a make of its own, without those of the one that may have started the tests."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MAKE") and name not in ("ARGS", "JOBS", "ONLY", "PYTHON")
    }


class Project:
    """A folder with the Makefile and what its rules depend on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "Makefile", folder)
        for name in ("pyproject.toml", "constraints.txt"):
            (folder / name).write_text("mujoco==3.3.0\nnumpy==2.4.6\n")
        python = folder / "python"
        python.write_text(PYTHON)
        python.chmod(0o755)

    def start(self, target: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["make", target, f"PYTHON={self.folder / 'python'}"],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def make(self, target: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of ``make target``."""
        process = self.start(target)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        """What Python was asked for since the last call, without the demo's and the tests' own arguments."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.strip() for line in lines]

    def installing(self, target: str) -> subprocess.Popen[str]:
        """``make target`` that has come to pip's work and stays there while there is a file ``wait``."""
        (self.folder / "wait").touch()
        process = self.start(target)
        calls = self.folder / "calls"
        while not calls.exists() or "install" not in calls.read_text():
            time.sleep(0.02)
        return process


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    (tmp_path / "wait").unlink(missing_ok=True)


def changed_ago(path: Path, seconds: float) -> None:
    """Let ``path`` have been changed so many seconds ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_the_demo_installs_what_it_needs_once(project: Project) -> None:
    assert project.make("demo")[0] == 0
    assert project.calls() == ["venv .venv", RUNTIME, DEMO]
    assert project.make("demo")[0] == 0
    assert project.calls() == [DEMO]


def test_tests_add_the_rest(project: Project) -> None:
    project.make("demo")
    project.calls()
    assert project.make("test")[0] == 0
    assert project.calls() == [EVERYTHING, TEST]
    project.make("test")
    project.make("demo")
    assert project.calls() == [TEST, DEMO]


def test_the_demo_after_the_tests_installs_nothing(project: Project) -> None:
    project.make("test")
    assert project.calls() == ["venv .venv", RUNTIME, EVERYTHING, TEST]
    project.make("demo")
    assert project.calls() == [DEMO]


def test_slow_tests_add_meta_world(project: Project) -> None:
    project.make("test")
    project.calls()
    assert project.make("test-slow")[0] == 0
    assert project.calls() == [
        "install -e .[metaworld] -c constraints.txt",
        "-m pytest -m slow --timeout 3600",
    ]
    project.make("test")
    project.make("test-slow")
    assert project.calls() == [TEST, "-m pytest -m slow --timeout 3600"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed_by_whoever_needs_them(project: Project, name: str) -> None:
    project.make("test")
    project.calls()
    for path in (project.folder, project.folder / ".venv"):
        for file in path.iterdir():
            changed_ago(file, 100.0)
    changed_ago(project.folder / name, 50.0)
    (project.folder / ".venv" / "kept").touch()
    project.make("demo")
    assert project.calls() == [RUNTIME, DEMO]
    project.make("test")
    assert project.calls() == [EVERYTHING, TEST]
    assert (project.folder / ".venv" / "kept").exists()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_an_installation_that_fails_is_begun_anew(project: Project, target: str) -> None:
    (project.folder / "fail").touch()
    code, _, err = project.make(target)
    assert code != 0
    assert "ERROR: no such package" in err
    assert project.calls() == ["venv .venv", RUNTIME]
    (project.folder / "fail").unlink()
    code, out, _ = project.make("demo")
    assert code == 0
    assert "was not completed: starting over" in out
    assert project.calls() == ["venv .venv", RUNTIME, DEMO]


def test_the_demo_does_not_use_what_an_interruption_left(project: Project) -> None:
    project.make("demo")
    project.calls()
    process = project.installing("test")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (project.folder / "wait").unlink()
    assert project.calls() == [EVERYTHING]
    assert project.make("demo")[0] == 0
    assert project.calls() == ["venv .venv", RUNTIME, DEMO]


def test_two_do_not_install_into_one_environment(project: Project) -> None:
    first = project.installing("demo")
    code, _, err = project.make("test")
    assert code != 0
    assert f"process {first.pid} is installing into .venv; wait for it" in err
    (project.folder / "wait").unlink()
    first.communicate(timeout=30)
    assert first.returncode == 0
    assert project.calls() == ["venv .venv", RUNTIME, DEMO]


def test_a_log_gets_one_line_per_package(project: Project) -> None:
    out = project.make("demo")[1].splitlines()
    start = out.index("Installing into .venv") + 1
    assert out[start : start + 3] == ["  torch 2.13.0 (190.1 MB)", "  numpy 2.4.6", "  unpacking 3 packages"]


def test_a_terminal_gets_what_pip_says(project: Project) -> None:
    screen, end = os.openpty()
    process = subprocess.Popen(
        ["make", "demo", f"PYTHON={project.folder / 'python'}"],
        cwd=project.folder,
        env=environment(),
        stdout=end,
        stderr=end,
    )
    assert process.wait(timeout=30) == 0
    os.close(end)
    shown = os.read(screen, 65536).decode()
    os.close(screen)
    assert "Requirement already satisfied: tqdm" in shown
    assert "Installing collected packages: numpy, torch, flow-pwm" in shown


def test_the_newest_mujoco_is_not_held_back(project: Project) -> None:
    for _ in range(2):
        assert project.make("test-newest")[0] == 0
        venv, install, *_ = project.calls()
        assert venv == "venv .venv-newest"
        assert " mujoco " in install
        assert install.endswith("-c .venv-newest/constraints.txt")
    assert (project.folder / ".venv-newest" / "constraints.txt").read_text() == "numpy==2.4.6\n"
    assert not (project.folder / ".venv").exists()
