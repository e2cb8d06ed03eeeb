"""No mistake in settings is reported in a library's words, by its schemas and by trying."""

import itertools
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic_core._pydantic_core import list_all_errors

from sidecar.settings import OperatorSettings, SidecarSettings, XdsSettings, mistakes
from sidecar.settings.mistakes import EXPECTED, SPECIAL
from tests.support.pydantic_words import FOREIGN
from tests.support.soak import times

ROOTS = (SidecarSettings, XdsSettings, OperatorSettings)
Location = tuple[int | str, ...]
_BOUNDS = {
    "gt": "greater_than",
    "ge": "greater_than_equal",
    "lt": "less_than",
    "le": "less_than_equal",
    "multiple_of": "multiple_of",
    "pattern": "string_pattern_mismatch",
}
_LENGTHS = {"min_length": "short", "max_length": "long"}
# What a part of a schema can refuse besides its bounds. An unlisted kind fails the test.
_REFUSALS: Mapping[str, frozenset[str]] = {
    "any": frozenset(),
    "bool": frozenset({"bool_type", "bool_parsing"}),
    "dataclass": frozenset({"dataclass_type"}),
    "dataclass-args": frozenset(),  # validated before: it exists or it does not
    "dataclass-field": frozenset(),
    "default": frozenset(),
    "definition-ref": frozenset(),
    "definitions": frozenset(),
    "dict": frozenset({"dict_type"}),
    "enum": frozenset({"enum"}),
    "float": frozenset({"float_type", "float_parsing", "finite_number"}),
    "function-after": frozenset({"value_error"}),
    "function-before": frozenset({"value_error"}),
    "function-plain": frozenset({"value_error"}),
    "int": frozenset({
        "int_type", "int_parsing", "int_parsing_size", "int_from_float", "finite_number"
    }),
    "literal": frozenset({"literal_error"}),
    "model": frozenset({"model_type", "model_attributes_type"}),
    "model-field": frozenset(),
    "model-fields": frozenset({"extra_forbidden", "invalid_key", "missing", "model_type"}),
    "nullable": frozenset(),
    "str": frozenset({"string_type", "string_unicode"}),
    "tuple": frozenset({"tuple_type"}),
    "union": frozenset(),
}  # fmt: skip


def refusals(schema: Any) -> Iterator[str]:
    """The types of errors that a schema of pydantic-core can raise."""
    if isinstance(schema, list | tuple):
        yield from itertools.chain.from_iterable(map(refusals, schema))
    if not isinstance(schema, dict):
        return
    match kind := schema.get("type"):
        case "lax-or-strict":
            yield from refusals(schema["lax_schema"])
            return
        case "json-or-python":
            yield from refusals(schema["python_schema"])
            return
        case "union" if "custom_error_type" in schema:
            yield schema["custom_error_type"]
            return
        case str():
            yield from _REFUSALS[kind]
            what = "string_too" if kind == "str" else "too"
            lengths = {key: f"{what}_{how}" for key, how in _LENGTHS.items()}
            yield from (name for key, name in (_BOUNDS | lengths).items() if key in schema)
    aside = ("function", "metadata", "serialization")
    yield from refusals([value for key, value in schema.items() if key not in aside])


@pytest.mark.parametrize("root", ROOTS)
def test_every_error_that_a_schema_can_raise_has_a_message(root: type[BaseModel]) -> None:
    found = set(refusals(root.__pydantic_core_schema__))
    assert len(found) > 10
    assert found - EXPECTED.keys() - SPECIAL == set()


def test_an_unhandled_kind_of_schema_is_noticed() -> None:
    class New(BaseModel):
        at: datetime = datetime(2026, 1, 1)

    with pytest.raises(KeyError, match="datetime"):
        list(refusals(New.__pydantic_core_schema__))


def test_every_message_belongs_to_an_existing_error() -> None:
    known = {each["type"] for each in list_all_errors()} | {"path_type"}
    assert (EXPECTED.keys() | SPECIAL) - known == set()


def locations(annotation: object, place: Location = ()) -> Iterator[Location]:
    """Every key below a value of a kind; of lists the first, of tables any."""
    for kind in mistakes._unwrapped(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, field in kind.model_fields.items():
                yield (*place, name)
                yield from locations(field.annotation, (*place, name))
        elif get_origin(kind) is tuple:
            yield (*place, 0)
            yield from locations(get_args(kind)[0], (*place, 0))
        elif get_origin(kind) is dict:
            yield (*place, "m")
            yield from locations(get_args(kind)[1], (*place, "m"))


def tree(root: type[BaseModel], place: Location, value: object) -> dict[str, Any]:
    """Settings with a value at a place, and complete everywhere else."""
    found: Any = value
    for part in reversed(place):
        found = [found] if isinstance(part, int) else {part: found}
    if root is SidecarSettings and place[0] != "triton":
        found = {"triton": {"models": ["m"]}, **found}
    return found  # type: ignore[no-any-return]


def complain(root: type[BaseModel], given: dict[str, Any]) -> None:
    """Check every line of the error, if there is one."""
    try:
        # Not `root(**given)`, which also searches the environment, for most of its time.
        BaseModel.__init__(root.__new__(root), **given)
    except ValidationError as error:
        sources = [("sidecar.toml", given)]
        lines = list(mistakes.describe(root, error.errors(include_url=False), sources, given))
        assert lines
        for line in lines:
            assert re.match(r"sidecar\.toml: \S.*: ", line)
            assert "expected " in line or "unknown " in line, line
            assert mistakes._UNKNOWN not in line, line
            assert "\n" not in line
            assert len(line) < 1000
            assert not [each for each in FOREIGN if each in line], line


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 5, 2**31, 2**63, 10**400, 0.5, -1.5),
    *(float("inf"), float("nan"), "", "x", "-x", "a b", "9" * 500, "\0", "\ud800", "é", "5s"),
    *("0s", "1e9h", "1 week", [], ["a"], [1], [[1]], [True], [None], {}, {"a": 1}, {"a": {}}),
    *({"kind": "x"}, {"kind": "systemd"}, {"kind": 5}, {"": 1}, {1: 2}, b"x", object()),
    *(date(2026, 1, 1), datetime(2026, 1, 1), time(1)),
)
PLACES = [(root, place) for root in ROOTS for place in dict.fromkeys(locations(root))]


@pytest.mark.parametrize("root", ROOTS)
def test_every_key_is_refused_in_our_own_words(root: type[BaseModel]) -> None:
    places = [place for owner, place in PLACES if owner is root]
    assert len(places) > 20
    for place, value in itertools.product(places, ODD):
        complain(root, tree(root, place, value))
        complain(root, tree(root, (*place, "odd"), value))


# A mistake quotes its value: a value with a word of pydantic's would look like its message.
TEXT = st.text(max_size=5).filter(lambda text: not any(each in text for each in FOREIGN))
SCALARS = st.sampled_from(ODD) | st.integers() | st.floats() | TEXT
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=times(300, soaking=3000))
@given(where=st.sampled_from(PLACES), value=ANYTHING)
def test_any_value_at_a_key_is_refused_in_our_own_words(
    where: tuple[type[BaseModel], Location], value: object
) -> None:
    root, place = where
    complain(root, tree(root, place, value))
