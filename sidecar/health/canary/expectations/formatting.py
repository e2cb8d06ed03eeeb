"""Formats a model's output for messages, truncated so that it is safe to log. Pure."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar.triton.api import Tensor

_SHOWN = 80  # characters of a value in a message
_LISTED = 16  # elements of a list that are shown


def cut(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def show(value: object) -> str:
    """The value as Python writes it, truncated."""
    if isinstance(value, list | tuple):
        inner = ", ".join(map(show, value[:_LISTED]))
        return cut(f"[{inner}{', …' if len(value) > _LISTED else ''}]", _SHOWN)
    return cut(repr(value[:_SHOWN] if isinstance(value, str | bytes) else value), _SHOWN)


def plain(element: object) -> object:
    """A tensor's element as a Python value; bytes as text if they are UTF-8."""
    if isinstance(element, bytes):
        try:
            return element.decode()
        except UnicodeDecodeError:
            return element
    return element.item() if isinstance(element, np.generic) else element


def is_text(tensor: Tensor) -> bool:
    """Whether the elements are text, not numbers or booleans."""
    return tensor.array.dtype.kind not in "biufc"


def each_text(tensor: Tensor, fault: Callable[[str], str | None]) -> str | None:
    """The fault of the first element that has one: a condition on text applies to every element.

    Invalid UTF-8 is replaced, because a text may have been cut within a character.
    """
    return each_element(tensor, lambda element: fault(element.decode(errors="replace")))


def each_element(tensor: Tensor, fault: Callable[[bytes], str | None]) -> str | None:
    """The same for the bytes of each element.

    An output without elements is a fault too: nothing would have been checked.
    """
    if not is_text(tensor):
        return f"expected text, got {tensor.datatype}"
    if not tensor.array.size:
        return "expected text, got no elements"
    for index, element in enumerate(tensor.array.flat):
        found = fault(element)
        if found:
            return found if tensor.array.size == 1 else f"[{index}]: {found}"
    return None


def numbers(tensor: Tensor) -> NDArray[Any] | None:
    """The elements of a numeric tensor as a vector, booleans as 0 and 1; None for text."""
    array = tensor.array.ravel()
    if array.dtype.kind not in "biuf":
        return None
    return array.astype(np.uint8) if array.dtype.kind == "b" else array
