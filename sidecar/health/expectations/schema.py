"""The expectation that a text is JSON of a certain form. Pure."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from sidecar.health.expectations.showing import cut, each_text, show
from sidecar.triton_api import Tensor

# Characters: validation in Python takes its time, and nothing else of the sidecar runs meanwhile.
_VALIDATED = 65_536
_SHOWN = 160


@dataclass(frozen=True, eq=False)
class JsonSchema:
    """Each text is JSON that is valid by this schema, which `schema_fault` has no objection to."""

    key: ClassVar[str] = "json_schema"
    output: str
    schema: Mapping[str, Any] = field(repr=False)

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        return each_text(tensor, self._judge)

    def _judge(self, text: str) -> str | None:
        if len(text) > _VALIDATED:
            return f"expected at most {_VALIDATED} characters to validate, got {len(text)}"
        try:
            document = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return f"expected JSON, got {show(text)} ({cut(str(error), _SHOWN)})"
        return self._validated(document)

    def _validated(self, document: object) -> str | None:
        from jsonschema.exceptions import best_match

        try:
            found = best_match(_validator(self.schema).iter_errors(document))
        except Exception as error:  # noqa: BLE001  # a model's text in foreign code
            return f"expected JSON that can be validated, got {type(error).__name__}"
        if found is None:
            return None
        where = cut(f"{found.json_path}: {found.message}", _SHOWN)
        return f"expected JSON that is valid by its schema, got {where}"


def schema_fault(schema: object) -> str:
    """What is wrong with a JSON schema, empty if nothing is.

    References must point into the schema itself: nothing is fetched.
    """
    from jsonschema.exceptions import SchemaError
    from referencing import Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

    if not isinstance(schema, Mapping):
        return f"expected a JSON schema, found {show(schema)}"
    validator = _validator(schema)
    try:
        type(validator).check_schema(schema)
    except SchemaError as error:
        message = cut(f"{error.json_path}: {error.message}", _SHOWN)
        return f"expected a JSON schema: {message}"
    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = EMPTY_REGISTRY.resolver_with_root(root)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            return f"expected references within the schema, found {show(reference)}"
    return ""


def _validator(schema: Mapping[str, Any]) -> Any:
    """A validator of the draft that `$schema` names, by default 2020-12, which fetches nothing."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing.jsonschema import EMPTY_REGISTRY

    return validator_for(schema, default=Draft202012Validator)(schema, registry=EMPTY_REGISTRY)


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list | tuple):
        for item in schema:
            yield from _references(item)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
