"""The expectation that an output is an image that is not blank. Pure."""

import io
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sidecar.health.canary.datatypes import MOST_PIXELS
from sidecar.health.canary.expectations.formatting import is_text
from sidecar.runtime.errors import kind
from sidecar.triton.api import Tensor

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
_SAMPLED = 2**20  # pixels of a tensor; enough to tell whether it is blank
# The least standard deviation of one channel, in levels of 255. The artefacts of a lossy format on
# a single colour stay below; one black pixel in ten thousand on white is above.
_SPREAD = 2.0


@dataclass(frozen=True, slots=True)
class Image:
    """Each element is an encoded image, or the tensor is one; large enough and not blank.

    A numeric image has the shape [height, width, 3] or [3, height, width]; with another extent in
    front it is a batch, of which every image is judged. Values range from 0 to 255, or, where
    floating ones do not exceed 2, from 0 or -1 to 1.
    """

    key: ClassVar[str] = "image"
    output: str
    min_width: int = 1
    min_height: int = 1

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        array = tensor.array
        images = list(array.flat) if is_text(tensor) else _batch(array)
        if images is None:
            return (
                "expected an encoded image or a shape [height, width, 3] or [3, height, width],"
                f" got {tensor.datatype} {list(array.shape)}"
            )
        if not images:
            return "expected an image, got no elements"
        judged = self._encoded if is_text(tensor) else self._pixels
        for index, image in enumerate(images):
            found = judged(image)
            if found:
                return found if len(images) == 1 else f"[{index}]: {found}"
        return None

    def _encoded(self, data: object) -> str | None:
        from PIL import Image as Pillow
        from PIL import ImageStat, WebPImagePlugin  # noqa: F401  # registers WEBP

        if not isinstance(data, bytes):
            return f"expected an encoded image, got {type(data).__name__}"
        try:
            with Pillow.open(io.BytesIO(data), formats=FORMATS) as image:
                found = self._size_fault(*image.size)
                if found:
                    return found
                spread = max(ImageStat.Stat(image.convert("RGB")).stddev)
        except Exception as error:  # noqa: BLE001  # a model's bytes in foreign code
            return (
                f"expected an image in one of {', '.join(FORMATS)},"
                f" got {len(data)} bytes that are none ({kind(error)})"
            )
        return _spread_fault(spread)

    def _pixels(self, pixels: NDArray[Any]) -> str | None:
        height, width, _ = pixels.shape
        found = self._size_fault(width, height)
        if found:
            return found
        if not np.isfinite(pixels).all():
            return "expected finite numbers, got NaN or infinity"
        step = 1 + math.isqrt(width * height // _SAMPLED)
        values = pixels[::step, ::step].astype(np.float64)
        unit = pixels.dtype.kind == "f" and np.abs(values).max() <= 2
        with np.errstate(all="ignore"):
            spread = float(values.std(axis=(0, 1)).max())
        return _spread_fault(spread * (255 if unit else 1))

    def _size_fault(self, width: int, height: int) -> str | None:
        if width < self.min_width or height < self.min_height:
            return f"expected at least {self.min_width} x {self.min_height}, got {width} x {height}"
        if width * height > MOST_PIXELS:
            return f"expected at most {MOST_PIXELS} pixels, got {width} x {height}"
        return None


def _spread_fault(spread: float) -> str | None:
    if spread >= _SPREAD:
        return None
    return f"expected an image that is not blank, got a standard deviation of {spread:.2g} of 255"


def _batch(array: NDArray[Any]) -> list[NDArray[Any]] | None:
    """The images as [height, width, 3], or None if the array has another form."""
    if array.dtype.kind not in "iuf" or array.ndim not in (3, 4) or 0 in array.shape:
        return None
    batch = array if array.ndim == 4 else array[np.newaxis]
    if batch.shape[-1] == 3:
        return list(batch)
    return list(np.moveaxis(batch, 1, -1)) if batch.shape[1] == 3 else None
