"""Reads the files that canaries name into tensors; faults are ValueErrors of one line.

Acts: through what it imports or is given.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar.health.canary import bytes_elements
from sidecar.health.canary.datatypes import MOST_PIXELS, holds, is_floating, size_fault, span
from sidecar.health.canary.expectations.image import FORMATS
from sidecar.health.canary.expectations.schema import schema_fault
from sidecar.triton.api import Tensor
from sidecar.triton.tensors import dtype, tensor

_LARGEST = 2**28  # bytes of a file
_IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class UnreadError(ValueError):
    """The file cannot be read now; its content may be fine."""


def read_tensor(path: Path, datatype: str, shape: Sequence[int] | None) -> Tensor:
    """The tensor in a file; `settings.tables.canary.CanaryInput` describes the kinds of files.

    Raises:
        ValueError: the file cannot be read, or does not hold a tensor of this datatype and shape.
    """
    suffix = path.suffix.lower()
    if shape is not None and (fault := size_fault(datatype, shape)):
        raise ValueError(fault)
    if suffix == ".npy":
        array = _npy(path)
        if fault := size_fault(datatype, array.shape):
            raise ValueError(fault)
        return Tensor(datatype, _laid_out(_converted(datatype, array), shape))
    if suffix == ".json":
        return _from_json(path, datatype, shape)
    if suffix in _IMAGES:
        read = _encoded if datatype == "BYTES" else _decoded
        return read(path, datatype, shape)
    raise ValueError(f"expected a file named .npy, .json or {', '.join(_IMAGES)}")


def read_vector(path: Path) -> NDArray[np.float64]:
    """The numbers in a `.npy` file in row-major order.

    Raises:
        ValueError: the file cannot be read, or holds other values, such as NaN.
    """
    if path.suffix.lower() != ".npy":
        raise ValueError("expected a file named .npy")
    array = _npy(path)
    if array.dtype.kind not in "iuf" or not array.size:
        raise ValueError(f"expected numbers, found {array.dtype} {list(array.shape)}")
    vector = array.astype(np.float64).ravel()
    if np.isnan(vector).any():
        raise ValueError("expected numbers, found nan")
    return vector


def read_direction(path: Path) -> NDArray[np.float64]:
    """The numbers in a `.npy` file as a vector with a direction.

    Raises:
        ValueError: as for `read_vector`, or they are infinite or all zero.
    """
    vector = read_vector(path)
    if not np.isfinite(vector).all():
        raise ValueError("expected finite numbers, found inf")
    if not vector.any():
        raise ValueError("expected numbers that are not all zero")
    return vector


def read_schema(path: Path) -> dict[str, Any]:
    """The JSON schema in a file.

    Raises:
        ValueError: the file cannot be read, or does not hold a JSON schema.
    """
    schema = _json(path)
    fault = schema_fault(schema)
    if fault or not isinstance(schema, dict):
        raise ValueError(fault)
    return schema


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise (ValueError if path.exists() else UnreadError)("expected a file, found none")
        size = path.stat().st_size
        if size > _LARGEST:
            raise ValueError(f"expected at most {_LARGEST} bytes, found {size}")
        return path.read_bytes()
    except OSError as error:
        raise UnreadError(f"expected a file that can be read: {error.strerror}") from error


def _npy(path: Path) -> NDArray[Any]:
    data = _content(path)
    try:
        # Memory-mapped, because that first compares the header's shape with the file's size.
        return np.array(np.lib.format.open_memmap(path, mode="r")) if data else _nothing()
    except Exception as error:  # a broken header can raise anything in NumPy's reader
        message = str(error).partition("\n")[0]
        raise ValueError(f"expected an array as numpy.save writes it: {message}") from error


def _nothing() -> NDArray[Any]:
    raise ValueError("the file is empty")


def _converted(datatype: str, values: NDArray[Any]) -> NDArray[Any]:
    """The array as another datatype, if that loses neither kind nor range."""
    kinds = {"BOOL": "b", "BYTES": "SU"}.get(datatype, "iuf" if is_floating(datatype) else "iu")
    if values.dtype.kind not in kinds:
        raise ValueError(f"expected elements of datatype {datatype}, found {values.dtype}")
    if datatype == "BYTES":
        return tensor(datatype, values.shape, values.ravel().tolist()).array
    if datatype != "BOOL" and (finite := values[np.isfinite(values)]).size:
        low, high = span(datatype)
        for extreme in (finite.min().item(), finite.max().item()):
            if not low <= extreme <= high:
                raise ValueError(f"expected elements of datatype {datatype}, found {extreme!r}")
    return values.astype(dtype(datatype))


def _laid_out(array: NDArray[Any], shape: Sequence[int] | None) -> NDArray[Any]:
    """The array in the wanted shape, if there is one; only a flat array is reshaped."""
    if shape is None or array.shape == tuple(shape):
        return array
    if array.ndim != 1 or array.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"expected the shape {list(shape)}, found {list(array.shape)}")
    return array.reshape(shape)


def _json(path: Path) -> object:
    try:
        return json.loads(_content(path))
    except RecursionError:
        raise ValueError("expected JSON that is not nested so deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected JSON: {error}") from None


def _from_json(path: Path, datatype: str, shape: Sequence[int] | None) -> Tensor:
    nested = _json(path)
    if not isinstance(nested, list):
        raise ValueError("expected a list, flat or nested like the tensor")
    extents: list[int] = []
    level: object = nested
    while isinstance(level, list):
        extents.append(len(level))
        level = level[0] if level else None
    elements: list[object] = []
    _flatten(nested, extents, elements)
    elements = [*map(bytes_elements.read, elements)]
    for element in elements:
        if not holds(datatype, element):
            raise ValueError(f"expected elements of datatype {datatype}, found {element!r:.80}")
    return Tensor(datatype, _laid_out(tensor(datatype, extents, elements).array, shape))


def _flatten(nested: object, extents: Sequence[int], elements: list[object]) -> None:
    if not extents:
        elements.append(nested)
        return
    if not isinstance(nested, list) or len(nested) != extents[0]:
        raise ValueError("expected lists of equal length at each level")
    for each in nested:
        _flatten(each, extents[1:], elements)


def _encoded(path: Path, datatype: str, shape: Sequence[int] | None) -> Tensor:
    """The image file unchanged, as one element."""
    data = _content(path)
    _with_image(data, lambda image: image.size)
    return Tensor(datatype, _laid_out(tensor(datatype, [1], [data]).array, shape))


def _decoded(path: Path, datatype: str, shape: Sequence[int] | None) -> Tensor:
    """The image's pixels, scaled to the shape; 0 to 255, or 0 to 1 for floating datatypes."""
    height, width, channels, first = _layout(shape or ())
    if datatype == "BOOL":
        raise ValueError("expected a numeric datatype for an image, or BYTES, found BOOL")
    pixels = _with_image(
        _content(path),
        lambda image: np.asarray(image.convert(_MODES[channels]).resize((width, height))),
    )
    if first and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, -1, 0)
    if is_floating(datatype):
        pixels = pixels / np.float64(255)
    return Tensor(datatype, _converted(datatype, pixels).reshape(shape or ()))


def _layout(shape: Sequence[int]) -> tuple[int, int, int, bool]:
    """Height, width, channels, and whether the channels come first."""
    inner = list(shape)
    while len(inner) > 3 and inner[0] == 1:
        inner.pop(0)
    if len(inner) == 2 and all(inner):
        return inner[0], inner[1], 1, False
    if len(inner) == 3 and all(inner):
        if inner[2] in _MODES:
            return inner[0], inner[1], inner[2], False
        if inner[0] in _MODES:
            return inner[1], inner[2], inner[0], True
    raise ValueError(
        "expected a shape [height, width, channels] or [channels, height, width] with 1, 3 or 4"
        f" channels, found {list(shape)}"
    )


def _with_image(data: bytes, use: Callable[[Any], Any]) -> Any:
    import io

    from PIL import Image, WebPImagePlugin  # noqa: F401  # registers WEBP

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height <= MOST_PIXELS:
                image.load()
                return use(image)
            size = f"{image.width} x {image.height}"
    except Exception as error:  # a broken image can raise anything in its decoder
        raise ValueError(f"expected an image in one of {', '.join(FORMATS)}") from error
    raise ValueError(f"expected at most {MOST_PIXELS} pixels, found {size}")
