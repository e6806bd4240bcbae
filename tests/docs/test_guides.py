"""The guides in Traditional Chinese say what the English ones say: same headings, code and commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.documented import ROOT

CHINESE = ".zh-TW.md"
GUIDES = ROOT / "docs" / "guides"
SECTIONS = {"flow-dynamics-comparison-guide": 12, "cluster-guide": 11}
NAMES = {"QUICKSTART", "multitask-guide", "implementation-summary", *SECTIONS}
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
IDEOGRAPH = re.compile(r"[\u4e00-\u9fff]")
# Characters that Traditional Chinese does not use.
SIMPLIFIED = "这个们来时会对说学习训练数据结构为与从后开关动态损图应进还过现实验证环观测设经网络节点层"
PAIRS = [ROOT / "README", *(GUIDES / name for name in sorted(NAMES))]


def text(page: Path, end: str) -> str:
    """Return the text of a page in one of its languages."""
    return page.with_name(page.name + end).read_text(encoding="utf-8")


def outline(page: str) -> list[int]:
    """Return the levels of a page's headings, in order."""
    return [len(marks) for marks, _ in HEADING.findall(FENCE.sub("", page))]


def test_every_guide_is_there_in_both_languages() -> None:
    found = {path.name for path in GUIDES.glob("*.md")}
    assert found == {f"{name}{end}" for name in NAMES for end in (".md", CHINESE)}


@pytest.mark.parametrize("page", PAIRS, ids=lambda page: page.name)
def test_both_languages_have_one_structure(page: Path) -> None:
    english, chinese = text(page, ".md"), text(page, CHINESE)
    assert outline(chinese) == outline(english)
    numbers = [re.findall(r"^## (\d+)\.", body, re.MULTILINE) for body in (english, chinese)]
    assert numbers[0] == numbers[1]
    assert numbers[0] == [str(n + 1) for n in range(SECTIONS.get(page.name, len(numbers[0])))]
    blocks = [FENCE.findall(body) for body in (english, chinese)]
    assert [kind for kind, _ in blocks[1]] == [kind for kind, _ in blocks[0]]
    commands = [[code for kind, code in found if kind == "sh"] for found in blocks]
    assert commands[1] == commands[0]


@pytest.mark.parametrize("page", PAIRS, ids=lambda page: page.name)
def test_the_languages_link_to_each_other(page: Path) -> None:
    for end, other in ((".md", CHINESE), (CHINESE, ".md")):
        first = [line for line in text(page, end).splitlines() if line][1]
        assert f"]({page.name}{other})" in first, first


@pytest.mark.parametrize("page", PAIRS, ids=lambda page: page.name)
def test_chinese_is_traditional(page: Path) -> None:
    chinese = text(page, CHINESE)
    assert len(IDEOGRAPH.findall(chinese)) > 500
    assert not set(SIMPLIFIED) & set(chinese)
