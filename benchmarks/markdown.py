"""Tables in Markdown, and their place in the pages of docs/."""

import sys
from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table in Markdown."""
    cells = ([f" {cell} " if cell else " " for cell in line] for line in (head, *rows))
    first, *others = [f"|{'|'.join(line)}|" for line in cells]
    return "\n".join([first, "|" + "---|" * len(head), *others])


def section(about: Sequence[str], made: str) -> str:
    """A table, below the lines that say how it was made."""
    return "\n".join(f"- {line}" for line in about) + f"\n\n{made}"


def put(page: Path, name: str, text: str) -> None:
    """Replace the text between the two marks of this name on a page.

    Exits with a line that names the marks if they are missing.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, opened, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        sys.exit(f"{page}: expected the lines {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
