"""Which part of a run a picture shows, and what is drawn in it: values, without a library.

Times here are seconds after the injection, or after the first request if nothing was injected.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.drill.record import Run
from sidecar.drill.report import labels
from sidecar.drill.report.figures import duration
from sidecar.drill.report.labels import Label
from sidecar.drill.samples import Mark, Outcome, Sample

_LEAST: Final = 1e-4  # seconds: what is faster is drawn as this fast
_MOST_LANES: Final = 9
# A picture of the moments after the injection is worth it if they are less than this of the run.
_WORTH: Final = 0.25
# What a failover consists of; the picture of those moments ends after the last of them.
_FAILOVER: Final = ("verdict", "primary", "published", "acked", "traffic")


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, and its name."""

    name: str
    left: float
    right: float

    @property
    def span(self) -> float:
        """How long it is."""
        return self.right - self.left


@dataclass(frozen=True, slots=True)
class Place:
    """The room of a picture, in points: its width without axis labels, and that of a letter."""

    across: float
    margin: float
    letter: float


def zero(run: Run) -> float:
    """When the fault was injected, on the run's clock."""
    injected = [mark.at for mark in run.marks if mark.event == "injected"]
    return min(injected or [sample.due for sample in run.samples] or [0.0])


def whole(run: Run) -> Window:
    """All of a run."""
    begin = zero(run)
    at = [sample.due - begin for sample in run.samples] + [mark.at - begin for mark in run.marks]
    left, right = min(at, default=0.0), max(at, default=1.0)
    spare = max(0.02 * (right - left), 0.05)
    return Window("The whole run", left - spare, right + spare)


def failover(run: Run) -> Window | None:
    """The moments after the first injection, until traffic has moved; None if nothing is gained."""
    begin = zero(run)
    first: dict[str, float] = {}
    for mark in run.marks:
        if mark.at >= begin and mark.event in _FAILOVER:
            first.setdefault(mark.event, mark.at - begin)
    if not first:
        return None
    lasts = max(first.values())
    if lasts > _WORTH * whole(run).span:
        return None
    spare = max(0.02, 0.6 * lasts)
    return Window(f"The first {duration(lasts + spare)}", -0.4 * (lasts + spare), lasts + spare)


def seen(run: Run, window: Window) -> Iterator[Sample]:
    """The requests in a window."""
    begin = zero(run)
    return (each for each in run.samples if window.left <= each.due - begin <= window.right)


def points(samples: Iterable[Sample], begin: float) -> tuple[list[float], list[float]]:
    """Where requests are drawn: when they were due, and how long they took."""
    made = [(each.due - begin, max(each.took, _LEAST)) for each in samples]
    return [at for at, _ in made], [took for _, took in made]


def decades(run: Run) -> tuple[float, float]:
    """The latencies that the axis of every picture of a run reaches: whole decades, in seconds."""
    took = [max(sample.took, _LEAST) for sample in run.samples] or [0.001, 1.0]
    low, high = math.floor(math.log10(min(took))), math.ceil(math.log10(max(took)) + 0.02)
    return 10.0**low, 10.0 ** max(high, low + 2)


def instances(run: Run) -> tuple[str, ...]:
    """Those that answered, or that something happened to; by name."""
    named = {sample.instance for sample in run.samples} | {mark.instance for mark in run.marks}
    return tuple(sorted(filter(None, named | {run.victim})))


def count(run: Run, outcome: Outcome) -> int:
    """How many requests of a run, before and after the injection, ended so."""
    return sum(sample.outcome == outcome for sample in run.samples)


def marked(run: Run, window: Window) -> list[tuple[int, Mark, float]]:
    """The events in a window, by time: their number in the run, from 1 on, and when they were."""
    begin = zero(run)
    ordered = enumerate(sorted(run.marks, key=lambda mark: mark.at), start=1)
    within = ((number, mark, mark.at - begin) for number, mark in ordered)
    return [each for each in within if window.left <= each[2] <= window.right]


def labelled(run: Run, window: Window, place: Place) -> tuple[Window, tuple[Label, ...]]:
    """The labels of a window's events, and the window, wide enough for them.

    They are words and times, or words, or, if these need too many lanes, the events' numbers.
    """
    found = marked(run, window)
    timed = [f"{mark.event} {duration(at)}" for _, mark, at in found]
    for texts in (timed, [mark.event for _, mark, _ in found]):
        roomy = _roomy(window, [at for _, _, at in found], texts, place)
        at = [(each[2] - window.left) / roomy.span * place.across for each in found]
        flags = labels.flags(list(zip(texts, at, strict=True)), place.letter)
        if max((flag.lane for flag in flags), default=0) < _MOST_LANES:
            return roomy, flags
    pairs = [f"{number}-{number}" for number, _, _ in found]
    roomy = _roomy(window, [at for _, _, at in found], pairs, place)
    at = [(each[2] - window.left) / roomy.span * place.across for each in found]
    return roomy, labels.numbers(at, place.letter, found[0][0])


def _roomy(window: Window, at: Sequence[float], texts: Sequence[str], place: Place) -> Window:
    wide = [labels.width(text, place.letter) for text in texts]
    ends = [(each - window.left, width) for each, width in zip(at, wide, strict=True)]
    span = labels.room(ends, window.span, place.across, place.margin)
    return Window(window.name, window.left, window.left + span)
