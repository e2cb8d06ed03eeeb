"""A traffic policy as the JSON document in Consul's KV: read, checked, written, compared. Pure.

The schema is protos/sidecar/v1/traffic_policy.proto, and this reader accepts what protobuf's does.
It walks the schema by hand, because protobuf's reader stops at the first mistake.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from sidecar.runtime.errors import ConfigError
from sidecar.traffic import document_values
from sidecar.traffic.constraints import CROSS_FIELD, KEYS, RULES
from sidecar.traffic.policy import (
    Admission,
    Affinity,
    Connection,
    Guard,
    HealthCheck,
    Limits,
    Locality,
    Match,
    ModelRule,
    OutlierDetection,
    Release,
    Retry,
    TrafficPolicy,
)
from sidecar.v1.traffic_policy_pb2 import TrafficPolicy as Schema

# Characters: a transaction of Consul may have 512 KiB, encoded in base64.
LONGEST = 256 * 1024
_REPORTED = 50  # mistakes that are reported at once

# The dataclass of each object of the schema, by the path of its key; `*` as in `RULES`.
_PARTS: Mapping[str, type[Any]] = {
    "": TrafficPolicy,
    "release": Release,
    "release.guard": Guard,
    "affinity": Affinity,
    "locality": Locality,
    "limits": Limits,
    "health_check": HealthCheck,
    "outlier_detection": OutlierDetection,
    "retry": Retry,
    "connection": Connection,
    "match": Match,
    "admission": Admission,
    "models.*": ModelRule,
}
# Keys in documents of earlier versions, and their current names.
_RENAMED: Mapping[str, str] = {
    "outlier_detection.consecutive_gateway_failure": "consecutive_local_origin_failure",
    "outlier_detection.consecutiveGatewayFailure": "consecutive_local_origin_failure",
}


@dataclass(frozen=True, slots=True)
class Change:
    """A key whose value differs, with both as JSON values; None where it is not set."""

    key: str
    before: object
    after: object

    def __str__(self) -> str:
        before, after = (json.dumps(value) for value in (self.before, self.after))
        if self.before is None:
            return f"{self.key}: {after}, was not set"
        if self.after is None:
            return f"{self.key}: no longer set, was {before}"
        return f"{self.key}: {after}, was {before}"


def policy_key(service: str) -> str:
    """The key of a service's policy."""
    return f"triton-sidecar/{service}/policy"


def parse(text: str | bytes) -> TrafficPolicy:
    """The policy in a document; keys that it leaves out have their defaults.

    Raises:
        ConfigError: lists every mistake, one a line: the path of its key, what was expected, and
            what was found.
    """
    reading = _Reading()
    policy = reading.part(Schema.DESCRIPTOR, "", "", _json(text))
    if isinstance(policy, TrafficPolicy):
        reading.fit(policy)
        if not reading.mistakes:
            return policy
    lines = [f"{path}: {message}" if path else message for path, message in reading.mistakes]
    more = [f"and {len(lines) - _REPORTED} more mistakes"] if len(lines) > _REPORTED else []
    raise ConfigError("\n".join([*lines[:_REPORTED], *more]))


def dump(policy: TrafficPolicy) -> str:
    """The document of a policy: the values that differ from the defaults, in schema order."""
    return json.dumps(tree(policy), indent=2) + "\n"


def tree(policy: TrafficPolicy, whole: bool = False) -> dict[str, Any]:
    """A policy as JSON values: those that differ from the defaults, or, if `whole`, all."""
    return _tree("", policy, whole)


def changes(before: TrafficPolicy, after: TrafficPolicy) -> tuple[Change, ...]:
    """The keys whose values differ, in schema order; defaults count as values."""
    old, new = (dict(_leaves("", tree(each, whole=True))) for each in (before, after))
    found = (Change(key, old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new]))
    return tuple(each for each in found if each.before != each.after)


class _Reading:
    """One pass over a document; `mistakes` are paths and what is wrong there."""

    def __init__(self) -> None:
        self.mistakes: list[tuple[str, str]] = []

    def part(self, descriptor: Any, rule: str, path: str, given: object) -> Any:
        """The dataclass of an object of the schema, from those of its values that are valid.

        `rule` is the path under which its kind is known, `path` the one in the document.
        """
        if not isinstance(given, _Object):
            return self._wrong(path, "an object", given)
        # As in protobuf, a key may be written in camel case too.
        fields = descriptor.fields
        known = {name: each for each in fields for name in (each.name, each.camelcase_name)}
        found: dict[str, Any] = {}
        for name, value in self._once(path, given):
            inner = _join(path, name)
            name = _RENAMED.get(inner, name)
            if name not in known:
                keys = ", ".join(each.name for each in fields)
                self.mistakes.append((inner, f"unknown key; expected one of {keys}"))
            elif value is None:
                continue  # in protobuf the same as not set
            elif (field := known[name]).name in found:
                self.mistakes.append((inner, f"expected {field.name} once, by one name"))
            else:
                at = _join(path, field.name)
                found[field.name] = self._value(field, _join(rule, field.name), at, value)
        right = {name: value for name, value in found.items() if value is not None}
        return _PARTS[rule](**right)

    def fit(self, policy: TrafficPolicy) -> None:
        """Check the constraints across values that are individually valid."""
        wrong = [f"{path}." for path, _ in self.mistakes]
        for paths, check in CROSS_FIELD:
            looked = [f"{path}." for path in paths]
            if not any(a.startswith(b) or b.startswith(a) for a in wrong for b in looked):
                self.mistakes += check(policy)

    def _value(self, field: Any, rule: str, path: str, given: object) -> Any:
        if rule in KEYS:
            return self._map(field, rule, path, given)
        if field.is_repeated:
            if not isinstance(given, list):
                return self._wrong(path, "a list", given)
            # A dot before the index, as in mistakes of settings.
            items = [self._leaf(f"{rule}.*", f"{path}.{at}", each) for at, each in enumerate(given)]
            # In protobuf an empty list is the same as none.
            return tuple(each for each in items if each is not None) or None
        if rule in _PARTS:
            return self.part(field.message_type, rule, path, given)
        return self._leaf(rule, path, given)

    def _map(self, field: Any, rule: str, path: str, given: object) -> Any:
        if not isinstance(given, _Object):
            return self._wrong(path, "an object", given)
        found = []
        element = field.message_type.fields_by_name["value"]
        for name, value in self._once(path, given):
            inner = _join(path, name)
            if KEYS[rule].read(name) is None:
                self.mistakes.append((inner, f"expected {KEYS[rule].expected} as the key"))
            elif (read := self._value(element, f"{rule}.*", inner, value)) is not None:
                found.append((name, read))
        return tuple(sorted(found))

    def _once(self, path: str, given: "_Object") -> Iterator[tuple[str, object]]:
        """The items of an object; a duplicate key is a mistake."""
        for name in given.twice:
            self.mistakes.append((_join(path, name), "expected once, found twice"))
        yield from given.items()

    def _leaf(self, rule: str, path: str, given: object) -> Any:
        read = RULES[rule].read(given)
        return self._wrong(path, RULES[rule].expected, given) if read is None else read

    def _wrong(self, path: str, expected: str, given: object) -> None:
        self.mistakes.append((path, f"expected {expected}, found {document_values.shown(given)}"))


class _Object(dict[str, Any]):
    """A JSON object, and its duplicate keys."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(name for name, _ in pairs) if len(pairs) > len(self) else {}
        self.twice = tuple(name for name, count in counts.items() if count > 1)


def _json(text: str | bytes) -> object:
    """The values of a document.

    Raises:
        ConfigError: it is not JSON, or too long.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"expected a document of at most {LONGEST} characters, found {len(text)}")
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=_Object, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise ConfigError("expected JSON in UTF-8, found other bytes") from None
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno}, column {error.colno}"
        raise ConfigError(f"expected JSON, found a mistake {where}: {error.msg}") from None
    except ValueError:  # Python parses at most a few thousand digits
        raise ConfigError("expected JSON, found a number of very many digits") from None
    except RecursionError:
        raise ConfigError("expected JSON of a few levels, found very many") from None


def _no_constant(name: str) -> NoReturn:
    raise ConfigError(f"expected JSON, found {name}, which it does not have")


def _join(path: str, name: str) -> str:
    return f"{path}.{document_values.key(name)}" if path else document_values.key(name)


def _tree(path: str, part: Any, whole: bool) -> dict[str, Any]:
    usual = _PARTS[path]()
    found: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value, inner = getattr(part, field.name), f"{path}.{field.name}".lstrip(".")
        nothing = value in (None, "", ())
        if not nothing and (whole or value != getattr(usual, field.name)):
            found[field.name] = _written(inner, value, whole)
    return found


def _written(path: str, value: Any, whole: bool) -> Any:
    if path in _PARTS:
        return _tree(path, value, whole)
    if path in KEYS:
        return {name: _written(f"{path}.*", each, whole) for name, each in value}
    if isinstance(value, tuple):
        return [RULES[f"{path}.*"].write(each) for each in value]
    return RULES[path].write(value)


def _leaves(path: str, found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in found.items():
        inner = _join(path, name)
        if isinstance(value, dict):
            yield from _leaves(inner, value)
        else:
            yield inner, value
