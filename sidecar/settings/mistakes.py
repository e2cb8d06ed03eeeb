"""The error messages for mistakes in settings: one line each, with source, key, expected, found."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Source = tuple[str, Mapping[str, Any]]
Location = Sequence[int | str]
# The names of the sources that are not files.
FLAG, ENVIRONMENT, CONSULS = "flag", "environment", "environment (CONSUL_*)"

_SHOWN = 80  # characters of a value or of a key
_LISTED = 16  # elements of a list that are shown
_LIST = 'expected a list such as ["a", "b"]'
_TABLE = "expected a table"
_WHOLE = "expected a whole number"
# By pydantic's error type; names in braces come from the error's context. Types that our models
# cannot raise are left out.
EXPECTED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dataclass_type": _TABLE,
    "dict_type": _TABLE,
    "finite_number": "expected a finite number",
    "float_parsing": "expected a number",
    "enum": "expected {expected}",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "invalid_key": "expected a key that is a string",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "list_type": _LIST,
    "literal_error": "expected {expected}",
    "mapping_type": _TABLE,
    "model_attributes_type": _TABLE,
    "model_type": _TABLE,
    "path_type": "expected a path",
    "string_too_long": "expected at most {max_length} characters",
    "string_too_short": "expected at least {min_length} characters",
    "string_type": "expected a string",
    "string_unicode": "expected a string in UTF-8",
    "tuple_type": _LIST,
}
# Types with their own code below, or with the message of a ValueError.
SPECIAL = frozenset({"extra_forbidden", "missing", "too_long", "too_short", "value_error"})
_UNKNOWN = "expected another value"  # of a type that is missing above
_COUNTED = {"too_short": ("least", "min_length"), "too_long": ("most", "max_length")}
_DURATION = re.compile(r"\s*[\d.]+\s*(ms|s|m|h|d)\s*")


def describe(
    cls: type[BaseModel],
    errors: Sequence[ErrorDetails],
    sources: Sequence[Source],
    given: Mapping[str, Any],
) -> Iterator[str]:
    """A line for each error that is not the consequence of another.

    Args:
        cls: the settings class.
        errors: pydantic's errors.
        sources: the sources in order of precedence.
        given: their merged values.
    """
    # pydantic also reports a list whose items are all wrong as too short: once is enough.
    outer = {item["loc"][:depth] for item in errors for depth in range(len(item["loc"]))}
    undotted = {item["loc"][:-1] for item in errors if _undotted(item, given)}
    for item in errors:
        location = item["loc"]
        if location[-1:] == ("[key]",):  # pydantic's name for the key of a table itself
            location = location[:-1]
        if item["type"] == "too_short" and location in outer:
            continue
        if item["type"] == "missing" and location[:-1] in undotted:
            continue
        message = message_for(cls, item, given)
        if not location and (named := re.match(r"([^\s:]+): (.*)", message)):
            location, message = tuple(named[1].split(".")), named[2]
        yield line(origin(sources, location), location, message)


def line(where: str, location: Location, message: str) -> str:
    """The line for one key."""
    key = dotted(location)
    # A table's validator starts its message with the key in the table that it is about.
    separator = "." if key and re.match(r"[a-z_.0-9]+: ", message) else ": "
    line = f"{where}: {key}{separator}{message}" if key else f"{where}: {message}"
    return " ".join(line.splitlines())


def origin(sources: Sequence[Source], location: Location) -> str:
    """The source that has a key; else the file that has most of its path, or the first file."""
    for name, tree in sources:
        if location and at(tree, location) is not None:
            return name
    files = [each for each in sources if each[0] not in (FLAG, ENVIRONMENT, CONSULS)]
    for length in range(len(location) - 1, 0, -1):
        for name, tree in files:
            if at(tree, location[:length]) is not None:
                return name
    return files[0][0]


def at(tree: object, location: Location) -> object:
    """The value at a location in a tree, None if there is none."""
    for part in location:
        if isinstance(tree, Mapping):
            tree = tree.get(part)
        elif isinstance(tree, list | tuple) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return None
    return tree


def unknown(cls: type[BaseModel], location: Location, given: Mapping[str, Any]) -> str:
    """The message for an unknown key."""
    known = sorted({key for table in _tables(cls, location[:-1], given) for key in table})
    return "unknown key" + (f"; expected one of {', '.join(known)}" if known else "")


def found(value: object) -> str:
    """A value as TOML writes it, truncated; for a table or date, its kind."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _cut(repr(value[:_SHOWN]))
        case int() | float():
            return _number(value)
        case Mapping():
            return "a table"
        case list() | tuple():
            return _cut(f"[{', '.join(map(found, value[:_LISTED]))}]")
        case date() | time():
            return f"the date or time {value}"
    return type(value).__name__


def dotted(location: Location) -> str:
    """A key as TOML writes it, with list indices as parts."""
    return ".".join(_part(str(part)) for part in location)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _part(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name):
        return name
    return json.dumps(name[:_SHOWN], ensure_ascii=not name.isprintable())


def _number(value: float) -> str:
    try:
        return _cut(repr(value))
    except ValueError:  # Python refuses to write more than some thousand digits
        return "a number of very many digits"


def message_for(cls: type[BaseModel], item: ErrorDetails, given: Mapping[str, Any]) -> str:
    """The message for one error, without source and key; arguments as for `describe`."""
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return _undotted(item, given) or unknown(cls, item["loc"], given)
    if kind == "missing":
        return f"missing; {_wanted(cls, item['loc'], given)}"
    if kind in _COUNTED:
        word, key = _COUNTED[kind]
        count = context[key]
        items = "item" if count == 1 else "items"
        return f"expected at {word} {count} {items}, found {context['actual_length']}"
    if kind == "value_error":
        message = item["msg"].removeprefix("Value error, ")
        complete = ", found " in message or isinstance(item["input"], Mapping | BaseModel)
    else:
        shown = {key: _shortest(value) for key, value in context.items()}
        message = EXPECTED.get(kind, _UNKNOWN).format(**shown)
        if kind == "string_too_short" and context["min_length"] == 1:
            message = "expected a string that is not empty"
        complete = False
        if kind.startswith(("greater", "less")) and _is_duration(item["input"]):
            message += " s"
    secret = item["loc"][-1:] == ("token",)
    return message if complete or secret else f"{message}, found {found(item['input'])}"


def _wanted(cls: type[BaseModel], location: Location, given: Mapping[str, Any]) -> str:
    """What is expected at a required key."""
    fields = (table.get(str(location[-1])) for table in _tables(cls, location[:-1], given))
    options = [kind for field in fields if field for kind in _unwrapped(field.annotation)]
    option = options[0] if options else None
    if literals := _literals(option):
        return f"expected {', '.join(map(repr, literals))}"
    kind = option if isinstance(option, type) else get_origin(option)
    if isinstance(kind, type) and issubclass(kind, BaseModel | dict):
        return _TABLE
    return _LIST if kind is tuple else "expected a string"


def _shortest(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_duration(value: object) -> bool:
    return isinstance(value, str) and _DURATION.fullmatch(value) is not None


def _undotted(item: ErrorDetails, given: Mapping[str, Any]) -> str:
    """The message for `[canary.a.b]` whose model is `a.b`; empty for other errors."""
    location = item["loc"]
    if item["type"] != "extra_forbidden" or len(location) != 3 or location[0] != "canary":
        return ""
    name, table = [str(part) for part in location[1:]], at(given, location)
    if not isinstance(table, Mapping):
        return ""
    while len(table) == 1 and isinstance(inner := next(iter(table.values())), Mapping):
        name += map(str, table)
        table = inner
    whole = json.dumps(".".join(name)[:_SHOWN], ensure_ascii=False)
    return f"unknown table; a model whose name has a dot is quoted: [canary.{whole}]"


def _tables(
    cls: type[BaseModel], location: Location, given: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """The fields of the tables that are valid at a location."""
    options: list[object] = [cls]
    for part in location:
        options = [inner for option in options for inner in _inside(option, part)]
    models = [each for each in options if isinstance(each, type) and issubclass(each, BaseModel)]
    table = at(given, location)
    kind = table.get("kind") if isinstance(table, Mapping) else None
    for model in models:
        field = model.model_fields.get("kind")
        if len(models) == 1 or field is None or kind in _literals(field.annotation):
            yield model.model_fields


def _inside(annotation: object, part: int | str) -> list[object]:
    """The types that an annotation allows at a key or index of its value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return _unwrapped(field.annotation) if field else []
    arguments = get_args(annotation)
    if get_origin(annotation) in (tuple, list) and isinstance(part, int) and arguments:
        return _unwrapped(arguments[0])
    return _unwrapped(arguments[1]) if get_origin(annotation) is dict else []


def _unwrapped(annotation: object) -> list[object]:
    """The types that an annotation allows."""
    if get_origin(annotation) is Annotated:
        return _unwrapped(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [each for option in get_args(annotation) for each in _unwrapped(option)]
    return [annotation]


def _literals(annotation: object) -> tuple[object, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()
