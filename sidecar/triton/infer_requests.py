"""Builds `ModelInferRequest` messages, and draws the correlation ids of sequences.

Acts: random, tritonclient.
"""

import itertools
import random
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from tritonclient.grpc import service_pb2

from sidecar.triton import tensors
from sidecar.triton.api import InferenceRequest, Tensor

# The correlation ids of the sidecar's own sequences. Clients count from 1 or draw 64 random bits;
# both stay clear of the uppermost 2^16 that still fit the narrowest type, a model's INT32.
RESERVED_IDS = range(2**31 - 2**16, 2**31)
# Triton 2.51 hands a backend a field of this size for a string id, whatever its length, and a
# backend cannot read one that holds a shorter string. No Triton accepts a longer one.
_STRING_ID = 128  # characters


class CorrelationIds:
    """Draws correlation ids out of `RESERVED_IDS`, from a random start.

    Another sidecar may probe the same Triton.
    """

    def __init__(self) -> None:
        offset = random.randrange(len(RESERVED_IDS))  # noqa: S311
        self._numbers = itertools.cycle([*RESERVED_IDS[offset:], *RESERVED_IDS[:offset]])

    def draw(self, request: InferenceRequest) -> int | str:
        """The id of a new sequence: a string where the model declares that; 0 without sequence.

        Never a string elsewhere: Triton 2.51 would write it over its own memory.
        """
        if not request.stateful:
            return 0
        number: int = next(self._numbers)
        if not request.string_ids:
            return number
        return f"triton-sidecar-{uuid.uuid4().hex}-{number}-".ljust(_STRING_ID, "0")


def infer_request(
    model: str, inputs: Mapping[str, Tensor], version: str = "", priority: int = 0
) -> Any:
    """A `ModelInferRequest` with its tensors in raw form."""
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    # Asks a decoupled model's backend to mark its last response, which may be an empty one.
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    if priority:
        message.parameters["priority"].uint64_param = priority
    for name, value in inputs.items():
        message.inputs.add(name=name, datatype=value.datatype, shape=value.array.shape)
        message.raw_input_contents.append(tensors.encode(value))
    return message


def all_steps(request: InferenceRequest, sequence: int | str) -> Iterator[Any]:
    """The `ModelInferRequest` of each step."""
    return (one_step(request, step, sequence) for step in range(len(request.steps)))


def one_step(request: InferenceRequest, step: int, sequence: int | str) -> Any:
    """The `ModelInferRequest` of one step, with sequence parameters unless `sequence` is 0."""
    message = infer_request(request.model, request.steps[step], request.version, request.priority)
    message.id = request.id
    for name, value in request.parameters.items():
        _set(message.parameters[name], value)
    for name, as_class in request.outputs:
        output = message.outputs.add(name=name)
        if as_class:
            output.parameters["classification"].int64_param = 1
    if sequence:
        _set(message.parameters["sequence_id"], sequence)
        message.parameters["sequence_start"].bool_param = step == 0
        message.parameters["sequence_end"].bool_param = step == len(request.steps) - 1
    return message


def end_of_sequence(request: InferenceRequest, sequence: int | str) -> Any:
    """The last step's `ModelInferRequest`, which ends a sequence whatever step it has reached."""
    message = one_step(request, len(request.steps) - 1, sequence)
    message.parameters["sequence_start"].bool_param = False
    message.parameters["sequence_end"].bool_param = True
    return message


def _set(parameter: Any, value: bool | int | float | str) -> None:
    match value:
        case bool():
            parameter.bool_param = value
        case int():
            parameter.int64_param = value
        case float():
            parameter.double_param = value
        case str():
            parameter.string_param = value
