"""The expectations that a canary's answer has to meet, one class per kind. Pure.

Each judges one output; a condition on text applies to every element. Imports what health may
import. Start reading at `exact.py`; `promise.py` checks an expectation against the model's
description.
"""

from collections.abc import Sequence

from sidecar.health.canary.expectations.exact import Datatype, Equals, Length, Shape
from sidecar.health.canary.expectations.formatting import cut, show
from sidecar.health.canary.expectations.image import Image
from sidecar.health.canary.expectations.label import Label
from sidecar.health.canary.expectations.numeric import AllClose, Cosine, Finite
from sidecar.health.canary.expectations.schema import JsonSchema
from sidecar.health.canary.expectations.text import Contains, NotDegenerate, Regex
from sidecar.triton.api import Answer

__all__ = [
    "AllClose",
    "Contains",
    "Cosine",
    "Datatype",
    "Equals",
    "Expectation",
    "Finite",
    "Image",
    "JsonSchema",
    "Label",
    "Length",
    "NotDegenerate",
    "Regex",
    "Shape",
    "broken_by",
]

Expectation = (
    Datatype
    | Shape
    | Length
    | Equals
    | Contains
    | Regex
    | JsonSchema
    | NotDegenerate
    | Finite
    | AllClose
    | Cosine
    | Label
    | Image
)
_SHOWN = 400  # characters of a fault: one log line, and far below Consul's limit for an output


def broken_by(
    expectations: Sequence[Expectation], answer: Answer
) -> tuple[Expectation, str] | None:
    """The first expectation that an answer breaks, and how; raises nothing, whatever the answer."""
    for expectation in expectations:
        tensor = answer.outputs.get(expectation.output)
        if tensor is None:
            fault: str | None = f"expected an output of this name, got {show(list(answer.outputs))}"
        else:
            fault = expectation.fault(tensor)
            fault = fault and f"{expectation.key}: {fault}"
        if fault:
            return expectation, cut(f"{expectation.output}: {fault}", _SHOWN)
    return None
