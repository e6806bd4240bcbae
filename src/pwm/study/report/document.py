"""A report as data, and the two forms it is written in: one HTML file, and Markdown with figures beside it.

Both forms are made from the same ``Document``, so that they cannot say different things. Text is plain: what
means something in HTML or Markdown is escaped.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

from pwm import packages

TEMPLATE = "report.html.j2"
# Beside the Markdown file.
FIGURES = "figures"


@dataclass(frozen=True)
class Mark:
    """A word in a table that stands out: good or bad news."""

    text: str
    good: bool


def passed_or_not(passed: bool) -> Mark:
    """Return PASS or FAIL."""
    return Mark("PASS" if passed else "FAIL", passed)


TableCell = str | Mark
# Titles of columns, each with what is in it.
Row = Sequence[tuple[str, TableCell]]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind = "text"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: list[str]
    kind = "bullets"


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    lines: list[str]
    kind = "commands"


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        rows: at least one, all with the same titles.
        notes: explain signs in the cells, below the table.
        names: how many of the first columns name the row.
        words: the other cells are words instead of numbers.
    """

    caption: str
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=list)
    names: int = 1
    words: bool = False
    kind = "table"

    @property
    def header(self) -> list[str]:
        """Titles of the columns."""
        return [title for title, _ in self.rows[0]]

    @property
    def cells(self) -> list[list[TableCell]]:
        """Cells below the titles, row by row."""
        return [[cell for _, cell in row] for row in self.rows]


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its file, without suffix.
        caption: below it.
        alt: what it shows, for those who cannot see it.
        content: the file.
        suffix: of its name: ``svg`` or ``png``.
        width, height: in CSS pixels.
    """

    name: str
    caption: str
    alt: str
    content: bytes
    suffix: str
    width: int
    height: int
    kind = "picture"

    @property
    def file(self) -> str:
        """Its name beside the Markdown file."""
        return f"{FIGURES}/{self.name}.{self.suffix}"

    @property
    def data_uri(self) -> str:
        """The whole file as an address."""
        kind = {"svg": "image/svg+xml", "png": "image/png"}[self.suffix]
        return f"data:{kind};base64,{base64.b64encode(self.content).decode()}"


Block = Text | Bullets | Commands | Table | Picture


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Its name in addresses."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: of the whole.
        summary: what it comes to, in sentences.
        sections: in order, with different titles.
    """

    title: str
    summary: list[str]
    sections: list[Section]

    @property
    def pictures(self) -> list[Picture]:
        """All figures, in order."""
        return [b for section in self.sections for b in section.blocks if isinstance(b, Picture)]

    @property
    def tables(self) -> list[Table]:
        """All tables, in order."""
        return [b for section in self.sections for b in section.blocks if isinstance(b, Table)]


def to_html(document: Document) -> str:
    """One HTML file that needs no other file, no script and no network.

    Raises:
        ConfigError: Jinja is not installed.
    """
    jinja = packages.optional("jinja2", "a report", "report")
    source = resources.files("pwm.study.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja.Environment(
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    numbers = _numbers(document)
    html: str = environment.from_string(source).render(
        document=document, number_of=lambda block: numbers[id(block)]
    )
    return html


def to_markdown(document: Document) -> str:
    """The same in Markdown (with tables as on GitHub), figures as files below ``FIGURES``."""
    numbers = _numbers(document)
    parts = [f"# {_escape(document.title)}", *(f"**{_escape(line)}**" for line in document.summary)]
    for section in document.sections:
        parts.append(f"## {_escape(section.title)}")
        parts += [_block(block, numbers) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _numbers(document: Document) -> dict[int, int]:
    """Numbers of tables and of figures, by the identity of the block."""
    groups: tuple[Sequence[Block], ...] = (document.tables, document.pictures)
    return {id(block): place for group in groups for place, block in enumerate(group, start=1)}


def _block(block: Block, numbers: dict[int, int]) -> str:
    if isinstance(block, Text):
        return _escape(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_escape(item)}" for item in block.items)
    if isinstance(block, Commands):
        # The fence is longer than any inside, so that no line can end it.
        fence = "`" * max([3, *(len(run) + 1 for line in block.lines for run in re.findall("`+", line))])
        return "\n".join([f"{fence}sh", *block.lines, fence])
    if isinstance(block, Picture):
        caption = f"*Figure {numbers[id(block)]}. {_escape(block.caption)}*"
        return f"![{_escape(block.alt)}]({block.file})\n\n{caption}"
    return _table(block, numbers[id(block)])


def _table(table: Table, place: int) -> str:
    aligned = ["---" if table.words or n < table.names else "---:" for n in range(len(table.header))]
    rows = [
        [_escape(cell) for cell in table.header],
        aligned,
        *(list(map(_cell, row)) for row in table.cells),
    ]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "\n".join(f"- {_escape(note)}" for note in table.notes)
    parts = [f"*Table {place}. {_escape(table.caption)}*", lines, notes]
    return "\n\n".join(part for part in parts if part)


def _cell(cell: TableCell) -> str:
    return f"**{_escape(cell.text)}**" if isinstance(cell, Mark) else _escape(cell)


def _escape(text: str) -> str:
    """``text`` on one line, with what means something in Markdown made plain."""
    flat = " ".join(text.split())
    flat = re.sub(r"([\\`*\[\]|#])", r"\\\1", flat)
    # Inside a word an underscore means nothing.
    flat = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", flat)
    # What would start a list.
    flat = re.sub(r"^([-+])(?=\s)", r"\\\1", flat)
    flat = re.sub(r"^(\d+)\.(?=\s)", r"\1\\.", flat)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("~", "&#126;")
