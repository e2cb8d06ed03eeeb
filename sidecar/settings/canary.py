"""`[canary.MODEL]`: one inference whose answer is known."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sidecar.settings.values import Duration, Table

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
Scalar = bool | int | float | str


def _is_of(datatype: str, element: Scalar) -> bool:
    """Whether an element can be sent as this datatype without loss of kind or range."""
    if datatype in ("BYTES", "BOOL"):
        return isinstance(element, str if datatype == "BYTES" else bool)
    if isinstance(element, str | bool):
        return False
    if datatype.startswith("FP"):
        return True
    bits = int(datatype.lstrip("UINT"))
    low, high = (0, 2**bits) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return isinstance(element, int) and low <= element < high


class CanaryInput(Table):
    """One input tensor; `data` is flat, in row-major order."""

    name: str
    datatype: Datatype
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    data: tuple[Scalar, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        size = 1
        for extent in self.shape:
            size *= extent
        if size != len(self.data):
            raise ValueError(f"data: expected {size} elements for this shape, got {len(self.data)}")
        if not all(_is_of(self.datatype, element) for element in self.data):
            raise ValueError(f"data: expected elements of datatype {self.datatype}")
        return self


class CanaryExpectation(Table):
    """What one output of the canary has to be; `equals` and `allclose` are flat."""

    output: str
    equals: tuple[Scalar, ...] | None = None
    allclose: tuple[float, ...] | None = None
    atol: float = Field(default=1e-5, ge=0)
    rtol: float = Field(default=1e-4, ge=0)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.equals is None) == (self.allclose is None):
            raise ValueError("expected exactly one of equals and allclose")
        return self


class CanarySettings(Table):
    """One inference whose answer is known."""

    timeout: Duration = 2.0
    inputs: tuple[CanaryInput, ...] = Field(min_length=1)
    expect: tuple[CanaryExpectation, ...] = Field(min_length=1)
