"""What a canary's answer has to be, and in what it falls short. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Equals:
    """The output's elements, in row-major order, are exactly these."""

    output: str
    elements: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class AllClose:
    """Each element differs from the expected by at most `atol + rtol * abs(expected)`.

    Source of the rule: numpy.allclose. NaN is close to nothing.
    """

    output: str
    elements: tuple[float, ...]
    atol: float
    rtol: float


Expectation = Equals | AllClose


def judge(expectations: Sequence[Expectation], outputs: Mapping[str, NDArray[Any]]) -> str | None:
    """The first thing that is wrong with an answer, or None."""
    for expectation in expectations:
        if expectation.output not in outputs:
            return f"{expectation.output}: expected an output of this name, got none"
        elements = outputs[expectation.output].ravel()
        fault = _fault(expectation, elements)
        if fault:
            return f"{expectation.output}: {fault}"
    return None


def _fault(expectation: Expectation, elements: NDArray[Any]) -> str | None:
    expected = expectation.elements
    if len(elements) != len(expected):
        return f"expected {len(expected)} elements, got {len(elements)}"
    if isinstance(expectation, Equals):
        got = tuple(_plain(element) for element in elements)
        return None if got == expected else f"expected {_show(expected)}, got {_show(got)}"
    if elements.dtype.kind not in "biuf":
        return f"expected numbers, got {elements.dtype}"
    bound = expectation.atol + expectation.rtol * np.abs(np.array(expected))
    wrong = ~(np.abs(elements.astype(np.float64) - np.array(expected)) <= bound)
    if not wrong.any():
        return None
    first = int(wrong.argmax())
    return (
        f"{int(wrong.sum())} of {len(expected)} elements out of tolerance; the first is [{first}]:"
        f" expected {expected[first]:g}, got {float(elements[first]):g}"
    )


def _plain(element: object) -> object:
    if isinstance(element, bytes):
        return element.decode(errors="replace")
    return element.item() if isinstance(element, np.generic) else element


def _show(elements: tuple[object, ...]) -> str:
    text = repr(elements[0] if len(elements) == 1 else list(elements))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
