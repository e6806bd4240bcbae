"""What the command says of itself: help with examples, completion of a shell's line, findings as JSON."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.tiny import ANALYTIC, trained
from tests.unit.offline_data import write_store
from tests.unit.test_offline_data import CUP, PENDULUM, block

from pwm.launch.cli import COMPLETION, build_parser, main


def subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Parsers of all commands that do something; those above them only list them."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for parser_below in dict.fromkeys(action.choices.values()):
            yield from subcommands(parser_below)


COMMANDS = {parser.prog: parser for parser in subcommands(build_parser())}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_how_it_is_called(command: str) -> None:
    description = COMMANDS[command].description or ""
    assert re.search(rf"^ +{command} \S|^ +{command}$", description, re.MULTILINE), description


def completed(line: str, tmp_path: Path) -> list[str]:
    """Return what a shell is told when its line is ``line`` and Tab is pressed."""
    answer = tmp_path / "answer"
    asked = {
        COMPLETION: "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        # What bash takes for the end of a word; it replaces only what follows the last of them.
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><;|&(",
    }
    subprocess.run([sys.executable, "-m", "pwm.launch.cli"], env=os.environ | asked, check=True)
    return answer.read_text().split("\n")


@pytest.mark.parametrize(
    ("line", "some", "others"),
    [
        ("pwm ev", ["evaluate "], ["train"]),
        ("pwm train alg=pwm_small_f", ["alg=pwm_small_flow"], ["alg=pwm_small"]),
        ("pwm train dyn", ["dynamics=flow", "dynamics=mlp"], ["env=gym"]),
        ("pwm train alg=pwm_small_flow alg.dynamics.sub", ["alg.dynamics.substeps="], ["alg.gamma="]),
        ("pwm experiment experiment=flow_vs", ["experiment=flow_vs_mlp"], []),
        ("pwm evaluate --check", ["--checkpoint "], ["--seed"]),
    ],
)
def test_a_shell_can_complete_its_line(line: str, some: list[str], others: list[str], tmp_path: Path) -> None:
    found = completed(line, tmp_path)
    assert set(map(str.strip, some)) <= set(map(str.strip, found))
    assert not [word for word in found if word.strip() in others]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*argv: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([*argv, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def test_findings_of_a_run_as_json(tmp_path: Path, shown: Any) -> None:
    a = trained(tmp_path / "a", *ANALYTIC, "general.epochs=1")
    b = trained(tmp_path / "b", *ANALYTIC, "general.epochs=1", "general.seed=7")
    (result,) = shown("evaluate", str(a), "--episodes", "2")
    assert (result["checkpoint"], result["episodes"]) == ("best", 2)
    assert shown("diff", str(a), str(b), code=1)["identity"] == ["general.seed: 42 -> 7"]
    (run,) = shown("status", str(a))
    assert run["state"] == "finished"


def test_sizes_as_json(shown: Any) -> None:
    pair = ("--baseline", "pwm_5M", "--candidate", "pwm_5M_flow", "--obs-dim", "9", "--act-dim", "2")
    found = shown("parity", *pair)
    assert found["passed"]
    total = [sum(found[side].values()) for side in ("baseline", "candidate")]
    assert found["difference"] == pytest.approx(total[1] / total[0] - 1)


def test_a_data_set_as_json(tmp_path: Path, shown: Any) -> None:
    store = write_store(tmp_path / "d", [block(PENDULUM, 3, 4), block(CUP, 2, 7)])
    found = shown("data", "info", str(store))
    assert sum(task["transitions"] for task in found["tasks"].values()) == 3 * 4 + 2 * 7
    assert found["files"] > 0
    assert re.fullmatch("[0-9a-f]{64}", found["digest"])
