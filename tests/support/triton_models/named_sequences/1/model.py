"""named_sequences: the sum of a sequence's values so far, and the sequence's string id."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._sum = 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._count(request) for request in requests]

    def _count(self, request: Any) -> Any:
        if _input(request, "START"):
            self._sum = 0
        value = int(_input(request, "VALUE"))
        if value < 0:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"negative: {value}"))
        self._sum += value
        outputs = {
            "SUM": np.array([[self._sum]], dtype=np.int32),
            "SEQUENCE": np.array([[_input(request, "ID")]], dtype=np.object_),
        }
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, value) for name, value in outputs.items()]
        )


def _input(request: Any, name: str) -> Any:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy().flat[0]
