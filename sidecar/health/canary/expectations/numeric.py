"""Expectations of numbers. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sidecar.health.canary.expectations.formatting import numbers
from sidecar.triton.api import Tensor

# The rounding error of a vector's similarity to itself.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class AllClose:
    """Each element differs from the expected one by at most `atol + rtol * abs(expected)`.

    `elements` are flat, in row-major order. Source of the rule: numpy.allclose; an infinity is
    close to itself, NaN to nothing.
    """

    key: ClassVar[str] = "allclose"
    output: str
    elements: Sequence[float] | NDArray[Any]
    atol: float
    rtol: float

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        pair = _pair(self.elements, tensor)
        if isinstance(pair, str):
            return pair
        expected, got = pair
        with np.errstate(all="ignore"):
            wrong = ~np.isclose(got, expected, rtol=self.rtol, atol=self.atol)
        if not wrong.any():
            return None
        first = int(wrong.argmax())
        return (
            f"{int(wrong.sum())} of {len(expected)} elements out of tolerance; the first is"
            f" [{first}]: expected {expected[first]:g}, got {got[first]:g}"
        )


@dataclass(frozen=True, eq=False)
class Cosine:
    """The cosine of the angle between the output and the expected vector is `at_least` this."""

    key: ClassVar[str] = "cosine"
    output: str
    elements: Sequence[float] | NDArray[Any]
    at_least: float = 0.99

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        pair = _pair(self.elements, tensor)
        if isinstance(pair, str):
            return pair
        expected, got = pair
        if not np.isfinite(got).all():
            return "expected finite numbers, got NaN or infinity"
        if not got.any():
            return "expected a vector with a direction, got only zeros"
        with np.errstate(all="ignore"):
            similarity = float(_unit(expected) @ _unit(got))
        if similarity >= self.at_least - _ROUNDING:
            return None
        return f"expected a similarity of at least {self.at_least:g}, got {similarity:.6g}"


@dataclass(frozen=True, slots=True)
class Finite:
    """No element is NaN or infinite."""

    key: ClassVar[str] = "finite"
    output: str

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        got = numbers(tensor)
        if got is None:
            return f"expected numbers, got {tensor.datatype}"
        wrong = ~np.isfinite(got)
        if not wrong.any():
            return None
        first = int(wrong.argmax())
        return (
            f"expected finite numbers, got {int(wrong.sum())} of {len(got)} that are not;"
            f" the first is [{first}]: {float(got[first]):g}"
        )


def _pair(
    elements: Sequence[float] | NDArray[Any], tensor: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | str:
    """Expected and actual elements as vectors of the same length, or the fault."""
    expected = np.asarray(elements, dtype=np.float64).ravel()
    got = numbers(tensor)
    if got is None:
        return f"expected numbers, got {tensor.datatype}"
    if len(got) != len(expected):
        return f"expected {len(expected)} elements, got {len(got)}"
    return expected, got.astype(np.float64)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = vector / np.abs(vector).max()  # first, so that no square overflows or vanishes
    return np.asarray(scaled / np.linalg.norm(scaled), dtype=np.float64)
