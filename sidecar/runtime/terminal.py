"""Output for people: tables that fit the terminal, and colours only where it supports them.

A table that is too wide first shortens its ids in the middle, then drops columns, and finally is
printed line by line. No two ids are shortened to the same text. `--wide` and pipes get everything.

Acts: os, shutil.
"""

import os
import shutil
import sys
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import accumulate

from rich.box import HEAVY_HEAD
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_LEAST = 24  # minimum width, in characters, of folded text and of a shortened id
_END = 3  # minimum characters that a shortened id keeps of each end
_COLOURLESS = ("dumb", "unknown")

Cell = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a grid.

    A column without `worth` is always shown; of the others, the one with the least is dropped
    first. `folds`: its text may be broken into lines. `shortens`: it holds ids, and long ones may
    lose their middle. Otherwise its text is never cut.
    """

    title: str
    worth: int | None = None
    folds: bool = False
    shortens: bool = False


@dataclass(frozen=True, slots=True)
class Ends:
    """How many characters are kept of each end of an id that is longer than both and a `…`.

    A wide character counts as two.
    """

    head: int
    tail: int

    def of(self, text: str) -> str:
        """An id, whole or without its middle; of several lines, each line separately."""
        return "\n".join(map(self._of_line, text.split("\n")))

    def differ(self, ids: Set[str]) -> bool:
        """Whether all ids remain distinct."""
        return len(set(map(self.of, ids))) == len(ids)

    def _of_line(self, line: str) -> str:
        if cell_len(line) <= self.head + 1 + self.tail:
            return line
        first = bisect_right(list(accumulate(map(cell_len, line))), self.head)
        last = bisect_right(list(accumulate(map(cell_len, reversed(line)))), self.tail)
        return f"{line[:first]}…{line[len(line) - last :]}"


def ends(ids: Set[str], longest: int) -> Ends | None:
    """What to keep of ids that get at most `longest` characters, 7 or more.

    Both ends equally, or more of the end where they differ. None if two would look the same.
    """
    kept = longest - 1
    tails = sorted(range(_END, kept - _END + 1), key=lambda tail: abs(kept - 2 * tail))
    tried = (Ends(kept - tail, tail) for tail in tails)
    return next((each for each in tried if each.differ(ids)), None)


@dataclass(frozen=True, slots=True)
class Layout:
    """What fits of a grid: columns, by their numbers, and how much of each id."""

    columns: tuple[int, ...]
    ends: Ends


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of cells to be shown at some width; a `boxed` one has lines between the columns.

    A width is in characters; None is unlimited.
    """

    columns: Sequence[Column]
    boxed: bool = True
    rows: list[tuple[Text, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row. Text of a cell is literal, not markup."""
        row = (cell if isinstance(cell, Text) else Text(cell) for cell in cells)
        self.rows.append(tuple(row))

    def fitting(self, width: int | None) -> Layout | None:
        """What fits; None if not even the columns without `worth` do."""
        chosen = list(range(len(self.columns)))
        widest = [self._widest(number) for number in chosen]
        while (found := self._ends(chosen, widest, width)) is None:
            worths = [(worth, n) for n in chosen if (worth := self.columns[n].worth) is not None]
            if not worths:
                return None
            chosen.remove(min(worths)[1])
        return Layout(tuple(chosen), found)

    def shown(self, width: int | None) -> RenderableType:
        """The grid at a width: as a table, or line by line where none fits."""
        layout = self.fitting(width)
        return self._records(width) if layout is None else self._table(layout)

    def note(self, width: int | None) -> str:
        """The note below the grid about what is not shown; empty if everything is."""
        layout = self.fitting(width)
        every = range(len(self.columns))
        shown, kept = (layout.columns, layout.ends) if layout else (every, self._line(width))
        missing = [self.columns[number].title for number in every if number not in shown]
        short = any(kept.of(each) != each for each in self._ids(shown))
        if missing:
            whole = ", with whole ids" if short else ""
            return f"left out for want of room: {', '.join(missing)}; --wide shows all{whole}"
        return "--wide shows whole ids" if short else ""

    def natural(self) -> int:
        """The width, in characters, at which nothing is folded or cut."""
        every = range(len(self.columns))
        return sum(map(self._widest, every)) + self._between(len(self.columns))

    def _ends(self, chosen: Sequence[int], widest: Sequence[int], width: int | None) -> Ends | None:
        """What to keep of ids so that these columns fit; None if they cannot, or ids get equal."""
        longest = max(_LEAST, *(widest[n] for n in chosen if self.columns[n].shortens), 0)
        between = self._between(len(chosen))
        while width is not None and longest >= _LEAST:
            least = (self._least(n, widest[n], longest) for n in chosen)
            if between + sum(least) <= width:
                break
            longest -= 1
        return ends(self._ids(chosen), longest) if longest >= _LEAST else None

    def _least(self, number: int, widest: int, longest: int) -> int:
        column = self.columns[number]
        if column.shortens:
            return max(cell_len(column.title), min(widest, longest))
        return min(widest, _LEAST) if column.folds else widest

    def _ids(self, chosen: Iterable[int]) -> set[str]:
        ids = [number for number in chosen if self.columns[number].shortens]
        return {row[number].plain for row in self.rows for number in ids}

    def _between(self, count: int) -> int:
        return 3 * count + 1 if self.boxed else 2 * (count - 1)

    def _widest(self, number: int) -> int:
        cells = (Text(self.columns[number].title), *(row[number] for row in self.rows))
        return max(line.cell_len for cell in cells for line in cell.split(allow_blank=True))

    def _table(self, layout: Layout) -> Table:
        table = Table(box=HEAVY_HEAD if self.boxed else None, pad_edge=self.boxed)
        table.header_style = "bold"
        for number in layout.columns:
            column = self.columns[number]
            table.add_column(column.title, no_wrap=not column.folds, overflow="fold")
        for row in self.rows:
            cells = self._cells(row, layout.ends)
            table.add_row(*(cells[number] for number in layout.columns))
        return table

    def _cells(self, row: Sequence[Text], kept: Ends) -> list[Text]:
        return [
            Text(kept.of(cell.plain), cell.style) if column.shortens else cell
            for column, cell in zip(self.columns, row, strict=True)
        ]

    def _records(self, width: int | None) -> Text:
        """A line for each cell that is not empty; the terminal breaks long ones."""
        titles, kept = [column.title for column in self.columns], self._line(width)
        across = max(map(len, titles))
        blocks = []
        for row in self.rows:
            lines = [
                Text(f"{title:{across}}  ") + line
                for title, cell in zip(titles, self._cells(row, kept), strict=True)
                if cell.plain
                for line in cell.split()
            ]
            blocks.append(Text("\n").join(lines))
        return Text("\n\n").join(blocks)

    def _line(self, width: int | None) -> Ends:
        """What to keep of an id on its own line; all of it, if some would look the same."""
        ids = self._ids(range(len(self.columns)))
        whole = max((*map(cell_len, ids), _LEAST))
        across = max(len(column.title) for column in self.columns)
        room = whole if width is None else max(_LEAST, width - across - 2)
        return ends(ids, room) or Ends(whole, 0)


def coloured(environment: Mapping[str, str], terminal: bool) -> bool:
    """Whether to colour output; see https://no-color.org."""
    return (
        terminal
        and not environment.get("NO_COLOR")
        and environment.get("TERM", "").lower() not in _COLOURLESS
    )


def width(wide: bool = False) -> int | None:
    """The width of a line in characters; None, unlimited, if `wide` or not on a terminal.

    Then COLUMNS does not count either: `grep` and `awk` must find everything.
    """
    return shutil.get_terminal_size().columns if sys.stdout.isatty() and not wide else None


def is_interactive() -> bool:
    """Whether standard output is a terminal on which printed text can be overwritten."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in _COLOURLESS


def console(width: int | None = None) -> Console:
    """A console that prints text as it is, without highlights, markup or emoji.

    `width`, in characters, is for output that is not a terminal; None is the terminal's width.
    """
    plain = not coloured(os.environ, sys.stdout.isatty())
    return Console(
        width=width,
        # Without a height, rich assumes 80 characters for a dumb terminal, regardless of `width`.
        height=None if width is None else 25,
        color_system=None if plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )


def show(grid: Grid, wide: bool) -> None:
    """Print a grid, `wide` or as it fits, and below it a note about what is not shown."""
    room = width(wide)
    shown = grid.shown(room)
    soft = isinstance(shown, Text)
    console(grid.natural() if room is None else room).print(shown, soft_wrap=soft)
    if note := grid.note(room):
        print(note)
