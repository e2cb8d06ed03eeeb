"""JSON schema validation with bounded work. Pure.

A schema can require work that grows exponentially, and a text work that grows quadratically.
Validation stops after `_STEPS`, or a pattern's timeout. The keywords that search for patterns or
compare all elements with each other are replaced, because jsonschema's cannot be bounded.
"""

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from sidecar.health.canary.expectations.patterns import matches

_STEPS = 50_000  # keywords evaluated; a text of 64 KiB has at most 32,768 elements
_left: ContextVar[list[int]] = ContextVar("steps that are left")


def violations(schema: Mapping[str, Any], document: object) -> Iterator[Any]:
    """Jsonschema's errors for a document.

    Consume them before validating another document.

    Raises:
        TimeoutError: validation takes too long.
    """
    _left.set([_STEPS])
    yield from validator(schema).iter_errors(document)


def validator(schema: Mapping[str, Any]) -> Any:
    """A validator of the draft that `$schema` names, by default 2020-12; fetches nothing."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing.jsonschema import EMPTY_REGISTRY

    draft = schema if isinstance(schema.get("$schema"), str) else {}
    cls = validator_for(draft, default=Draft202012Validator)
    # Without `$schema`: evolving to a schema that names its draft gives jsonschema's own class.
    rest = {key: value for key, value in schema.items() if key != "$schema"}
    return _bounded(cls)(rest, registry=EMPTY_REGISTRY)


@lru_cache
def _bounded(cls: Any) -> Any:
    from jsonschema.validators import extend

    own = {key: judge for key, judge in _OWN.items() if key in cls.VALIDATORS}
    judges = {**cls.VALIDATORS, **own}
    counted = {key: _counted(judge) for key, judge in judges.items()}
    return extend(cls, counted)  # type: ignore[no-untyped-call]


def _counted(judge: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def count(*given: Any) -> Iterator[Any]:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0:
            raise TimeoutError("its schema takes too long to judge")
        yield from judge(*given) or ()

    return count


def _pattern(validator: Any, pattern: str, text: object, _: object) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if validator.is_type(text, "string") and not matches(pattern, str(text)):
        yield ValidationError(f"{text!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], table: Any, _: object
) -> Iterator[Any]:
    if validator.is_type(table, "object"):
        for pattern, schema in patterns.items():
            for key, value in table.items():
                if matches(pattern, key):
                    yield from validator.descend(value, schema, path=key, schema_path=pattern)


def _additional_properties(
    validator: Any, wanted: object, table: Any, schema: Mapping[str, Any]
) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if not validator.is_type(table, "object"):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for key, value in table.items():
        if key in named or any(matches(pattern, key) for pattern in patterns):
            continue
        if validator.is_type(wanted, "object"):
            yield from validator.descend(value, wanted, path=key)
        elif not wanted:
            yield ValidationError(f"the property {key!r} is not allowed")


def _unique_items(validator: Any, wanted: object, items: Any, _: object) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if not wanted or not validator.is_type(items, "array"):
        return
    if len(set(map(_comparable, items))) < len(items):
        yield ValidationError(f"{items!r} has elements that are not unique")


def _comparable(value: object) -> object:
    """A key that is the same exactly for equal JSON values: 1 equals 1.0, but not true."""
    if isinstance(value, Mapping):
        return "table", frozenset((key, _comparable(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return "list", tuple(map(_comparable, value))
    return isinstance(value, bool), value


_OWN = {
    "additionalProperties": _additional_properties,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "uniqueItems": _unique_items,
}
