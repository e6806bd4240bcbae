"""``environment.yaml`` makes the environment that pyproject.toml and constraints.txt describe."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SELF = re.compile(r"-e \.(?:\[([\w,-]+)\])?")


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "environment.yaml").read_text())


@pytest.fixture(scope="module")
def pip_lines(environment: dict[str, Any]) -> list[str]:
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    return pip


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in found}


def requirements(extras: list[str]) -> list[Requirement]:
    """What the package needs with ``extras``, its own extras resolved."""
    needed = [Requirement(text) for text in PROJECT["dependencies"]]
    waiting = list(extras)
    while waiting:
        for text in PROJECT["optional-dependencies"][waiting.pop()]:
            requirement = Requirement(text)
            if canonicalize_name(requirement.name) == PROJECT["name"]:
                waiting += requirement.extras
            else:
                needed.append(requirement)
    return needed


def test_python_is_the_one_that_the_versions_are_tested_with(environment: dict[str, Any]) -> None:
    (python,) = [entry for entry in environment["dependencies"] if str(entry).startswith("python=")]
    version = python.removeprefix("python=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert f"tested together on Python {version}" in (ROOT / "constraints.txt").read_text().splitlines()[0]


def test_conda_brings_python_and_pip_alone(environment: dict[str, Any]) -> None:
    names = [entry.split("=")[0] for entry in environment["dependencies"] if isinstance(entry, str)]
    assert names == ["python", "pip"]


def test_pip_installs_this_package_with_the_pinned_versions(pip_lines: list[str]) -> None:
    assert pip_lines[0] == "-c constraints.txt"
    (package,) = pip_lines[1:]
    found = SELF.fullmatch(package)
    assert found is not None
    extras = (found[1] or "").split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    pinned = pins()
    for requirement in requirements(extras):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not pinned"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} contradicts {pinned[name]}"
