"""`[canary.MODEL]`: one inference whose answer is known.

Files are named relative to the TOML file that names them.
"""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sidecar.health.datatypes import Datatype, holds
from sidecar.settings.values import Duration, Table

Scalar = bool | int | float | str


def _scalars(value: object) -> tuple[Scalar, ...]:
    if isinstance(value, list | tuple) and all(isinstance(each, Scalar) for each in value):
        return tuple(value)
    raise ValueError("expected a flat list of numbers, booleans or strings")


def _vector(value: object) -> tuple[float, ...] | Path:
    """Flat numbers or their file, checked here: a union would report each element twice."""
    if isinstance(value, str | Path):
        return Path(value)
    if isinstance(value, list | tuple) and value and all(map(_is_number, value)):
        return tuple(map(float, value))
    raise ValueError("expected a flat list of numbers, or the name of a .npy file")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _schema(value: object) -> dict[str, Any] | Path:
    if isinstance(value, str | Path):
        return Path(value)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON schema as a table, or the name of its file")
    from sidecar.health.expectations.schema import schema_fault

    fault = schema_fault(value)
    if fault:
        raise ValueError(fault)
    return value


def _pattern(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a regular expression")
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    return value


def _parts(value: object) -> tuple[str, ...]:
    parts = (value,) if isinstance(value, str) else value
    if isinstance(parts, list | tuple) and parts and all(isinstance(p, str) and p for p in parts):
        return tuple(parts)
    raise ValueError("expected a string or a list of strings, none of them empty")


def _label(value: object) -> str | int:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("expected a label, or the index of a class from 0")


def _true(value: object) -> Literal[True]:
    if value is True or value == "true":  # the environment knows only strings
        return True
    raise ValueError("expected true; leave it out where it is not expected")


Elements = Annotated[tuple[Scalar, ...], BeforeValidator(_scalars)]
Vector = Annotated[tuple[float, ...] | Path, BeforeValidator(_vector)]
IsTrue = Annotated[Literal[True], BeforeValidator(_true)]


class CanaryInput(Table):
    """One input tensor: `data` that is flat, in row-major order, or a `file`.

    A file is one of

    - `.npy`, whose dtype the datatype has to hold without loss of kind or range;
    - `.json`, a list, flat or nested like the tensor;
    - an image. As BYTES it is sent as it is, one element. As a numeric datatype it is decoded and
      scaled to `shape`: [height, width, channels] or else [channels, height, width] with 1 (grey),
      3 (RGB) or 4 (RGBA) channels, or [height, width] for grey, all with extents of 1 in front if
      need be. Integers go from 0 to 255, floating values from 0 to 1.

    `shape` says how the elements are laid out; it may be left out for a file that says so itself.
    """

    name: str
    datatype: Datatype
    shape: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    data: Elements | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.data is None) == (self.file is None):
            raise ValueError("expected exactly one of data and file")
        if self.data is None:
            return self
        if self.shape is None:
            raise ValueError("shape: expected the shape of data")
        size = math.prod(self.shape)
        if size != len(self.data):
            raise ValueError(f"data: expected {size} elements for this shape, got {len(self.data)}")
        for element in self.data:
            if not holds(self.datatype, element):
                raise ValueError(
                    f"data: expected elements of datatype {self.datatype}, found {element!r:.80}"
                )
        return self


class ImageExpectation(Table):
    """The least extent of an image in pixels."""

    min_width: int = Field(default=1, ge=1)
    min_height: int = Field(default=1, ge=1)


class CanaryExpectation(Table):
    """What one output of the canary has to be: one or more conditions, all of which must hold.

    Conditions on text (`contains`, `regex`, `json_schema`, `not_degenerate`, lengths in characters)
    hold for each of its elements. `equals`, `allclose` and `cosine` take the elements in row-major
    order, whatever the shape.
    """

    output: str
    datatype: Datatype | None = None
    shape: tuple[Annotated[int, Field(ge=-1)], ...] | None = None
    min_length: int | None = Field(default=None, ge=0)
    max_length: int | None = Field(default=None, ge=0)
    equals: Elements | None = None
    contains: Annotated[tuple[str, ...], BeforeValidator(_parts)] | None = None
    regex: Annotated[str, BeforeValidator(_pattern)] | None = None
    json_schema: Annotated[dict[str, Any] | Path, BeforeValidator(_schema)] | None = None
    not_degenerate: IsTrue | None = None
    finite: IsTrue | None = None
    allclose: Vector | None = None
    atol: float = Field(default=1e-5, ge=0, allow_inf_nan=False)
    rtol: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    cosine: Vector | None = None
    at_least: float = Field(default=0.99, ge=-1, le=1)
    label: Annotated[str | int, BeforeValidator(_label)] | None = None
    image: ImageExpectation | None = None

    @model_validator(mode="before")
    @classmethod
    def _image_is_true(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("image") is True:
            return given | {"image": {}}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = {key for key in self.model_fields_set if getattr(self, key) is not None}
        if not given - {"output", *_DEPENDENT}:
            conditions = sorted(set(type(self).model_fields) - {"output", *_DEPENDENT})
            raise ValueError(f"expected one or more of {', '.join(conditions)}")
        for key, owner in _DEPENDENT.items():
            if key in given and owner not in given:
                raise ValueError(f"{key}: expected only beside {owner}")
        if self.max_length is not None and (self.min_length or 0) > self.max_length:
            raise ValueError("min_length: expected at most max_length")
        if self.equals and any(element != element for element in self.equals):
            raise ValueError("equals: expected values that equal themselves, found nan")
        if isinstance(self.cosine, tuple) and not (
            any(self.cosine) and all(map(math.isfinite, self.cosine))
        ):
            raise ValueError("cosine: expected finite numbers that are not all zero")
        return self


# Keys that say how another condition is meant.
_DEPENDENT = {"atol": "allclose", "rtol": "allclose", "at_least": "cosine"}


class LatencySettings(Table):
    """Above `warn` an answer is slow, above `fail` too slow to be of use.

    `first_*` are for the first response of a stream, the others for the whole answer. Above
    `traffic` the mean of the requests of clients is slow.
    """

    warn: Duration | None = None
    fail: Duration | None = None
    first_warn: Duration | None = None
    first_fail: Duration | None = None
    traffic: Duration | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for prefix in ("", "first_"):
            warn, fail = getattr(self, f"{prefix}warn"), getattr(self, f"{prefix}fail")
            if warn is not None and fail is not None and warn > fail:
                raise ValueError(f"{prefix}warn: expected at most {prefix}fail")
        return self


Inputs = Annotated[tuple[CanaryInput, ...], Field(min_length=1)]


class CanarySettings(Table):
    """One inference whose answer is known: `inputs`, or for a sequence model its `steps`."""

    timeout: Duration = 2.0
    stall: Duration | None = None
    # The version that has to be loaded; any, if it is left out.
    version: Annotated[str, Field(pattern=r"^\d+$")] | None = None
    inputs: Inputs | None = None
    steps: Annotated[tuple[Inputs, ...], Field(min_length=1)] | None = None
    expect: tuple[CanaryExpectation, ...] = Field(min_length=1)
    latency: LatencySettings = LatencySettings()

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.inputs is None) == (self.steps is None):
            raise ValueError("expected exactly one of inputs and steps")
        for inputs in (self.inputs,) if self.inputs else self.steps or ():
            names = [given.name for given in inputs]
            if len(set(names)) < len(names):
                raise ValueError(f"{'inputs' if self.inputs else 'steps'}: expected each name once")
        return self
