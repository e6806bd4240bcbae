"""What documents say of committed results is what the data say, and what they point to is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATTERNS = ("README*.md", "docs/*.md", "docs/guides/*.md", "results/**/*.md")
DOCUMENTS = [path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_tables_of_the_readme_are_those_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module("readme_tables")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.renewed(text, tables.tables()) == text, "run: python benchmarks/readme_tables.py"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_linked_files_exist(document: Path) -> None:
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (document.parent / target).exists()]


def test_figures_that_documents_quote_are_those_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    figures = importlib.import_module("prose_figures")
    quoted = [(page, found) for page, text in figures.pages() for found in figures.FIGURE.finditer(text)]
    assert len(quoted) >= 24
    drifted = [f"{page.name}: {found[0]}" for page, found in quoted if figures.renewed(found) != found[0]]
    assert not drifted, "run: python benchmarks/prose_figures.py --write"
    # What looks like a source and cannot be read would never be checked.
    sources = sum(len(re.findall(r"<!-- [^>]*\.csv", text)) for _, text in figures.pages())
    assert sources == len(quoted)


def test_a_figure_that_has_drifted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    figures = importlib.import_module("prose_figures")
    source = "cpu_suite/runs.csv task=dflex_ant algorithm=flow seed=1 : held_out_final"
    (wrong,) = figures.FIGURE.finditer(f"earned 4324<!-- {source} --> there")
    assert figures.renewed(wrong) == f"4325<!-- {source} -->"
    (unknown,) = figures.FIGURE.finditer(f"earned 4324<!-- {source.replace('ant', 'fly')} -->")
    with pytest.raises(ValueError, match="no such row"):
        figures.renewed(unknown)
