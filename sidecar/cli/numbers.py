"""Parsers of numbers on the command line, with the same errors as for settings."""

import math
from collections.abc import Callable

import typer

_LONGEST = 20  # characters of a whole number


def whole(low: int, high: int | None = None) -> Callable[[str | int], int]:
    """A parser of whole numbers of at least `low`, and at most `high` if given."""

    def read(given: str | int) -> int:
        text = str(given)
        right = text.removeprefix("-").isdecimal() and text.isascii() and len(text) < _LONGEST
        if not right or not low <= int(text) <= (high if high is not None else math.inf):
            raise _mistake(f"a whole number {_bounds(low, high)}", text)
        return int(text)

    return read


def seconds(low: float) -> Callable[[str | float], float]:
    """A parser of seconds, of at least `low`."""

    def read(given: str | float) -> float:
        try:
            number = float(given)
        except ValueError:
            number = math.nan
        if not low <= number < math.inf:
            raise _mistake(f"a number of seconds {_bounds(low, None)}", str(given))
        return number

    return read


def _bounds(low: float, high: float | None) -> str:
    return f"of at least {low:g}" if high is None else f"from {low:g} to {high:g}"


def _mistake(wanted: str, found: str) -> typer.BadParameter:
    return typer.BadParameter(f"expected {wanted}, found {found!r:.80}")
