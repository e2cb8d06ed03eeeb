"""`[canary.MODEL]`: one inference with a known answer.

File names are relative to the TOML file that contains them.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from sidecar.health.canary.datatypes import (
    MOST_PIXELS,
    Datatype,
    holds,
    may_equal,
    may_have,
    size_fault,
)
from sidecar.settings.mistakes import found
from sidecar.settings.tables.canary_values import (
    Elements,
    IsTrue,
    Label,
    Named,
    Parameters,
    Parts,
    Pattern,
    RequestId,
    Schema,
    Vector,
)
from sidecar.settings.values import Duration, Number, Table, Whole, matching


class CanaryInput(Table):
    """One input tensor: flat `data` in row-major order, or a `file`.

    A BYTES element is text, or bytes as `{ hex = "80 01 fe" }` or `{ base64 = "gAH+" }`.

    A file is one of

    - `.npy`, whose values must fit the datatype without losing kind or range;
    - `.json`, a list, flat or nested like the tensor;
    - an image. As BYTES it is sent unchanged, as one element. As a numeric datatype it is decoded
      and scaled to `shape`: [height, width, channels] or else [channels, height, width] with 1
      (grey), 3 (RGB) or 4 (RGBA) channels, or [height, width] for grey, all with leading extents of
      1 if needed. Integers range from 0 to 255, floating values from 0 to 1.

    `shape` is required, except for a file that has its own.
    """

    name: Named
    datatype: Datatype
    shape: tuple[Annotated[Whole, Field(ge=0)], ...] | None = None
    data: Elements | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.data is None) == (self.file is None):
            raise ValueError("expected exactly one of data and file")
        if self.shape is not None and (fault := size_fault(self.datatype, self.shape)):
            raise ValueError(f"shape: {fault}")
        if self.data is None:
            return self
        if self.shape is None:
            raise ValueError("shape: expected the shape of data")
        size = math.prod(self.shape)
        if size != len(self.data):
            raise ValueError(
                f"data: expected {size} elements for this shape, found {len(self.data)}"
            )
        for element in self.data:
            if not holds(self.datatype, element):
                wanted = f"expected elements of datatype {self.datatype}"
                raise ValueError(f"data: {wanted}, found {found(element)}")
        return self


class ImageExpectation(Table):
    """The minimum size of an image in pixels."""

    min_width: Whole = Field(default=1, ge=1, le=MOST_PIXELS)
    min_height: Whole = Field(default=1, ge=1, le=MOST_PIXELS)

    @model_validator(mode="after")
    def _judgeable(self) -> Self:
        if self.min_width * self.min_height > MOST_PIXELS:
            raise ValueError(
                f"min_width: expected at most {MOST_PIXELS} pixels,"
                f" found {self.min_width} x {self.min_height}"
            )
        return self


class CanaryExpectation(Table):
    """The conditions on one output of the canary; all of them must hold.

    Conditions on text (`contains`, `regex`, `json_schema`, `not_degenerate`, lengths in characters)
    apply to each element. `equals`, `allclose` and `cosine` compare the elements in row-major
    order, whatever the shape. Conditions on text and on numbers exclude each other.
    """

    output: Named
    datatype: Datatype | None = None
    shape: tuple[Annotated[Whole, Field(ge=-1)], ...] | None = None
    min_length: Whole | None = Field(default=None, ge=0)
    max_length: Whole | None = Field(default=None, ge=0)
    equals: Elements | None = None
    contains: Parts | None = None
    regex: Pattern | None = None
    json_schema: Schema | None = None
    not_degenerate: IsTrue | None = None
    finite: IsTrue | None = None
    allclose: Vector | None = None
    atol: Number = Field(default=1e-5, ge=0)
    rtol: Number = Field(default=1e-4, ge=0)
    cosine: Vector | None = None
    at_least: Number = Field(default=0.99, ge=-1, le=1)
    label: Label | None = None
    image: ImageExpectation | None = None

    @model_validator(mode="before")
    @classmethod
    def _image_is_true(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("image") is True:
            return given | {"image": {}}
        return given

    @model_validator(mode="after")
    def _meant(self) -> Self:
        given = {key for key in self.model_fields_set if getattr(self, key) is not None}
        if not given - {"output", *_DEPENDENT}:
            conditions = sorted(set(type(self).model_fields) - {"output", *_DEPENDENT})
            raise ValueError(f"expected one or more of {', '.join(conditions)}")
        for key, owner in _DEPENDENT.items():
            if key in given and owner not in given:
                raise ValueError(f"{key}: expected only with {owner}")
        if self.max_length is not None and (self.min_length or 0) > self.max_length:
            raise ValueError(
                f"min_length: expected at most max_length, which is {self.max_length},"
                f" found {self.min_length}"
            )
        if self.equals and any(element != element for element in self.equals):
            raise ValueError("equals: expected values that equal themselves, found nan")
        if isinstance(self.cosine, tuple):
            if not all(map(math.isfinite, self.cosine)):
                raise ValueError("cosine: expected finite numbers")
            if not any(self.cosine):
                raise ValueError("cosine: expected numbers that are not all zero")
        return self

    @model_validator(mode="after")
    def _possible(self) -> Self:
        """Refuse conditions of different kinds or sizes, which no answer can meet."""
        kinds = list(self._kinds())
        for (one, first), (other, second) in pairwise(kinds):
            if first != second:
                raise ValueError(
                    f"{other}: expected no condition on {second} with {one}, which is on {first}"
                )
        for element in self.equals or ():
            if self.datatype is not None and not may_equal(self.datatype, element):
                wanted = f"expected elements that {self.datatype} can have"
                raise ValueError(f"equals: {wanted}, found {found(element)}")
        for key in ("equals", "allclose", "cosine"):
            elements = getattr(self, key)
            size = len(elements) if isinstance(elements, tuple) else None
            if size is not None and self.shape is not None and not may_have(self.shape, size, size):
                wanted = f"expected as many elements as the shape {list(self.shape)!s:.80} holds"
                raise ValueError(f"{key}: {wanted}, found {size}")
        return self

    def _kinds(self) -> Iterator[tuple[str, str]]:
        """The keys that imply text or numbers, each with which of the two."""
        if self.datatype is not None:
            yield "datatype", "text" if self.datatype == "BYTES" else "numbers"
        for element in self.equals or ():
            yield "equals", "text" if isinstance(element, str | bytes) else "numbers"
        for kind, keys in _KINDS.items():
            yield from ((key, kind) for key in keys if getattr(self, key) is not None)
        if isinstance(self.label, str):
            yield "label", "text"  # only Triton knows labels, and returns them as text


_KINDS = {
    "text": ("contains", "regex", "json_schema", "not_degenerate"),
    "numbers": ("finite", "allclose", "cosine"),
}
# Keys that are parameters of another condition.
_DEPENDENT = {"atol": "allclose", "rtol": "allclose", "at_least": "cosine"}


class LatencySettings(Table):
    """Above `warn` an answer is slow, above `fail` too slow to be useful.

    `first_*` are for the first response of a stream, the others for the whole answer. `traffic` is
    the mean of clients' requests above which they are slow.
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
                raise ValueError(
                    f"{prefix}warn: expected at most {prefix}fail, which is {fail:g} s,"
                    f" found {warn:g} s"
                )
        return self


Inputs = tuple[CanaryInput, ...]


class CanarySettings(Table):
    """One inference with a known answer: `inputs`, or `steps` for a sequence model.

    Without either it has no inputs, for models that take none.
    """

    # After this an answer is late.
    timeout: Duration = 2.0
    # After this time without progress the model is hung; by default health.stall.
    stall: Duration | None = None
    # The version that has to be loaded; any by default.
    version: Annotated[str, matching(r"[0-9]+", 'a version such as "1"')] | None = None
    inputs: Inputs | None = None
    steps: Annotated[tuple[Inputs, ...], Field(min_length=1)] | None = None
    # KServe's parameters and id of each request.
    parameters: Parameters = Field(default_factory=dict)
    id: RequestId = ""
    expect: tuple[CanaryExpectation, ...] = Field(min_length=1)
    latency: LatencySettings = LatencySettings()

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.inputs is not None and self.steps is not None:
            raise ValueError("expected inputs or steps, found both")
        for inputs in (self.inputs,) if self.inputs else self.steps or ():
            names = [given.name for given in inputs]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                key = "inputs" if self.inputs else "steps"
                raise ValueError(f"{key}: expected each name once, found {found(twice)} twice")
        return self
