"""Make the pages of the site that are not in docs/: the start, the API, and files of the repository.

``mkdocs`` runs this through its plugin gen-files. README.md and its translation become pages, too. Links
from pages to other files of the repository (results, sources) would lead nowhere on a site, so these files
come along.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import mkdocs_gen_files

ROOT = Path(__file__).resolve().parents[1]
DOCS, PACKAGE = ROOT / "docs", ROOT / "src" / "pwm"
# Where files of the repository lie on the site.
FILES = "files"
# Pages made of files outside docs/.
STARTS = {ROOT / "README.md": "index.md", ROOT / "README.zh-TW.md": "index.zh-TW.md"}
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?\)")


def with_links(text: str, page: Path, place: PurePosixPath) -> str:
    """Return ``text`` of the file ``page`` with its links as they are at ``place`` on the site.

    Raises:
        ValueError: a link leads to nothing.
    """

    def moved(found: re.Match[str]) -> str:
        address, anchor = found[2], found[3] or ""
        if "://" in address or address.startswith("mailto:"):
            return found[0]
        target = (page.parent / address).resolve()
        if not target.exists():
            raise ValueError(f"{page}: {address} leads to nothing")
        up = "../" * (len(place.parts) - 1)
        if target.is_relative_to(DOCS):
            return f"{found[1]}{up}{target.relative_to(DOCS).as_posix()}{anchor})"
        if target in STARTS:
            return f"{found[1]}{up}{STARTS[target]}{anchor})"
        return f"{found[1]}{up}{copied(target)})"

    return LINK.sub(moved, text)


def copied(target: Path) -> str:
    """Put a file of the repository, or the list of a folder's files, on the site; returns its place there."""
    place = f"{FILES}/{target.relative_to(ROOT).as_posix()}"
    if target.is_dir():
        place += "/index.txt"
        content = "".join(f"{path.name}\n" for path in sorted(target.iterdir())).encode()
    else:
        # A page of Markdown would be rendered, and its own links followed.
        place = place.removesuffix(".md") + ".txt" if target.suffix == ".md" else place
        content = target.read_bytes()
    with mkdocs_gen_files.open(place, "wb") as file:
        file.write(content)
    return place


def write_page(page: Path, place: PurePosixPath) -> None:
    """Put a Markdown file on the site."""
    with mkdocs_gen_files.open(str(place), "w") as file:
        file.write(with_links(page.read_text(encoding="utf-8"), page, place))


def write_api() -> None:
    """Make a page for every room of the package, of all its public modules."""
    rooms: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(("pwm", *(part for part in parts if part != "__init__")))
        room = parts[0] if len(parts) > 1 else "pwm"
        if any(part.startswith("_") for part in parts if part != "__init__") or not path.read_text().strip():
            continue
        rooms.setdefault(room, []).append(name)
    for room, modules in rooms.items():
        with mkdocs_gen_files.open(f"api/{room}.md", "w") as file:
            file.write(f"# {room}\n\n" + "\n\n".join(f"::: {name}" for name in modules) + "\n")
    with mkdocs_gen_files.open("api/index.md", "w") as file:
        lines = [f"- [{room}]({room}.md)" for room in rooms]
        file.write("# API\n\nEvery public module, by the room it is in.\n\n" + "\n".join(lines) + "\n")


for readme, start in STARTS.items():
    write_page(readme, PurePosixPath(start))
for markdown in sorted(DOCS.rglob("*.md")):
    write_page(markdown, PurePosixPath(markdown.relative_to(DOCS).as_posix()))
write_api()
