"""Which load a drill puts on a mesh, and its text on the command line.

    rate=200,streams=2,schedule=poisson,connections=8,in_flight=1000
    clients=4,streams=2,pause=50ms

With a `rate` it is an open loop: the schedule does not wait for answers, so that a pause of the
mesh delays every request that was due meanwhile. Otherwise it is a closed loop: each client waits
for its answer, and sends its next request after a pause.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from sidecar.runtime.errors import ConfigError

ScheduleKind = Literal["poisson", "constant"]

_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0}
_MOST = 1000  # clients of one kind; each has a connection
_FASTEST = 5000.0  # requests a second
_LONGEST = 60.0  # seconds of a pause
_MOST_IN_FLIGHT = 100_000


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`clients` send unary requests and `streams` run generations, one after the other.

    `pause` is the seconds between an answer and the client's next request.
    """

    clients: int = 4
    streams: int = 2
    pause: float = 0.0

    def __str__(self) -> str:
        return _text(self)


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """`rate` unary requests a second, each at its due time; `streams` are a closed loop.

    The requests are sent on `connections` in turn. At most `in_flight` are sent and not answered;
    a request that is due beyond that is held, and its latency counts from when it was due.
    """

    rate: float = 50.0
    streams: int = 2
    schedule: ScheduleKind = "poisson"
    connections: int = 8
    in_flight: int = 1000

    def __str__(self) -> str:
        return _text(self)


LoadSpec = ClosedLoop | OpenLoop


def multiplied(spec: LoadSpec, times: int) -> LoadSpec:
    """So many times its unary requests, as far as a load may go, and no streams."""
    if isinstance(spec, OpenLoop):
        rate, connections = round(spec.rate * times, 9), spec.connections * times
        return replace(
            spec, rate=min(rate, _FASTEST), connections=min(connections, _MOST), streams=0
        )
    return replace(spec, clients=min(max(spec.clients, 1) * times, _MOST), streams=0)


def parse(text: str) -> LoadSpec:
    """The load in a text such as `rate=200,streams=2`; keys that are left out have defaults.

    Raises:
        ConfigError: lists every mistake, one a line.
    """
    given, mistakes = _pairs(text)
    kind = OpenLoop if "rate" in given else ClosedLoop
    known = [each.name for each in fields(kind)]
    values: dict[str, object] = {}
    for key, value in given.items():
        expected, read = _KEYS.get(key, ("", _nothing))
        if key not in known:
            mistakes.append(f"{key}: {_unknown(key, kind)}")
        elif (found := read(value)) is None:
            mistakes.append(f"{key}: expected {expected}, found {value!r}")
        else:
            values[key] = found
    spec = kind(**values)  # type: ignore[arg-type]
    if isinstance(spec, ClosedLoop) and not spec.clients + spec.streams and not mistakes:
        mistakes.append("expected at least one client, found clients=0,streams=0")
    if mistakes:
        raise ConfigError("\n".join(f"--load: {each}" for each in mistakes))
    return spec


def _pairs(text: str) -> tuple[dict[str, str], list[str]]:
    """The keys with their values, and the mistakes in their form."""
    found: dict[str, str] = {}
    mistakes: list[str] = []
    for part in text.split(","):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not equals or not key:
            mistakes.append(f"expected key=value, found {part!r}")
        elif key in found:
            mistakes.append(f"{key}: expected once, found twice")
        else:
            found[key] = value
    return found, mistakes


def _unknown(key: str, kind: type[ClosedLoop | OpenLoop]) -> str:
    known = ", ".join(each.name for each in fields(kind))
    if key not in _KEYS:
        return f"unknown key; expected one of {known}"
    loop = "an open loop, which has a rate" if kind is ClosedLoop else "a closed loop, without rate"
    return f"is of {loop}; expected one of {known}"


def _text(spec: ClosedLoop | OpenLoop) -> str:
    values = ((each.name, getattr(spec, each.name)) for each in fields(spec))
    return ",".join(f"{name}={_written(value)}" for name, value in values)


def _written(value: object) -> str:
    # Without exponent, and with as many digits as it has.
    return f"{value:.9f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _whole(least: int, most: int) -> Callable[[str], int | None]:
    def read(text: str) -> int | None:
        found = int(text) if re.fullmatch("[0-9]{1,9}", text) else -1
        return found if least <= found <= most else None

    return read


def _rate(text: str) -> float | None:
    found = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else 0.0
    return found if 0 < found <= _FASTEST else None


def _seconds(text: str) -> float | None:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|)", text)
    found = float(match[1]) * _UNITS[match[2]] if match else -1.0
    return found if 0 <= found <= _LONGEST else None


def _schedule(text: str) -> str | None:
    return text if text in get_args(ScheduleKind) else None


def _nothing(text: str) -> None:
    return None


def _keys() -> Iterator[tuple[str, tuple[str, Callable[[str], object]]]]:
    """What is expected at each key, and how it is read: None for another value."""
    several = f"a count of clients, 0 to {_MOST}"
    yield "clients", (several, _whole(0, _MOST))
    yield "streams", (several, _whole(0, _MOST))
    yield "pause", (f"a time from 0 to {_LONGEST:g} s, such as 50ms", _seconds)
    yield "rate", (f"requests a second, above 0 and at most {_FASTEST:g}", _rate)
    yield "schedule", (" or ".join(get_args(ScheduleKind)), _schedule)
    yield "connections", (f"a whole number from 1 to {_MOST}", _whole(1, _MOST))
    most = _MOST_IN_FLIGHT
    yield "in_flight", (f"a whole number from 1 to {most}", _whole(1, most))


_KEYS: Mapping[str, tuple[str, Callable[[str], object]]] = dict(_keys())
