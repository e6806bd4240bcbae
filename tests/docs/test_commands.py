"""Every command that a document shows runs, or says why it cannot run in a test."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.documented import ROOT, blocks, make_workplace, run, without_pictures

# Chinese pages show the commands of the English ones, which tests/docs/test_guides.py compares.
PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if ".zh-TW." not in page.name and not {"archive", "examples"} & set(page.relative_to(ROOT).parts)
]
SHOWN = [page.relative_to(ROOT).as_posix() for page in PAGES if blocks(page)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a fresh checkout, in which the test works, with a home folder of its own."""
    folder = tmp_path / "flow-pwm"
    folder.mkdir()
    make_workplace(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    # What is submitted is only shown, and must not depend on the cluster that this machine may belong to.
    monkeypatch.setattr("pwm.cluster.slurm.installed", lambda: False)
    without_pictures(monkeypatch)
    return folder


@pytest.mark.slow  # `make test-commands` runs them, and so does .ci/run.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", SHOWN)
def test_the_commands_of_a_page_run(page: str, workplace: Path) -> None:
    for block in blocks(ROOT / page):
        if block.not_run is not None:
            assert block.not_run.strip(), "a block that is not run needs a reason"
            continue
        for line in block.given:
            assert run(line) == 0, line
        for line in block.commands:
            expected = block.exit_code if line is block.commands[-1] else 0
            assert run(line) == expected, line
