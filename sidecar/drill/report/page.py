"""The record as one HTML page that needs nothing else: no network, no script, no font.

Needs the extra `drill`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Final

from sidecar.drill.record import Record, Run
from sidecar.drill.report import figures, processes, repeat, window
from sidecar.drill.report.figures import Row, duration
from sidecar.drill.report.window import Window
from sidecar.drill.samples import Mark
from sidecar.runtime.errors import PartMissing

_NEEDS: Final = ("jinja2", "matplotlib")
# Next to each status, so that it does not depend on its colour.
SIGNS: Final = {"passed": "✓", "failed": "✗", "aborted": "■", "skipped": "○"}
_ORDER: Final = ("failed", "aborted", "passed", "skipped")  # the worst first
MOST_DRAWN: Final = 60  # runs
# The figures of the summary, which has one line for each run.
_SUMMARY: Final = ("detection", "rto", "failed", "wrong", "slowest", "longest_gap", "streams_cut")


@dataclass(frozen=True, slots=True)
class Picture:
    """The same picture on wide and on narrow paper, as `svg` elements."""

    name: str
    wide: str
    narrow: str


@dataclass(frozen=True, slots=True)
class Event:
    """A mark as it is printed."""

    number: int
    after: str
    event: str
    instance: str
    said: str


@dataclass(frozen=True, slots=True)
class Answering:
    """An instance in the legend: its colour, how many requests it answered, and what it is."""

    name: str
    colour: str
    answered: str
    victim: bool


@dataclass(frozen=True, slots=True)
class Section:
    """All that the page has about a run. `anchor` is its name in links."""

    run: Run
    anchor: str
    repeat: str
    rows: tuple[Row, ...]
    pictures: tuple[Picture, ...]
    answering: tuple[Answering, ...]
    events: tuple[Event, ...]
    requests: str
    hint: str
    failed: int
    wrong: int


def render(record: Record) -> str:
    """The page.

    Raises:
        PartMissing: the extra `drill` is not installed; the message says how to install it.
    """
    require()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("sidecar.drill.report")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    made.trim_blocks = made.lstrip_blocks = True
    several = any(run.round > 1 for run in record.runs)
    return made.get_template("page.html").render(
        record=record,
        environment=record.environment,
        headline=headline(record),
        repeat=repeat.everything(record.environment),
        sections=_sections(record),
        # The worst first.
        processes=sorted(processes.rows(record), key=lambda row: not row.grows),
        most=MOST_DRAWN,
        summary_kinds=[kind for kind in figures.KINDS if kind.name in _SUMMARY],
        objectives=[(figures.title(n), _bound(n, v)) for n, v in record.objectives.items()],
        signs=SIGNS,
        several=several,
    )


def require() -> None:
    """Find the extra's libraries, before a drill is run for a page that cannot be made.

    Raises:
        PartMissing: one is missing; the message says how to install it.
    """
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise PartMissing(
            f"the page of a drill needs {' and '.join(missing)}:"
            " `pip install 'triton-sidecar[drill]'` installs what is missing"
        )


def headline(record: Record) -> str:
    """What came of it, such as `2 failed, 1 aborted, 5 passed`; the worst first."""
    counts = Counter(run.status for run in record.runs)
    said = ", ".join(f"{counts[each]} {each}" for each in _ORDER if counts[each])
    return said or "nothing was run"


def _sections(record: Record) -> list[Section]:
    """The worst runs first. Those after the first MOST_DRAWN, by status and round, get no picture.

    A page of hundreds of pictures is slow to write and to open.
    """
    numbered = sorted(enumerate(record.runs, start=1), key=lambda each: _urgency(each[1]))
    by_round = sorted(numbered, key=lambda each: (_urgency(each[1]), each[1].round))
    drawn = {number for number, _ in by_round[:MOST_DRAWN]}
    return [_section(record, number, run, number in drawn) for number, run in numbered]


def _urgency(run: Run) -> int:
    return _ORDER.index(run.status)


def _section(record: Record, number: int, run: Run, drawn: bool) -> Section:
    made = run.status != "skipped"
    return Section(
        run=run,
        anchor=f"run-{number}",
        repeat=repeat.one(record.environment, run.scenario, run.round),
        rows=tuple(figures.rows(run, record.objectives)) if made else (),
        pictures=_pictures(run) if run.samples and drawn else (),
        answering=tuple(_answering(run)) if run.samples else (),
        events=tuple(_events(run)),
        requests=f"{len(run.samples):,}",
        hint=figures.hint(run),
        failed=window.count(run, "failed"),
        wrong=window.count(run, "wrong"),
    )


@lru_cache(maxsize=256)
def _pictures(run: Run) -> tuple[Picture, ...]:
    """The pictures of a run, made once: a drill's page is written after each of its runs."""
    from sidecar.drill.report import timeline

    wide, narrow = timeline.PAPERS
    shown: tuple[Window | None, ...] = (window.whole(run), window.failover(run))
    return tuple(
        Picture(each.name, timeline.drawn(run, each, wide), timeline.drawn(run, each, narrow))
        for each in shown
        if each is not None
    )


def _answering(run: Run) -> Iterator[Answering]:
    from sidecar.drill.report import timeline

    counts = Counter(each.instance for each in run.samples if each.outcome == "answered")
    for name in window.instances(run):
        colour = timeline.colour(run, name)
        yield Answering(name, colour, f"{counts[name]:,}", name == run.victim)
    if counts[""]:
        yield Answering("an unknown instance", timeline.UNKNOWN, f"{counts['']:,}", False)


def _events(run: Run) -> Iterator[Event]:
    begin = window.zero(run)
    for number, mark in enumerate(sorted(run.marks, key=lambda mark: mark.at), start=1):
        after = duration(mark.at - begin)
        yield Event(number, after, mark.event, mark.instance, _said(mark))


def _said(mark: Mark) -> str:
    """What a mark says beside its event and instance, such as `critical MODEL_HUNG`."""
    epoch = f"epoch {mark.epoch}" if mark.epoch else ""
    return " ".join(filter(None, (mark.status, mark.reason, epoch, mark.detail)))


def _bound(name: str, value: float) -> str:
    return figures.bounded(name.rpartition(".")[2], value)
