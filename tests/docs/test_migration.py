"""Every row of docs/migration.md: what is said to work works, what is said to be refused is refused."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.configuration.predecessor_keys import ALIASES
from pwm.launch import cli
from pwm.launch.multitask import pretraining_overrides

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "migration.md"
BASE = "alg=pwm_48M_flow"
STATES = ("works", "replaced", "refused", "left out")
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
KEY = re.compile(r"(?:alg|general|env|wandb)\.[a-z][\w.]*")


class Row(NamedTuple):
    """One row: the part of the table it is in, code of its first two columns, and its note."""

    part: str
    original: str
    here: list[str]
    links: list[str]
    note: str

    @property
    def state(self) -> str:
        """First words of the note."""
        return next((state for state in STATES if self.note.startswith(state)), "")


def read_rows() -> Iterator[Row]:
    """Yield the rows of the table."""
    part = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("| ") or len(cells) != 3 or cells[0] == "original":
            if found := re.fullmatch(r"\| \*\*(.+)\*\* \| \| \|", line):
                part = found[1]
            continue
        links = LINK.findall(cells[1] + cells[2])
        yield Row(part, CODE.findall(cells[0])[0], CODE.findall(cells[1]), links, cells[2])


ROWS = list(read_rows())


def rows(*parts: str, states: tuple[str, ...] = STATES) -> Any:
    """Parametrise a test over the rows of ``parts`` in ``states``."""
    chosen = [row for row in ROWS if row.part in parts and row.state in states]
    return pytest.mark.parametrize("row", chosen, ids=[row.original for row in chosen])


def test_every_row_is_read_and_says_what_happens() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(lines) == len(ROWS) > 150
    assert {row.part for row in ROWS} == {
        "Files",
        "Modules, classes, functions",
        "Commands",
        "Presets",
        "Configuration keys",
        "Settings of Hydra",
    }
    assert [row.original for row in ROWS if not row.state or not (row.here or row.links)] == []


def test_every_link_of_the_table_leads_somewhere() -> None:
    missing = {link for row in ROWS for link in row.links if not (PAGE.parent / link).exists()}
    assert missing == set()


@rows("Files")
def test_files(row: Row) -> None:
    if row.state == "works" and not row.original.startswith(("logs/", "metrics.csv")):
        assert (ROOT / row.original).is_file()
    for text in row.here:
        if text.startswith("pwm "):
            check_command(text)


# --- names of Python ------------------------------------------------------------------------------


def named(path: str) -> Any:
    """Return the object at a dotted name.

    Raises:
        ImportError, AttributeError: there is none.
    """
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@rows("Modules, classes, functions")
def test_names(row: Row) -> None:
    found = [named(path) for path in row.here]
    assert found
    if row.state == "works":
        assert named(row.original) is found[0]
    elif row.original.startswith("pwm."):
        with pytest.raises((ImportError, AttributeError)):
            named(row.original)


# --- commands -------------------------------------------------------------------------------------


def composed(argv: list[str]) -> ExperimentConfig | None:
    """Configuration that a command of training has; None of any other command."""
    args = cli.parse_arguments(argv)
    if argv[0] == "train":
        return compose_config(args.overrides)
    return compose_config(pretraining_overrides(args.overrides)) if argv[0] == "pretrain" else None


def meaning(argv: list[str]) -> dict[str, Any]:
    """What a command does, whatever the order of its overrides."""
    config = composed(argv)
    if config is not None:
        return config.to_dict()
    values = dict(vars(cli.parse_arguments(argv)))
    if "overrides" in values:
        values["overrides"] = sorted(values["overrides"])
    return values


def check_command(text: str) -> None:
    """Parse a command of ``pwm``, and compose what it trains."""
    assert meaning(shlex.split(text)[1:])


def argv_of_python(words: list[str]) -> list[str]:
    """Arguments of ``pwm`` that a script of Python calls it with."""
    seen: list[list[str]] = []

    def main(argv: list[str]) -> int:
        seen.append(argv)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "main", main)
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    assert ended.value.code == 0
    return seen[0]


def argv_of_shell(words: list[str], folder: Path) -> list[str]:
    """Arguments of ``pwm`` that a shell script calls it with."""
    fake = folder / "pwm"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run(
        [bash, str(ROOT / words[0]), *words[1:]],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def script_argv(command: str, folder: Path) -> list[str]:
    """Arguments of ``pwm`` that a documented call of a script amounts to; empty for other commands."""
    words = shlex.split(command)
    if words[0] == "python" and words[1].startswith("scripts/"):
        return argv_of_python(words[1:])
    return argv_of_shell(words, folder) if words[0].startswith("scripts/") else []


@rows("Commands", states=("works", "replaced"))
def test_commands(row: Row, tmp_path: Path) -> None:
    words = shlex.split(row.original)
    if words[:2] == ["python", "-c"]:
        (imported,) = ast.parse(words[2]).body
        assert isinstance(imported, ast.ImportFrom)
        for alias, path in zip(imported.names, row.here, strict=True):
            assert named(f"{imported.module}.{alias.name}") is named(path)
        return
    ours = shlex.split(row.here[0])
    if ours[0] != "pwm":
        return
    check_command(row.here[0])
    if words[0] in ("python", "scripts/submit_job.sh") or words[0].startswith("scripts/slurm"):
        argv = script_argv(row.original, tmp_path)
        if row.state == "works":
            assert meaning(argv) == meaning(ours[1:])
        else:
            with pytest.raises(SystemExit):
                cli.parse_arguments(argv)


@rows("Commands", states=("refused",))
def test_refused_commands(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = script_argv(row.original, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main([word for word in argv if word != "general.run_wandb=True"]) == 2
    message = capsys.readouterr().err
    assert [text for text in row.here if text not in message] == []


# --- presets and keys -----------------------------------------------------------------------------


@functools.cache
def known_keys() -> set[str]:
    """Every key of a configuration with flow dynamics and a policy, with dots."""

    def flat(values: dict[str, Any], prefix: str) -> Iterator[str]:
        for key, value in values.items():
            yield prefix + key
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")

    config = compose_config([BASE, "env=dflex_ant"])
    return {*flat(config.to_dict(), ""), *ALIASES}


@rows("Presets", states=("works",))
def test_presets(row: Row) -> None:
    (command,) = row.here
    config = composed(shlex.split(command)[1:])
    assert config is not None
    assert f"alg={config.preset}" == row.original


@rows("Configuration keys", states=("works",))
def test_keys_that_work(row: Row) -> None:
    bases = [BASE] if "use_flow" not in row.original else ["alg=pwm_48M"]
    here, original = compose_config([*bases, *row.here]), compose_config([*bases, row.original])
    assert original.to_dict() == here.to_dict()


@rows("Presets", "Configuration keys", "Settings of Hydra", states=("refused",))
def test_what_is_refused_says_what_to_use(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    first = [] if row.part == "Presets" or row.original.startswith("env=") else [BASE]
    words = row.original.split(" ") if row.original.startswith("-") else [row.original]
    assert cli.main(["train", *words, *first]) == 2
    message = capsys.readouterr().err
    assert [text for text in row.here if text not in message] == []
    unknown = [text for text in row.here if KEY.fullmatch(text) and text not in known_keys()]
    assert unknown == []
