"""Fragments of pydantic's messages, none of which may appear in ours."""

import re
from collections.abc import Iterator

from pydantic_core._pydantic_core import list_all_errors


def _fragments() -> Iterator[str]:
    """The longest constant part of each of the library's messages."""
    for each in list_all_errors():
        for key in ("message_template_python", "message_template_json"):
            parts = re.split(r"\{\w+\}", str(each.get(key, "")))
            longest = max(parts, key=len).strip(" ,'")
            if len(longest) > 8:
                yield longest
    yield from ("Value error", "Assertion failed", "not a valid path", "validation error")
    # The names that it adds to an error's location for a union of types.
    yield from ("lax-or-strict", "json-or-python", "function-", "[key]")


FOREIGN = frozenset(_fragments())
