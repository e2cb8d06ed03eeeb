"""The expectation that a text is JSON that is valid against a schema. Pure."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from sidecar.health.canary.expectations.formatting import cut, each_element, plain, show
from sidecar.health.canary.expectations.patterns import pattern_fault, shown
from sidecar.runtime.errors import kind
from sidecar.triton.api import Tensor

# Characters: validation in Python is slow, and it blocks the rest of the sidecar.
_VALIDATED = 65_536
_SHOWN = 160
_REFERENCES = ("$ref", "$dynamicRef")
_SAMPLES: tuple[object, ...] = (None, True, 0, "", [], {})


@dataclass(frozen=True, eq=False)
class JsonSchema:
    """Each text is valid JSON by this schema, for which `schema_fault` is empty."""

    key: ClassVar[str] = "json_schema"
    output: str
    schema: Mapping[str, Any] = field(repr=False)

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        return each_element(tensor, self._judge)

    def _judge(self, element: bytes) -> str | None:
        text = plain(element)
        if not isinstance(text, str):
            return f"expected JSON, got {show(text)}, which is no UTF-8"
        if len(text) > _VALIDATED:
            return f"expected at most {_VALIDATED} characters to validate, got {len(text)}"
        try:
            document = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return f"expected JSON, got {show(text)} ({cut(str(error), _SHOWN)})"
        return self._validated(document)

    def _validated(self, document: object) -> str | None:
        from jsonschema.exceptions import best_match

        from sidecar.health.canary.expectations.bounded_validation import violations

        try:
            found = best_match(violations(self.schema, document))
        except TimeoutError as error:
            return f"expected JSON that can be validated in time, but {error}"
        except Exception as error:  # noqa: BLE001  # a model's text can raise anything in jsonschema
            return f"expected JSON that can be validated, got {kind(error)}"
        if found is None:
            return None
        where = cut(f"{found.json_path}: {found.message}", _SHOWN)
        return f"expected JSON that is valid by its schema, got {where}"


def schema_fault(schema: object) -> str:
    """What is wrong with a JSON schema, in one line; empty if nothing is.

    References must point into the schema itself: nothing is fetched.
    """
    if not isinstance(schema, Mapping):
        return f"expected a JSON schema, found {show(schema)}"
    try:
        fault = _form_fault(schema) or _reference_fault(schema) or _unbounded_fault(schema)
        return fault or _working_fault(schema)
    except Exception as error:  # noqa: BLE001  # whatever an odd schema does to foreign code
        return f"expected a JSON schema that can be read ({kind(error)})"


def _form_fault(schema: Mapping[str, Any]) -> str:
    from jsonschema import FormatChecker
    from jsonschema.exceptions import SchemaError

    from sidecar.health.canary.expectations.bounded_validation import validator

    try:
        # Without formats: patterns are not compiled by Python's own module.
        draft = type(validator(schema))
        draft.check_schema(schema, format_checker=FormatChecker(formats=()))
    except SchemaError as error:
        message = cut(f"{error.json_path}: {error.message}", _SHOWN)
        return f"expected a JSON schema: {' '.join(message.splitlines())}"
    return ""


def _reference_fault(schema: Mapping[str, Any]) -> str:
    from referencing import Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = EMPTY_REGISTRY.resolver_with_root(root)
    for key, value in _entries(schema):
        if key in _REFERENCES and isinstance(value, str):
            try:
                resolver.lookup(value)
            except Unresolvable:
                return f"expected references within the schema, found {show(value)}"
    return ""


def _unbounded_fault(schema: Mapping[str, Any]) -> str:
    """What is wrong with its patterns, or would bypass the bounds on the work."""
    entries = list(_entries(schema))
    for key, value in entries:
        patterns = [value] if key == "pattern" else value if key == "patternProperties" else ()
        for pattern in patterns if isinstance(patterns, list | Mapping) else ():
            if isinstance(pattern, str) and (fault := pattern_fault(pattern)):
                return f"expected a JSON schema: {shown(pattern)}: {fault}"
    if {"patternProperties", "unevaluatedProperties"} <= {key for key, _ in entries}:
        return "expected a JSON schema with patternProperties or unevaluatedProperties, found both"
    if any(key == "$schema" and value is not schema.get(key) for key, value in entries):
        return "expected $schema at the top of a JSON schema, found it inside"
    return ""


def _working_fault(schema: Mapping[str, Any]) -> str:
    """Why it cannot validate at all, as with a reference to itself; empty if it can."""
    from sidecar.health.canary.expectations.bounded_validation import violations

    for sample in _SAMPLES:
        try:
            for _ in violations(schema, sample):
                pass
        except Exception as error:  # noqa: BLE001  # whatever an odd schema does to foreign code
            why = str(error) if isinstance(error, TimeoutError) else kind(error)
            return f"expected a JSON schema that can judge {json.dumps(sample)}, found {why}"
    return ""


def _entries(schema: object) -> Iterator[tuple[str, object]]:
    """Every key and value in it, at any depth."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(schema, list | tuple):
        for item in schema:
            yield from _entries(item)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
