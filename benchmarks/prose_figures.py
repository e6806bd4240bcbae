"""Compare the figures that documents quote from committed results with the results, or renew them.

    python benchmarks/prose_figures.py            names every figure that has drifted; exit code 1
    python benchmarks/prose_figures.py --write    writes the present values in their place

A figure is followed by a comment that readers do not see and that says where it comes from: a CSV file of
``results/``, the rows by the values of their columns, and the column; several rows give their median.

    earned 8779<!-- cpu_suite/runs.csv task=gym_HalfCheetah-v5 algorithm=residual : held_out_final -->

A factor behind the column changes the unit (``: train_time / 60``). A figure keeps its number of decimals.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from study_files import RESULTS, ROOT

from pwm.files import write_text

FIGURE = re.compile(
    r"(?P<shown>-?\d+(?:\.\d+)?)<!-- (?P<file>[\w/.]+\.csv) (?P<rows>[^:>]*): (?P<column>[\w/]+)"
    r"(?: / (?P<divisor>[\d.]+))? -->"
)
PAGES = ("README*.md", "docs/**/*.md", "results/**/*.md")


def value(found: re.Match[str]) -> float:
    """Return what the results say of one figure.

    Raises:
        ValueError: the file has no such row.
    """
    wanted = dict(word.split("=", 1) for word in found["rows"].split())
    with (RESULTS / found["file"]).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if wanted.items() <= row.items()]
    if not rows:
        raise ValueError(f"{found[0]}: {found['file']} has no such row")
    return statistics.median(float(row[found["column"]]) for row in rows) / float(found["divisor"] or 1)


def renewed(found: re.Match[str]) -> str:
    """Return a figure and its comment with the present value, at the precision of the shown one."""
    decimals = len(found["shown"].partition(".")[2])
    return f"{value(found):.{decimals}f}{found[0][len(found['shown']) :]}"


def pages() -> Iterator[tuple[Path, str]]:
    """Yield every document with its text."""
    for pattern in PAGES:
        for page in sorted(ROOT.glob(pattern)):
            yield page, page.read_text(encoding="utf-8")


def main() -> None:
    """Compare or renew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the present values")
    args = parser.parse_args()
    drifted = False
    for page, text in pages():
        for found in FIGURE.finditer(text):
            if (now := renewed(found)) != found[0]:
                drifted = True
                print(f"{page.relative_to(ROOT)}: {found[0]}, the results say {now.partition('<')[0]}")
        if args.write and (new := FIGURE.sub(renewed, text)) != text:
            write_text(page, new)
    sys.exit(1 if drifted and not args.write else 0)


if __name__ == "__main__":
    main()
