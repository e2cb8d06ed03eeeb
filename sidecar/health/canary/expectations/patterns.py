"""Regular expressions whose search ends in any case. Pure.

The standard library's can take for ever, cannot be stopped, and nothing else runs meanwhile.
"""

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.health.canary.expectations.formatting import cut
from sidecar.runtime.errors import words

if TYPE_CHECKING:
    import regex

PATIENCE = 0.2  # seconds of computing for one search
_SHOWN = 80


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found anywhere in a text.

    Raises:
        TimeoutError: nobody knows after `PATIENCE`.
        ValueError: it is no pattern.
    """
    try:
        return _compiled(pattern).search(text, timeout=PATIENCE) is not None
    except TimeoutError:
        raise TimeoutError(f"{shown(pattern)} took too long to search") from None


def pattern_fault(pattern: str) -> str:
    """What is wrong with a pattern, empty if nothing is."""
    try:
        _compiled(pattern)
    except ValueError as error:
        return str(error)
    return ""


def shown(pattern: str) -> str:
    """A pattern in a message."""
    return cut(repr(pattern[:_SHOWN]), _SHOWN)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> "regex.Pattern[str]":
    import regex

    try:
        with warnings.catch_warnings():  # of what a later version may take for something else
            warnings.simplefilter("ignore")
            return regex.compile(pattern)
    except Exception as error:  # whatever a broken pattern does to its compiler
        raise ValueError(cut(" ".join(words(error).splitlines()), _SHOWN)) from error
