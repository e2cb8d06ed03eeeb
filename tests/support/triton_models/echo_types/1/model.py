"""echo_types: answers with its inputs, whatever their datatype."""

from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [_echo(request) for request in requests]


def _echo(request: Any) -> Any:
    wanted = request.requested_output_names()
    # By DLPack, for NumPy knows no BF16.
    tensors = [tensor for tensor in request.inputs() if tensor.name() in wanted]
    return pb_utils.InferenceResponse(output_tensors=tensors)
