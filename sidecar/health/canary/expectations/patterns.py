"""Regular expressions with a timeout. Pure.

A search by the standard library can take forever, cannot be stopped, and blocks everything else.
"""

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.health.canary.expectations.formatting import cut
from sidecar.runtime.errors import words

if TYPE_CHECKING:
    import regex

PATIENCE = 0.2  # seconds of computation for one search
_SHOWN = 80


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found anywhere in a text.

    Raises:
        TimeoutError: the search takes longer than `PATIENCE`.
        ValueError: the pattern is invalid.
    """
    try:
        return _compiled(pattern).search(text, timeout=PATIENCE) is not None
    except TimeoutError:
        raise TimeoutError(f"{shown(pattern)} took too long to search") from None


def pattern_fault(pattern: str) -> str:
    """What is wrong with a pattern; empty if nothing is."""
    try:
        _compiled(pattern)
    except ValueError as error:
        return str(error)
    return ""


def shown(pattern: str) -> str:
    """A pattern for a message, truncated."""
    return cut(repr(pattern[:_SHOWN]), _SHOWN)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> "regex.Pattern[str]":
    import regex

    try:
        with warnings.catch_warnings():  # on syntax whose meaning may change in later versions
            warnings.simplefilter("ignore")
            return regex.compile(pattern)
    except Exception as error:  # a broken pattern can raise anything in the compiler
        raise ValueError(cut(" ".join(words(error).splitlines()), _SHOWN)) from error
