"""JSON documents are judged as `jsonschema` judges them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from sidecar.health.canary.expectations import (
    JsonSchema,
    broken_by,
)
from sidecar.health.canary.expectations.schema import schema_fault
from tests.support.answers import text


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": r"^\p{Lu}"},
        {
            "patternProperties": {"^a": {"type": "integer"}},
            "additionalProperties": {"minLength": 2},
        },
        {"properties": {"b": {}}, "additionalProperties": False},
        {"uniqueItems": True, "items": {"uniqueItems": True}},
        {"$schema": "http://json-schema.org/draft-04/schema#", "type": ["object", "array"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
    ],
    ids=json.dumps,
)
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([1.0, "a", "Ab", "b"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "ab", "b"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_documents_are_judged_as_jsonschema_judges_them(
    schema: dict[str, object], document: object
) -> None:
    cls = validator_for(schema, default=Draft202012Validator)
    plain = json.loads(json.dumps(schema).replace(r"\\p{Lu}", "[A-Z]"))
    assert schema_fault(schema) == ""
    found = broken_by([JsonSchema("o", schema)], text(json.dumps(document)))
    assert (found is None) == cls(plain).is_valid(document)  # type: ignore[arg-type]


_KEYWORDS = st.sampled_from([
    *("$schema", "$id", "$ref", "$defs", "$anchor", "$dynamicRef", "type", "enum", "const", "not"),
    *("items", "properties", "pattern", "patternProperties", "additionalProperties", "required"),
    *("allOf", "if", "then", "multipleOf", "uniqueItems", "contains", "minItems", "dependencies"),
    *("unevaluatedProperties", "unevaluatedItems", "propertyNames", "format", "default"),
])  # fmt: skip
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["#", "string", "object", "(", "http://json-schema.org/draft-03/schema#"])
)
_SCHEMAS = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYWORDS, inner, max_size=4),
    max_leaves=10,
)


@given(schema=_SCHEMAS | st.dictionaries(_KEYWORDS, _SCHEMAS, max_size=4), document=_SCHEMAS)
def test_any_schema_is_used_or_refused_in_one_line(schema: object, document: object) -> None:
    fault = schema_fault(schema)
    assert len(fault.splitlines()) <= 1
    if not fault and isinstance(schema, dict):
        broken_by([JsonSchema("o", schema)], text(json.dumps(document)))
