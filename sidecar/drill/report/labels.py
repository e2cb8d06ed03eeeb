"""Where the labels above a timeline go, so that none overlaps another or the line of another.

A label is a flag: it stands to the right of its mark's line, in a lane; the line reaches up to it.
Lane 0 is the lowest. All lengths are in the same unit, such as points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_GAP = 8.0  # between labels


@dataclass(frozen=True, slots=True)
class Label:
    """A text at a place: `at` is the x of its line, `lane` how high it stands."""

    text: str
    at: float
    lane: int


def flags(texts: Sequence[tuple[str, float]], letter: float) -> tuple[Label, ...]:
    """A label for each text and its x, from left to right; a letter is `letter` wide.

    From the right: a flag must stand above every flag whose line is under it.
    """
    placed: list[Label] = []
    for text, at in reversed(texts):
        end = at + width(text, letter) + _GAP
        under = [each.lane for each in placed if each.at <= end]
        placed.append(Label(text, at, 1 + max(under, default=-1)))
    return tuple(reversed(placed))


def numbers(places: Sequence[float], letter: float, first: int = 1) -> tuple[Label, ...]:
    """One lane of numbers, from `first` on; those that would overlap share one, such as `3-7`."""
    groups: list[tuple[float, int, int]] = []
    for number, at in enumerate(places, start=first):
        if groups and at - groups[-1][0] < width(f"{groups[-1][1]}-{number}", letter) + _GAP:
            groups[-1] = (*groups[-1][:2], number)
        else:
            groups.append((at, number, number))
    return tuple(
        Label(f"{one}-{last}" if last > one else f"{one}", at, 0) for at, one, last in groups
    )


def width(text: str, letter: float) -> float:
    """How wide a text is."""
    return len(text) * letter


def room(ends: Sequence[tuple[float, float]], span: float, across: float, margin: float) -> float:
    """The span at which every label ends within `across` and `margin`.

    `ends` are the labels' places, in the unit of `span`, and their widths.
    """
    needed = (at * across / (across + margin - wide) for at, wide in ends if wide < across)
    return max((span, *needed))
