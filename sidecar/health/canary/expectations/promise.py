"""Checks whether an output as a model describes it can ever meet an expectation. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.health.canary.datatypes import NAMES, agree, may_equal, may_have
from sidecar.health.canary.expectations import (
    AllClose,
    Contains,
    Cosine,
    Datatype,
    Equals,
    Expectation,
    Finite,
    Image,
    JsonSchema,
    Label,
    Length,
    NotDegenerate,
    Regex,
    Shape,
)
from sidecar.health.canary.expectations.formatting import show

_COLOURS = 3  # extents along the axis of an image's colours


@dataclass(frozen=True, slots=True)
class Promise:
    """A model's description of an output: -1 is any extent, None any shape.

    `why` ends the sentence that says what cannot be met.
    """

    datatype: str
    shape: tuple[int, ...] | None
    why: str


def broken(expectation: Expectation, promise: Promise) -> str:
    """Why such an output can never meet an expectation; empty if it may."""
    if promise.datatype not in NAMES:
        return ""
    fault = _of_kind(expectation, promise) or _of_extent(expectation, promise.shape)
    return f"{expectation.key}: {fault}, because {promise.why}" if fault else ""


def _of_kind(expectation: Expectation, promise: Promise) -> str:
    is_text = promise.datatype == "BYTES"
    match expectation:
        case Datatype(datatype=wanted) if wanted != promise.datatype:
            return f"expected the datatype {promise.datatype}, found {wanted}"
        case Contains() | Regex() | JsonSchema() | NotDegenerate() if not is_text:
            return "expected a condition on numbers"
        case Finite() | AllClose() | Cosine() if is_text:
            return "expected a condition on text"
        case Equals(elements=elements):
            strange = [each for each in elements if not may_equal(promise.datatype, each)]
            if strange:
                wanted = f"expected elements that {promise.datatype} can have"
                return f"{wanted}, found {show(strange[0])}"
    return "" if is_text else _of_numbers(expectation, promise)


def _of_numbers(expectation: Expectation, promise: Promise) -> str:
    """Why an output of numbers cannot meet an expectation that text might meet."""
    shape = promise.shape
    match expectation:
        case Image() if promise.datatype == "BOOL":
            return "expected no image"
        case Image() if shape is not None:
            return _of_image(expectation, shape)
        case Length() if shape is not None:
            return _of_length(expectation, shape)
        case Label(label=int(index)) if shape and 0 < shape[-1] <= index:
            return f"expected a class below {shape[-1]}, found {index}"
    return ""


def _of_extent(expectation: Expectation, shape: Sequence[int] | None) -> str:
    match expectation:
        case Shape(extents=extents) if shape is not None and not agree(extents, shape):
            return f"expected the shape {list(shape)}, found {show(extents)}"
        case Equals() | AllClose() | Cosine() if shape is not None:
            size = len(expectation.elements)
            if not may_have(shape, size, size):
                return f"expected as many elements as {list(shape)} holds, found {size}"
    return ""


def _of_length(wanted: Length, shape: Sequence[int]) -> str:
    if may_have(shape, wanted.least, wanted.most):
        return ""
    most = "any" if wanted.most is None else wanted.most
    return f"expected as many elements as {list(shape)} holds, found {wanted.least} to {most}"


def _of_image(wanted: Image, shape: Sequence[int]) -> str:
    """A numeric image is [height, width, 3] or [3, height, width], or a batch of them."""
    places = []
    if len(shape) in (3, 4):
        if shape[-1] in (-1, _COLOURS):
            places.append((shape[-3], shape[-2]))
        if shape[-3] in (-1, _COLOURS):
            places.append((shape[-2], shape[-1]))
    if not places:
        return "expected no image"
    for height, width in places:
        if (height < 0 or height >= wanted.min_height) and (width < 0 or width >= wanted.min_width):
            return ""
    return f"expected a smaller image, found at least {wanted.min_width} x {wanted.min_height}"
