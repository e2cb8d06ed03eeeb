"""A TOML writer: the standard library only reads TOML. Pure.

It covers settings files: tables of strings, numbers, booleans, lists and nested tables; tables in
lists are inline, one a line. Source of the escapes: TOML 1.0.0, section String.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(document: Mapping[str, object]) -> str:
    """The document as TOML text, with keys in their order, and tables after plain values.

    Raises:
        TypeError: it holds a value that this writer does not support.
    """
    return "".join(_table(document, ())).lstrip("\n")


def _table(table: Mapping[str, object], path: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}\n" for key, value in plain.items()]
    if path and (lines or not table):
        lines.insert(0, f"\n[{'.'.join(map(_key, path))}]\n")
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _table(value, (*path, key))
    return lines


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    # All of JSON's escapes are valid TOML; DEL is the only control character that JSON keeps.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object, nested: bool = False) -> str:
    """The value; a `nested` one is in an inline table, and on its line."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case str():
            return _string(value)
        case Mapping():
            pairs = [f"{_key(key)} = {_value(item, nested=True)}" for key, item in value.items()]
            return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
        case Sequence() if not nested and any(isinstance(item, Mapping) for item in value):
            return "[\n" + "".join(f"  {_value(item)},\n" for item in value) + "]"
        case Sequence():
            return "[" + ", ".join(_value(item, nested) for item in value) + "]"
    raise TypeError(f"no TOML for {type(value).__name__}")
