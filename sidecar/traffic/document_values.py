"""The kinds of values in a traffic policy's JSON document. Pure."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

UINT32 = 2**32 - 1
_YEAR = 365 * 24 * 3600  # seconds
_TICK = 0.001  # seconds: Envoy's timers count milliseconds, and reject 0
_SHOWN = 80  # characters of a value or key that are quoted
_DURATION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?s")
# Headers of an HTTP/1.1 connection, not of a request; Envoy drops them.
_OF_CONNECTION = frozenset(
    {
        *("connection", "http2-settings", "keep-alive", "proxy-authenticate", "te", "trailer"),
        *("proxy-authorization", "proxy-connection", "transfer-encoding", "upgrade", "host"),
    }
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value may be.

    `read` converts a JSON value, to None if it is not as `expected`; `write` converts it back.
    """

    expected: str
    read: Callable[[object], Any]
    write: Callable[[Any], Any] = lambda value: value


def whole(low: int, high: int = UINT32) -> Rule:
    """A whole number; also as 5.0, or as "5", as protobuf writes large ones in JSON."""

    def read(given: object) -> int | None:
        if isinstance(given, str) and re.fullmatch("[0-9]{1,20}", given):
            given = int(given)
        if isinstance(given, float) and given.is_integer():
            given = int(given)
        right = isinstance(given, int) and not isinstance(given, bool) and low <= given <= high
        return given if isinstance(given, int) and right else None

    return Rule(f"a whole number from {low} to {high}", read)


def number(low: float, high: float) -> Rule:
    """A number."""

    def read(given: object) -> float | None:
        if isinstance(given, bool) or not isinstance(given, int | float):
            return None
        return float(given) if low <= given <= high else None  # false for NaN

    return Rule(f"a number from {low:g} to {high:g}", read)


def duration(longest: float = _YEAR) -> Rule:
    """Seconds, in protobuf's JSON format: "0.5s"."""

    def read(given: object) -> float | None:
        if not isinstance(given, str) or not _DURATION.fullmatch(given):
            return None
        seconds = float(given[:-1])
        return seconds if _TICK <= seconds <= longest else None

    def write(seconds: float) -> str:
        digits = f"{seconds:.9f}".rstrip("0").rstrip(".")
        return f"{digits}s"

    return Rule(f'a duration such as "0.5s", from {_TICK}s to {longest}s', read, write)


def flag() -> Rule:
    """True or false."""
    return Rule("true or false", lambda given: given if isinstance(given, bool) else None)


def choice(kind: type[StrEnum]) -> Rule:
    """One of the values of an enumeration."""
    values = {each.value: each for each in kind}

    def read(given: object) -> StrEnum | None:
        return values.get(given) if isinstance(given, str) else None

    return Rule(f"one of {', '.join(values)}", read, lambda value: value.value)


def matching(pattern: str, expected: str) -> Rule:
    """Text that the pattern fully matches."""
    compiled = re.compile(pattern)

    def read(given: object) -> str | None:
        return given if isinstance(given, str) and compiled.fullmatch(given) else None

    return Rule(expected, read)


def header() -> Rule:
    """The name of a request header."""
    named = matching(
        r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}",
        "the name of a header in lower case, not one of a connection's own",
    )

    def read(given: object) -> str | None:
        name: str | None = named.read(given)
        return None if name in _OF_CONNECTION else name

    return Rule(named.expected, read)


def free_text(longest: int) -> Rule:
    """Any text that can be stored."""

    def read(given: object) -> str | None:
        if not isinstance(given, str) or len(given) > longest:
            return None
        # JSON may contain lone surrogates, which cannot be encoded.
        return None if re.search("[\ud800-\udfff]", given) else given

    return Rule(f"a text of at most {longest} characters", read)


def shown(value: object) -> str:
    """A value in JSON, cut; of a list or object only its kind."""
    match value:
        case None | bool():
            return json.dumps(value)
        case str():
            return _cut(json.dumps(value[:_SHOWN]))
        case int() | float():
            return _number(value)
        case dict():
            return "an object"
    return "a list"


def key(name: str) -> str:
    """A key as part of a path, quoted if need be."""
    return name if re.fullmatch("[A-Za-z0-9_./-]{1,80}", name) else _cut(json.dumps(name[:_SHOWN]))


def _number(value: float) -> str:
    try:
        return _cut(repr(value))
    except ValueError:  # Python prints at most a few thousand digits
        return "a number of very many digits"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
