"""What people are shown: tables that fit their terminal, and colours only where it has some."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.box import HEAVY_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_LEAST = 24  # columns that text has at least where it is broken into lines
_COLOURLESS = ("dumb", "unknown")

Cell = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a grid.

    One without `worth` is never cut and always there; of the others, the least worth goes first.
    `folds`: its text may be broken into lines.
    """

    title: str
    worth: int | None = None
    folds: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of cells, to be shown at some width; `boxed` has lines between the columns."""

    columns: Sequence[Column]
    boxed: bool = True
    rows: list[tuple[Text, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row. A cell is text as it is: nothing in it is markup."""
        row = (cell if isinstance(cell, Text) else Text(cell) for cell in cells)
        self.rows.append(tuple(row))

    def fitting(self, width: int | None) -> list[int] | None:
        """The columns that fit, by their numbers; None if not even those fit that must be there.

        `width` is in characters, None for as many as it takes.
        """
        chosen = list(range(len(self.columns)))
        while width is not None and self._least(chosen) > width:
            worths = [(worth, n) for n in chosen if (worth := self.columns[n].worth) is not None]
            if not worths:
                return None
            chosen.remove(min(worths)[1])
        return chosen

    def shown(self, width: int | None) -> RenderableType:
        """The grid at a width: as a table, or line by line where a table has no room."""
        chosen = self.fitting(width)
        return self._records() if chosen is None else self._table(chosen)

    def left_out(self, width: int | None) -> list[str]:
        """The titles of the columns that have no room."""
        chosen = self.fitting(width)
        every = range(len(self.columns))
        return [self.columns[n].title for n in every if chosen is not None and n not in chosen]

    def natural(self) -> int:
        """The characters that it takes if nothing is broken."""
        every = range(len(self.columns))
        return sum(map(self._widest, every)) + self._between(len(self.columns))

    def _least(self, chosen: Sequence[int]) -> int:
        widths = (
            min(self._widest(n), _LEAST) if self.columns[n].folds else self._widest(n)
            for n in chosen
        )
        return sum(widths) + self._between(len(chosen))

    def _between(self, count: int) -> int:
        return 3 * count + 1 if self.boxed else 2 * (count - 1)

    def _widest(self, number: int) -> int:
        cells = (Text(self.columns[number].title), *(row[number] for row in self.rows))
        return max(line.cell_len for cell in cells for line in cell.split(allow_blank=True))

    def _table(self, chosen: Sequence[int]) -> Table:
        table = Table(box=HEAVY_HEAD if self.boxed else None, pad_edge=self.boxed)
        table.header_style = "bold"
        for number in chosen:
            column = self.columns[number]
            table.add_column(column.title, no_wrap=not column.folds, overflow="fold")
        for row in self.rows:
            table.add_row(*(row[number] for number in chosen))
        return table

    def _records(self) -> Text:
        """A line for each cell that says something; what is too long the terminal breaks."""
        titles = [column.title for column in self.columns]
        across = max(map(len, titles))
        blocks = []
        for row in self.rows:
            lines = [
                Text(f"{title:{across}}  ") + line
                for title, cell in zip(titles, row, strict=True)
                if cell.plain
                for line in cell.split()
            ]
            blocks.append(Text("\n").join(lines))
        return Text("\n\n").join(blocks)


def coloured(environment: Mapping[str, str], terminal: bool) -> bool:
    """Whether anything but plain text is wanted; https://no-color.org."""
    return (
        terminal
        and not environment.get("NO_COLOR")
        and environment.get("TERM", "").lower() not in _COLOURLESS
    )


def width() -> int | None:
    """The characters of a line; None, as many as it takes, where no terminal would break it."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def lively() -> bool:
    """Whether standard output is a terminal on which what was printed can be overwritten."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in _COLOURLESS


def console(width: int | None = None) -> Console:
    """A console that adds nothing to what it is given: no highlights, markup or emoji.

    `width` in characters, for what is not a terminal; otherwise the terminal's own.
    """
    plain = not coloured(os.environ, sys.stdout.isatty())
    return Console(
        width=width,
        # Without a height, rich takes a dumb terminal for 80 characters wide, whatever is said.
        height=None if width is None else 25,
        color_system=None if plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )


def show(grid: Grid) -> None:
    """Print a grid, and say which columns have no room."""
    room = width()
    shown = grid.shown(room)
    soft = isinstance(shown, Text)
    console(grid.natural() if room is None else room).print(shown, soft_wrap=soft)
    if missing := grid.left_out(room):
        print(f"left out for want of room: {', '.join(missing)}")
