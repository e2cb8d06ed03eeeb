"""Fragments of pydantic's own messages, none of which may appear in ours."""

import re
from collections.abc import Iterator

from pydantic_core._pydantic_core import list_all_errors


def _fragments() -> Iterator[str]:
    """What of each of the library's sentences stands in it whatever is put in."""
    for each in list_all_errors():
        for key in ("message_template_python", "message_template_json"):
            parts = re.split(r"\{\w+\}", str(each.get(key, "")))
            longest = max(parts, key=len).strip(" ,'")
            if len(longest) > 8:
                yield longest
    yield from ("Value error", "Assertion failed", "not a valid path", "validation error")
    # What it puts among the keys where several kinds of values may stand.
    yield from ("lax-or-strict", "json-or-python", "function-", "[key]")


FOREIGN = frozenset(_fragments())
