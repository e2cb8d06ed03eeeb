"""The types of values in canaries, with their own checks: a pydantic union reports errors twice."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from sidecar.health.canary import bytes_elements

Scalar = bool | int | float | str | bytes
_ALIKE: dict[type, type] = {int: float, bytes: str}  # may be mixed in one list


def _scalars(value: object) -> tuple[Scalar, ...]:
    if isinstance(value, list | tuple):
        elements: tuple[Any, ...] = tuple(map(bytes_elements.read, value))
        kinds = {_ALIKE.get(type(each), type(each)) for each in elements}
        if len(kinds) <= 1 and kinds <= {bool, float, str}:
            return elements
    raise ValueError("expected a flat list of numbers, of booleans or of strings")


def _vector(value: object) -> tuple[float, ...] | Path:
    if isinstance(value, str | Path):
        return Path(value)
    if isinstance(value, list | tuple) and value and all(map(_is_number, value)):
        return tuple(map(float, value))
    raise ValueError("expected a flat list of numbers without nan, or the name of a .npy file")


def _is_number(value: object) -> bool:
    """Whether it is a number; by comparison, because an int may exceed all floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max or value in (math.inf, -math.inf)


def _schema(value: object) -> dict[str, Any] | Path:
    if isinstance(value, str | Path):
        return Path(value)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("expected a JSON schema as a table, or the name of its file")
    from sidecar.health.canary.expectations.schema import schema_fault

    fault = schema_fault(value)
    if fault:
        raise ValueError(fault)
    return value


def _pattern(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a regular expression")
    from sidecar.health.canary.expectations.patterns import pattern_fault

    fault = pattern_fault(value)
    if fault:
        raise ValueError(f"expected a regular expression: {fault}")
    return value


def _parts(value: object) -> tuple[str | bytes, ...]:
    given = value if isinstance(value, list | tuple) else (value,)
    parts = tuple(
        part for part in map(bytes_elements.read, given) if isinstance(part, str | bytes) and part
    )
    if parts and len(parts) == len(given):
        return parts
    raise ValueError("expected a string or a list of strings, none of them empty")


def _label(value: object) -> str | int:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise ValueError("expected a label, or the index of a class from 0")


def _true(value: object) -> Literal[True]:
    if value is True or value == "true":  # the environment knows only strings
        return True
    raise ValueError("expected true; leave it out where it is not expected")


_SETS = {
    "sequence_id": "steps make a sequence",
    "sequence_start": "steps make a sequence",
    "sequence_end": "steps make a sequence",
    "priority": "canaries have the lowest",
    "timeout": "a canary has a timeout of its own",
}


def parameters(value: object) -> dict[str, Scalar]:
    """The parameters of a request by name, as in KServe's InferParameter.

    Raises:
        ValueError: Triton would reject one of them, or interpret it differently.
    """
    if not isinstance(value, Mapping):
        raise ValueError("expected a table of parameters")
    for name, given in value.items():
        if not isinstance(name, str) or not name:
            raise ValueError("expected parameters with names")
        if name in _SETS:
            raise ValueError(f"expected no {name}, because {_SETS[name]}")
        if name.startswith("triton_"):
            raise ValueError(f"expected names that Triton does not reserve, found {name!r:.80}")
        if not _is_parameter(given):
            wanted = "strings, booleans, whole numbers of 64 bits and finite numbers"
            raise ValueError(f"expected {wanted}, found another value of {name!r:.80}")
    return dict(value)


def request_id(value: object) -> str:
    """The id of a request; empty for none.

    Raises:
        ValueError: it cannot be sent.
    """
    if not isinstance(value, str) or not bytes_elements.is_element(value):
        raise ValueError("expected a string")
    return value


def _is_parameter(value: object) -> bool:
    if isinstance(value, str):
        return bytes_elements.is_element(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _printed(elements: tuple[object, ...]) -> list[object]:
    return [bytes_elements.written(each) if isinstance(each, bytes) else each for each in elements]


_Printed = PlainSerializer(_printed, when_used="json")
Named = Annotated[str, Field(min_length=1)]
Elements = Annotated[tuple[Any, ...], BeforeValidator(_scalars), _Printed]
Label = Annotated[str | int, BeforeValidator(_label)]
Parts = Annotated[tuple[Any, ...], BeforeValidator(_parts), _Printed]
RequestId = Annotated[str, BeforeValidator(request_id)]
Parameters = Annotated[dict[str, Any], BeforeValidator(parameters)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Schema = Annotated[dict[str, Any] | Path, BeforeValidator(_schema)]
Vector = Annotated[tuple[float, ...] | Path, BeforeValidator(_vector)]
IsTrue = Annotated[Literal[True], BeforeValidator(_true)]
