"""Derives a canary from a model's description, for a model without a configured one. Pure.

A derived canary proves that the model answers with tensors of the described form. It cannot tell
whether the answer makes sense, so it is marked `derived` for the reader of a verdict. Nor can it
tell whether a model that breaks its description from the start is unhealthy: see
`derived_canary.py`.

Every required input is sent once, with 1 for variable extents and for all elements, or a short
text. Optional inputs are left out, unless there are no others. Each output is checked for datatype,
shape and finiteness. Outputs may belong to inputs that were left out; in that case only the first
is expected. A stream's responses are concatenated, so their shape says nothing.

Only floating outputs are checked for repeatability, by `repeatable`: if the first two answers
agree, later ones have to agree as well. Two samples of text or of token ids may agree by chance,
and a healthy server must not be ejected for that.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sidecar.health.canary.datatypes import is_floating
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.expectations import AllClose, Datatype, Expectation, Finite, Shape
from sidecar.triton.api import Answer, ModelDescription, Tensor, TensorSpec
from sidecar.triton.tensors import DATATYPES, dtype

DERIVATION_VERSION = (
    1  # to be raised when other questions are derived, or something else is expected
)
TEXT = b"Hello"
TIMEOUT = 10.0  # seconds; how long the model takes is unknown
_MAX_BYTES = 16 * 2**20  # of all inputs together
_MAX_COMPARED = 2**16  # elements of an output; the first answer is kept in memory
# Far above the effect of another batch size or kernel, far below that of a different answer.
_ATOL, _RTOL = 1e-3, 2e-2


def derive(described: ModelDescription) -> Canary | str:
    """A canary for a model with this description, or why none can be derived."""
    inputs = [each for each in described.inputs if not each.optional] or described.inputs
    if not described.outputs:
        return "no canary can be derived: the model describes no outputs"
    if unknown := [each for each in inputs if each.datatype not in DATATYPES]:
        return f"no canary can be derived: {unknown[0].name} is of datatype {unknown[0].datatype}"
    if sum(map(_bytes, inputs)) > _MAX_BYTES:
        return f"no canary can be derived: its inputs take more than {_MAX_BYTES >> 20} MiB"
    return Canary(
        model=described.name,
        steps=({each.name: _filled(each) for each in inputs},),
        expectations=tuple(_promised(described, partial=len(inputs) < len(described.inputs))),
        timeout=TIMEOUT,
        derived=True,
    )


def repeatable(canary: Canary, first: Answer, second: Answer) -> Canary:
    """The canary, which now also expects the values in which two answers agreed."""
    pinned: list[Expectation] = []
    for name, value in first.outputs.items():
        other = second.outputs.get(name)
        if other is None or not _comparable(value):
            continue
        expected = AllClose(name, value.array.ravel().astype(np.float64), _ATOL, _RTOL)
        if expected.fault(other) is None:
            pinned.append(expected)
    return replace(canary, expectations=(*canary.expectations, *pinned))


def advice(model: str) -> str:
    """The advice for the operator of a model with a derived canary."""
    return (
        f"{model}: no canary is configured, so one was derived from the model's metadata; it cannot"
        f" detect wrong answers. `triton-sidecar canary record {model}` records a real one"
    )


def _extents(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(1 if extent < 0 else extent for extent in spec.shape)


def _bytes(spec: TensorSpec) -> int:
    return math.prod(_extents(spec)) * dtype(spec.datatype).itemsize


def _filled(spec: TensorSpec) -> Tensor:
    """A tensor of ones: valid token ids, masks, lengths and pixels more often than zeros."""
    fill: object = TEXT if spec.datatype == "BYTES" else 1
    return Tensor(spec.datatype, np.full(_extents(spec), fill, dtype=dtype(spec.datatype)))


def _promised(described: ModelDescription, partial: bool) -> Iterator[Expectation]:
    """The model's description of its outputs, as expectations."""
    for spec in described.outputs[:1] if partial else described.outputs:
        if spec.datatype in DATATYPES:
            yield Datatype(spec.name, spec.datatype)
        if not described.decoupled:
            batched = described.max_batch_size > 0
            yield Shape(spec.name, (1, *spec.shape[1:]) if batched else spec.shape)
        if is_floating(spec.datatype):
            yield Finite(spec.name)


def _comparable(value: Tensor) -> bool:
    return is_floating(value.datatype) and value.array.size <= _MAX_COMPARED
