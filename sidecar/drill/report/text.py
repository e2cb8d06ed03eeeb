"""The record, and a comparison of two, on a terminal.

Acts: through sidecar.runtime.terminal.
"""

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from sidecar.drill.record import Record, Run
from sidecar.drill.report import figures
from sidecar.drill.report import processes as process_rows
from sidecar.drill.report.comparison import Change, Comparison, Side
from sidecar.drill.report.figures import KINDS, NOT_SEEN, Kind
from sidecar.runtime.terminal import Column, Grid, show

_STYLES: Final = {"passed": "green", "failed": "red", "aborted": "yellow", "skipped": "cyan"}
_CHANGES: Final[dict[Change, str]] = {"worse": "red", "better": "green", "unknown": "dim"}
_SHOWN: Final = (
    *("detection", "decision", "rto", "failed", "wrong", "slowest", "longest_gap", "streams_cut"),
)
_RUNS: Final = (
    Column("scenario"),
    Column("victim", worth=3, shortens=True),
    Column("status"),
    Column("detection", worth=5),
    Column("decision", worth=2),
    Column("RTO", worth=8),
    Column("failed", worth=10),
    Column("wrong", worth=9),
    Column("slowest", worth=4),
    Column("longest gap", worth=7),
    Column("streams cut", worth=6),
)
_PROCESSES: Final = (
    Column("process"),
    Column("lives", worth=2),
    Column("memory", worth=4),
    Column("per hour"),
    Column("judged over", worth=3),
    Column("verdict"),
    Column("descriptors", worth=5),
)
_COMPARED: Final = (
    Column("scenario"),
    Column("figure"),
    Column("old"),
    Column("new"),
    Column("ratio", worth=2),
    Column("change"),
    Column("rounds", worth=1),
)


def print_record(record: Record, wide: bool = False) -> None:
    """Print every run in a line, and below the table why those that did not pass did not."""
    grid = table(record)
    if grid.rows:
        show(grid, wide)
    if record.processes:
        show(processes(record), wide)
    for line in notes(record):
        print(line)


def print_comparison(compared: Comparison, wide: bool = False, everything: bool = False) -> None:
    """Print what differs, the figures that changed (or `everything`), and what got worse."""
    for line in compared.differences:
        print(f"note: {line}")
    grid = side_by_side(compared, everything)
    if grid.rows:
        show(grid, wide)
    for line in outcome(compared):
        print(line)


def table(record: Record) -> Grid:
    """A row for each run, in order."""
    grid = Grid(_RUNS)
    several = any(run.round > 1 for run in record.runs)
    for run in record.runs:
        made = run.status != "skipped"
        grid.add(
            f"{run.scenario} #{run.round}" if several else run.scenario,
            run.victim,
            Text(run.status, _STYLES[run.status]),
            *(_cell(run, kind) if made else "" for kind in _kinds()),
        )
    return grid


def processes(record: Record) -> Grid:
    """A row for each process of a soak: its memory, and how that and its descriptors changed."""
    grid = Grid(_PROCESSES)
    for row in process_rows.rows(record):
        grid.add(
            row.name,
            row.lives,
            row.memory,
            row.per_hour,
            row.judged_over,
            Text(row.verdict, "red" if row.grows else ""),
            row.descriptors,
        )
    return grid


def notes(record: Record) -> Iterator[str]:
    """The violations and reasons, a line each, by run."""
    several = any(run.round > 1 for run in record.runs)
    for run in record.runs:
        name = f"{run.scenario} #{run.round}" if several else run.scenario
        if run.reason:
            yield f"{name}: {run.status}: {run.reason}"
        for each in run.violations:
            code = figures.title(each.code)
            yield f"{name}: {code}: expected {each.expected}, found {each.found}"
        if said := figures.hint(run):
            yield f"{name}: note: {said}"


def side_by_side(compared: Comparison, everything: bool) -> Grid:
    """A row for each figure that got worse or better, or for every one."""
    grid = Grid(_COMPARED)
    for scenario in compared.scenarios:
        for each in scenario.figures:
            if not everything and each.change in ("same", "unknown"):
                continue
            grid.add(
                scenario.name,
                each.kind.title,
                _side(each.kind, each.old),
                _side(each.kind, each.new),
                "" if each.ratio is None else f"{each.ratio:.2f}",
                Text(each.change, _CHANGES.get(each.change, "")),
                f"{each.old.rounds}, {each.new.rounds}",
            )
    return grid


def outcome(compared: Comparison) -> Iterator[str]:
    """What got worse, a line for each scenario, or that nothing did."""
    if not compared.scenarios:
        yield "no scenario is in both records"
    for scenario in compared.scenarios:
        worse = [each.kind.title for each in scenario.figures if each.change == "worse"]
        if scenario.change == "worse":
            worse.insert(0, scenario.note)
        if worse:
            yield f"{scenario.name}: worse: {', '.join(worse)}"
    if compared.scenarios and not compared.worse:
        yield "nothing got worse beyond the noise"


def _kinds() -> list[Kind]:
    known = {kind.name: kind for kind in KINDS}
    return [known[name] for name in _SHOWN]


def _cell(run: Run, kind: Kind) -> Text:
    violated = kind.name in {each.code for each in run.violations}
    shown = figures.printed(kind, run.figures)
    return Text("-" if shown == NOT_SEEN else shown, "red" if violated else "")


def _side(kind: Kind, side: Side) -> str:
    if side.median is None:
        return NOT_SEEN
    shown = figures.amount(kind.unit, side.median)
    return f"{shown} ± {figures.amount(kind.unit, side.spread)}" if side.spread else shown
