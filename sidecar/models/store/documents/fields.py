"""Reads fields of JSON that may be anything. Pure.

By hand, because pydantic takes more memory than a push needs.
"""

import json
from collections.abc import Mapping
from typing import Any

from sidecar.runtime.errors import Rejected


def tree(document: bytes) -> Mapping[str, Any]:
    """The object that a JSON document has.

    Raises:
        Rejected: it is no JSON, or no object.
    """
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        raise Rejected("expected a JSON object, found something else") from None
    return mapping(found)


def mapping(value: object) -> Mapping[str, Any]:
    """An object; raises Rejected if it is something else."""
    if not isinstance(value, dict):
        raise Rejected("expected an object, found something else")
    return value


def text(fields: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A field that is text, in any encoding; raises Rejected if it is something else."""
    value = fields.get(key, default)
    if not isinstance(value, str) or not _is_unicode(value):
        raise Rejected(f"expected text as {key}, found {value!r:.80}")
    return value


def whole(fields: Mapping[str, Any], key: str) -> int:
    """A field that is a whole number; raises Rejected if it is something else."""
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Rejected(f"expected a whole number as {key}, found {value!r:.80}")
    return value


def truth(fields: Mapping[str, Any], key: str) -> bool:
    """A field that is true or false, by default false; raises Rejected if it is something else."""
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise Rejected(f"expected true or false as {key}, found {value!r:.80}")
    return value


def several(fields: Mapping[str, Any], key: str, default: object = None) -> list[Any]:
    """A field that is a list; raises Rejected if it is something else."""
    value = fields.get(key, default)
    if not isinstance(value, list):
        raise Rejected(f"expected a list as {key}, found {value!r:.80}")
    return value


def _is_unicode(value: str) -> bool:
    """Whether text can be written: JSON may have half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
