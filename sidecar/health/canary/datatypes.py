"""KServe's datatypes and shapes, and which values fit them. Pure, and quick to import."""

import math
import sys
from collections.abc import Sequence
from typing import Literal, get_args

from sidecar.health.canary.bytes_elements import is_element

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
]  # fmt: skip
NAMES: tuple[Datatype, ...] = get_args(Datatype)
MOST_BYTES = 2**26  # of one input
MOST_EXTENTS = 32  # of one shape; NumPy has a limit, too
MOST_PIXELS = 2**24  # of one image: 4096 x 4096; decoded, that is 48 MiB
# The highest finite value of each.
_FLOATING = {
    "FP16": float.fromhex("0x1.ffcp15"),
    "FP32": float.fromhex("0x1.fffffep127"),
    "FP64": sys.float_info.max,
    "BF16": float.fromhex("0x1.fep127"),
}


def is_floating(datatype: str) -> bool:
    """Whether it is a floating-point datatype."""
    return datatype in _FLOATING


def span(datatype: str) -> tuple[float, float]:
    """The lowest and the highest finite number of a numeric datatype."""
    if datatype in _FLOATING:
        return -_FLOATING[datatype], _FLOATING[datatype]
    bits = _bits(datatype)
    if datatype.startswith("U"):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def holds(datatype: str, element: object) -> bool:
    """Whether an element can be sent as this datatype without losing kind or range."""
    if datatype == "BYTES":
        return is_element(element)
    if datatype == "BOOL":
        return isinstance(element, bool)
    if isinstance(element, bool) or not isinstance(element, int | float):
        return False
    if isinstance(element, float) and not (is_floating(datatype) and math.isfinite(element)):
        return is_floating(datatype)
    low, high = span(datatype)
    return low <= element <= high


def may_equal(datatype: str, element: object) -> bool:
    """Whether an element of this datatype can be equal to another value.

    A number is rounded to a floating datatype first, and an integer may be written as 1.0.
    """
    if is_floating(datatype):
        return isinstance(element, int | float) and not isinstance(element, bool)
    if isinstance(element, float) and element.is_integer():
        element = int(element)
    return holds(datatype, element)


def size_fault(datatype: str, shape: Sequence[int]) -> str:
    """What is wrong with the size of an input of this shape; empty if nothing is.

    A BYTES element counts as the four bytes of its length.
    """
    if len(shape) > MOST_EXTENTS:
        return f"expected at most {MOST_EXTENTS} extents, found {len(shape)}"
    # Without the zeros: NumPy refuses shapes that would be too large without them.
    size = math.prod(max(extent, 1) for extent in shape) * _bits(datatype) // 8
    if size > MOST_BYTES:
        return f"expected at most {MOST_BYTES >> 20} MiB, found {[*shape]!s:.80} of {datatype}"
    return ""


def may_have(shape: Sequence[int], least: int, most: int | None = None) -> bool:
    """Whether a tensor of this shape, with -1 for any extent, can have so many elements."""
    fixed = math.prod(extent for extent in shape if extent >= 0)
    if -1 not in shape or not fixed:
        return least <= fixed and (most is None or fixed <= most)
    return most is None or -(-least // fixed) * fixed <= most


def agree(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a tensor can have both shapes, with -1 for any extent."""
    return len(one) == len(other) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True)
    )


def _bits(datatype: str) -> int:
    if datatype in ("BOOL", "BYTES"):
        return 8 if datatype == "BOOL" else 32
    return int(datatype.lstrip("UINTFPB"))
