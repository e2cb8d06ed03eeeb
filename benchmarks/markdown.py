"""Tables for pages of docs/, and putting them where they belong."""

import sys
from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table in Markdown."""
    cells = ([f" {cell} " if cell else " " for cell in line] for line in (head, *rows))
    first, *others = [f"|{'|'.join(line)}|" for line in cells]
    return "\n".join([first, "|" + "---|" * len(head), *others])


def section(about: Sequence[str], made: str) -> str:
    """A table below what it was made with, one line each."""
    return "\n".join(f"- {line}" for line in about) + f"\n\n{made}"


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks of this name on a page.

    Exits with a line that says what was expected if the marks are not there.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, opened, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        sys.exit(f"{page}: expected the lines {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
