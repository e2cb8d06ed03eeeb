"""Shortened ids in tables: they lose their middle, and stay distinct."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from sidecar.cli.main import app
from sidecar.runtime import terminal
from sidecar.runtime.terminal import Column, Grid

pytestmark = pytest.mark.files

CELLS = st.text("ab [/é界", max_size=40)
# Many share both ends, and differ only in the middle.
LONG = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "_nomad-task-", "界" * 9]),
    st.text("ab-é界…", max_size=50),
    st.sampled_from(["", "-group-triton-triton-grpc", "界" * 9]),
)
Row = tuple[str, str, str, str]
ROWS = st.lists(st.tuples(LONG, CELLS, CELLS, LONG), min_size=1, max_size=4)
COLUMNS = (
    Column("from", shortens=True),
    Column("worth", worth=1),
    Column("folds", worth=2, folds=True),
    Column("to", worth=3, shortens=True),
)
IDS = 0, 3
NOMAD = "_nomad-task-5c1d7e0e-9f0a-4d8f-a3d1-0f6a4f3a2f11-group-triton-triton-grpc"


def filled(rows: list[Row], columns: tuple[Column, ...] = COLUMNS) -> Grid:
    grid = Grid(columns)
    for row in rows:
        grid.add(*row)
    return grid


def lines(grid: Grid, width: int, soft: bool = False) -> list[str]:
    console = Console(width=width, color_system=None, file=sys.__stdout__)
    with console.capture() as captured:
        console.print(grid.shown(width), soft_wrap=soft)
    return captured.get().splitlines()


def column(lines: list[str], number: int) -> list[str]:
    """The texts in a column of a boxed table, without empty cells."""
    bodies = (line.split("│")[1:-1] for line in lines if line.startswith("│"))
    return [cell for body in bodies if (cell := body[number].strip())]


def stand_for(shown: list[str], ids: list[str]) -> bool:
    """Whether these cells show these ids, each by its ends, and differ where the ids do."""
    ends = (cell.partition("…") for cell in shown)
    pairs = list(zip(shown, ids, ends, strict=True))
    return len(set(shown)) == len(set(ids)) and all(
        cell == id or (id.startswith(head) and id.endswith(tail.rpartition("…")[2]))
        for cell, id, (head, _, tail) in pairs
    )


@given(ROWS, st.integers(10, 160))
def test_a_table_is_never_wider_than_its_terminal(rows: list[Row], width: int) -> None:
    grid = filled(rows)
    if grid.fitting(width) is None:
        assert isinstance(grid.shown(width), Text)
    else:
        assert all(Text(line).cell_len <= width for line in lines(grid, width))


@given(ROWS, st.integers(10, 160))
def test_ids_that_differ_look_different_at_any_width(rows: list[Row], width: int) -> None:
    grid = filled(rows)
    layout = grid.fitting(width)
    if layout is None:
        return
    drawn = lines(grid, width)
    there = [number for number in IDS if number in layout.columns]
    ids = [row[number] for number in there for row in rows if row[number]]
    shown = [cell for n in there for cell in column(drawn, layout.columns.index(n))]
    assert stand_for(shown, ids)
    assert ("whole ids" in grid.note(width)) == (shown != ids)


@given(ROWS, st.integers(10, 160))
def test_ids_that_differ_look_different_line_by_line_too(rows: list[Row], width: int) -> None:
    grid = filled(rows, (COLUMNS[0], Column("never cut"), *COLUMNS[2:]))
    grid.add("", "x" * 200, "", "")
    assert grid.fitting(width) is None
    drawn = [line for line in lines(grid, width, soft=True) if line.startswith(("from ", "to "))]
    ids = [row[number] for row in rows for number in IDS if row[number]]
    assert stand_for([line[len("never cut  ") :].strip() for line in drawn], ids)


@given(ROWS)
def test_wide_loses_nothing(rows: list[Row]) -> None:
    grid = filled(rows)
    drawn = lines(grid, grid.natural())
    for number in range(4):
        assert column(drawn, number) == [text for row in rows if (text := row[number].strip())]
    assert grid.note(None) == ""


@pytest.mark.parametrize(
    ("ids", "width", "shown"),
    [
        ([NOMAD], 200, [NOMAD]),
        ([NOMAD], 76, [f"{NOMAD[:36]}…{NOMAD[-35:]}"]),
        ([NOMAD], 28, ["_nomad-task-…triton-grpc"]),
        (["triton-0", NOMAD], 28, ["triton-0", "_nomad-task-…triton-grpc"]),
        (["界" * 30], 28, ["界界界界界界…界界界界界"]),
    ],
)
def test_both_ends_of_an_id_are_kept(ids: list[str], width: int, shown: list[str]) -> None:
    grid = Grid([Column("id", shortens=True)])
    for id in ids:
        grid.add(id)
    assert column(lines(grid, width), 0) == shown


def test_a_column_is_dropped_where_ids_would_look_the_same() -> None:
    ids = [NOMAD, NOMAD.replace("9f0a", "9f0b")]
    grid = Grid([Column("id", shortens=True), Column("address", worth=1)])
    for id in ids:
        grid.add(id, "127.0.0.1:8001")
    assert "address" not in grid.note(52)
    assert "address" in grid.note(48)
    assert all(stand_for(column(lines(grid, width), 0), ids) for width in (48, 52))


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        ([NOMAD], [f"{NOMAD[:25]}…{NOMAD[-24:]}"]),
        # No ends of this length distinguish them.
        ([f"{'a' * 60}x{'a' * 60}", f"{'a' * 60}y{'a' * 60}"], None),
    ],
)
def test_without_a_table_each_id_has_its_own_line(ids: list[str], shown: list[str] | None) -> None:
    grid = Grid([Column("id", shortens=True), Column("never cut")])
    for id in ids:
        grid.add(id, "x" * 100)
    drawn = [line for line in lines(grid, 61, soft=True) if line.startswith("id")]
    assert [line.split()[1] for line in drawn] == (shown or ids)
    assert bool(grid.note(61)) == bool(shown)


def with_wide(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The commands that take --wide."""
    if any(each.name == "wide" for each in command.params):
        yield " ".join(path)
    for name, inner in getattr(command, "commands", {}).items():
        yield from with_wide(inner, (*path, name))


def test_each_command_with_a_table_takes_wide() -> None:
    assert set(with_wide(typer.main.get_command(app))) == {
        "canary list",
        "canary record",
        "canary test",
        "drill all",
        "drill list",
        "drill report",
        "drill run",
        "drill soak",
        "failover",
        "gpu",
        "history",
        "list",
        "local status",
        "model list",
        "model show",
        "xds clients",
        "xds diff",
        "xds snapshot",
    }


def test_a_command_is_wide_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "width", lambda wide: None if wide else 60)
    model = "llama-3-70b-instruct-tensorrt-llm-for-the-customers-in-europe"
    file = tmp_path / "canary.toml"
    question = 'inputs = [{ name = "x", datatype = "INT32", shape = [1], data = [1] }]'
    answer = 'expect = [{ output = "y", finite = true }]'
    file.write_text(f"[canary.{model}]\n{question}\n{answer}\n")
    runner = CliRunner()
    narrow = runner.invoke(app, ["canary", "list", str(file)])
    wide = runner.invoke(app, ["canary", "list", str(file), "--wide"])
    assert (narrow.exit_code, wide.exit_code) == (0, 0)
    assert model not in narrow.stdout
    assert "whole ids" in narrow.stdout
    assert model in wide.stdout
    assert "whole ids" not in wide.stdout
