"""Expectations of the tensor itself: datatype, shape, length, elements. Pure."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sidecar.health.canary.bytes_elements import encoded
from sidecar.health.canary.datatypes import is_floating
from sidecar.health.canary.expectations.formatting import each_text, is_text, plain, show
from sidecar.triton.api import Tensor
from sidecar.triton.tensors import decode, encode


@dataclass(frozen=True, slots=True)
class Datatype:
    """The output is of this KServe datatype."""

    key: ClassVar[str] = "datatype"
    output: str
    datatype: str

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        if tensor.datatype == self.datatype:
            return None
        return f"expected {self.datatype}, got {show(tensor.datatype)}"


@dataclass(frozen=True, slots=True)
class Shape:
    """The output has this shape; -1 is any extent."""

    key: ClassVar[str] = "shape"
    output: str
    extents: tuple[int, ...]

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        if fits(self.extents, tensor.array.shape):
            return None
        return f"expected {list(self.extents)}, got {list(tensor.array.shape)}"


def fits(wanted: tuple[int, ...], extents: tuple[int, ...]) -> bool:
    """Whether a shape is as wanted, with -1 for any extent."""
    return len(wanted) == len(extents) and all(
        want in (-1, extent) for want, extent in zip(wanted, extents, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Length:
    """Each text has so many characters; an output of numbers has so many elements."""

    key: ClassVar[str] = "length"
    output: str
    least: int = 0
    most: int | None = None

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        if is_text(tensor):
            return each_text(tensor, lambda text: self._judge(len(text), "characters"))
        return self._judge(tensor.array.size, "elements")

    def _judge(self, length: int, unit: str) -> str | None:
        if length < self.least:
            return f"expected at least {self.least} {unit}, got {length}"
        if self.most is not None and length > self.most:
            return f"expected at most {self.most} {unit}, got {length}"
        return None


@dataclass(frozen=True, slots=True)
class Equals:
    """The output's elements, in row-major order, are exactly these.

    An expected number is first rounded to the output's datatype, so that 0.1 equals FP32's 0.1.
    Text is compared as bytes.
    """

    key: ClassVar[str] = "equals"
    output: str
    elements: tuple[object, ...]

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        if tensor.array.size != len(self.elements):
            return f"expected {len(self.elements)} elements, got {tensor.array.size}"
        for index, (expected, element) in enumerate(
            zip(self.elements, tensor.array.flat, strict=True)
        ):
            got = element if isinstance(element, bytes) else plain(element)
            if not _same(expected, got, tensor.datatype):
                where = f"[{index}]: " if len(self.elements) > 1 else ""
                return f"{where}{_difference(expected, got)}"
        return None


def _difference(expected: object, got: object) -> str:
    wanted, found = show(expected), show(plain(got))
    if wanted == found and isinstance(expected, str | bytes) and isinstance(got, bytes):
        pairs = enumerate(zip(encoded(expected), got, strict=False))
        ends = min(len(encoded(expected)), len(got))
        first = next((place for place, (one, other) in pairs if one != other), ends)
        return f"expected {wanted}, got what differs from byte {first} on"
    return f"expected {wanted}, got {found}"


def _same(expected: object, got: object, datatype: str) -> bool:
    if isinstance(got, bytes):
        return isinstance(expected, str | bytes) and encoded(expected) == got
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if not isinstance(expected, int | float) or not isinstance(got, int | float):
        return False
    return _nearest(datatype, expected) == got


def _nearest(datatype: str, number: float) -> float:
    """The nearest value of a floating datatype; for other datatypes the number itself."""
    if not is_floating(datatype):
        return number
    try:
        with np.errstate(over="ignore"):
            raw = encode(Tensor(datatype, np.array([number], dtype=np.float64)))
    except OverflowError:  # an int beyond all floats
        return math.inf if number > 0 else -math.inf
    return float(decode(datatype, [1], raw).array[0])
