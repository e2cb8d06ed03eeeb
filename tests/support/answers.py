"""Builders of model answers and of expectations."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from sidecar.health.canary.expectations import (
    AllClose,
    JsonSchema,
)
from sidecar.triton.api import Answer, Tensor
from sidecar.triton.tensors import tensor

NAN = float("nan")
INF = float("inf")


def answer(value: Tensor, name: str = "o") -> Answer:
    return Answer({name: value})


def text(*elements: str | bytes) -> Answer:
    return answer(tensor("BYTES", [len(elements)], elements))


def fp32(*elements: float) -> Answer:
    return answer(tensor("FP32", [len(elements)], elements))


def of(datatype: str, *elements: object) -> Answer:
    return answer(tensor(datatype, [len(elements)], elements))


def shaped(datatype: str, *shape: int) -> Answer:
    return answer(tensor(datatype, shape, [1] * int(np.prod(shape))))


def image(picture: Pillow.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def blank(width: int = 8, height: int = 8) -> Pillow.Image:
    return Pillow.new("RGB", (width, height), (7, 7, 7))


def striped(width: int = 8, height: int = 8) -> Pillow.Image:
    picture = blank(width, height)
    picture.paste((250, 0, 0), (0, 0, width // 2, height))
    return picture


def pixels(picture: Pillow.Image) -> NDArray[np.uint8]:
    return np.asarray(picture)


def tensor_of(array: NDArray[np.generic], datatype: str) -> Answer:
    return answer(Tensor(datatype, array))


CLOSE = AllClose("o", (1.0, 2.0), atol=1e-3, rtol=0.0)
PERSON = JsonSchema(
    "o",
    {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {"type": "string"}},
    },
)
SLOW = "^(.*?,){25}P"
TOO_LONG = (
    f"o: json_schema: expected JSON that can be validated in time, but '{SLOW}' took too long to"
    " search"
)
DOUBLING = {str(n + 1): {"allOf": [{"$ref": f"#/$defs/{n}"}] * 2} for n in range(29)} | {"0": {}}
NOISE = np.random.default_rng(1).integers(0, 255, (1, 3, 4, 4), dtype=np.uint8)
