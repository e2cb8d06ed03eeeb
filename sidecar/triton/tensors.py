"""Encodes and decodes tensors as KServe v2 sends them: little-endian, row-major, no padding. Pure.

A BYTES element is a 4-byte length and that many bytes. BF16 is the upper half of float32.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar.triton.api import Tensor

_DTYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BF16": "<f4",
    "BYTES": "O",
}
DATATYPES = tuple(_DTYPES)
_LENGTH = 4


def dtype(datatype: str) -> np.dtype[Any]:
    """The dtype of an array of this datatype.

    Raises:
        ValueError: there is no such datatype.
    """
    if datatype not in _DTYPES:
        raise ValueError(f"unknown datatype {datatype!r}")
    return np.dtype(_DTYPES[datatype])


def tensor(datatype: str, shape: Sequence[int], elements: Sequence[object]) -> Tensor:
    """A tensor from flat elements in row-major order; text is encoded as UTF-8.

    Raises:
        ValueError: the elements do not fill the shape, or are not of the datatype.
    """
    if datatype == "BYTES":
        encoded = [each if isinstance(each, bytes) else str(each).encode() for each in elements]
        return Tensor(datatype, _objects(encoded).reshape(shape))
    try:
        return Tensor(datatype, np.array(elements, dtype=dtype(datatype)).reshape(shape))
    except (OverflowError, TypeError) as error:
        raise ValueError(str(error)) from error


def encode(value: Tensor) -> bytes:
    """The raw contents of a tensor; BF16 is rounded to the nearest, ties to even."""
    if value.datatype == "BYTES":
        return b"".join(
            len(element).to_bytes(_LENGTH, "little") + element for element in value.array.flat
        )
    array = value.array.astype(dtype(value.datatype), copy=False)
    return _upper_halves(array.ravel()) if value.datatype == "BF16" else array.tobytes()


def decode(datatype: str, shape: Sequence[int], raw: bytes) -> Tensor:
    """The tensor in raw contents.

    Raises:
        ValueError: they do not match this datatype and shape.
    """
    wanted = dtype(datatype)
    if any(extent < 0 for extent in shape):
        raise ValueError(f"a negative extent in the shape {list(shape)}")
    if datatype == "BYTES":
        flat: NDArray[Any] = _elements(raw)
    elif datatype == "BF16":
        flat = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        flat = np.frombuffer(raw, wanted)
    return Tensor(datatype, flat.reshape(tuple(shape)))


def joined(responses: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The outputs of several responses, concatenated.

    Text is joined into one element, numbers are flattened and concatenated; the outputs of a single
    response stay as they are.

    Raises:
        ValueError: an output has different datatypes in different responses.
    """
    if len(responses) <= 1:
        return responses[0] if responses else {}
    names = {name: None for response in responses for name in response}
    return {
        name: _joined(name, [each[name] for each in responses if name in each]) for name in names
    }


def _joined(name: str, parts: Sequence[Tensor]) -> Tensor:
    datatypes = {part.datatype for part in parts}
    if len(datatypes) > 1:
        raise ValueError(f"{name} is {' and then '.join(sorted(datatypes))}")
    (datatype,) = datatypes
    if datatype == "BYTES":
        return tensor("BYTES", [1], [b"".join(each for part in parts for each in part.array.flat)])
    return Tensor(datatype, np.concatenate([part.array.ravel() for part in parts]))


def _upper_halves(array: NDArray[Any]) -> bytes:
    bits = array.view("<u4").astype("<u8")  # wide enough for the carry
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # A NaN with its payload in the lower half would become infinity: make it a quiet NaN instead.
    halves = np.where(np.isnan(array), (bits >> 16) | 0x40, rounded)
    return halves.astype("<u2").tobytes()


def _elements(raw: bytes) -> NDArray[Any]:
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        begin = at + _LENGTH
        at = begin + int.from_bytes(raw[at:begin], "little")
        if begin > len(raw) or at > len(raw):
            raise ValueError(f"element {len(found)} ends beyond the contents")
        found.append(raw[begin:at])
    return _objects(found)


def _objects(elements: Sequence[bytes]) -> NDArray[Any]:
    array = np.empty(len(elements), dtype=np.object_)  # np.array would look into the elements
    array[:] = elements
    return array
