"""KServe's datatypes and the values that they can hold. Pure, and quick to import."""

import math
import sys
from typing import Literal, get_args

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
]  # fmt: skip
NAMES: tuple[Datatype, ...] = get_args(Datatype)
# The highest finite value of each.
_FLOATING = {
    "FP16": float.fromhex("0x1.ffcp15"),
    "FP32": float.fromhex("0x1.fffffep127"),
    "FP64": sys.float_info.max,
    "BF16": float.fromhex("0x1.fep127"),
}


def is_floating(datatype: str) -> bool:
    """Whether it is one of the datatypes with a fraction."""
    return datatype in _FLOATING


def span(datatype: str) -> tuple[float, float]:
    """The lowest and the highest finite number of a numeric datatype."""
    if datatype in _FLOATING:
        return -_FLOATING[datatype], _FLOATING[datatype]
    bits = int(datatype.lstrip("UINT"))
    if datatype.startswith("U"):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def holds(datatype: str, element: object) -> bool:
    """Whether an element can be sent as this datatype without loss of kind or range."""
    if datatype in ("BYTES", "BOOL"):
        return isinstance(element, str if datatype == "BYTES" else bool)
    if isinstance(element, bool) or not isinstance(element, int | float):
        return False
    if isinstance(element, float) and not (is_floating(datatype) and math.isfinite(element)):
        return is_floating(datatype)
    low, high = span(datatype)
    return low <= element <= high
