"""sums: for each sequence the sum of its values so far, and the process that holds it."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._sums: dict[int, int] = {}

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._sum(request) for request in requests]

    def _sum(self, request: Any) -> Any:
        if not _input(request, "READY").flat[0]:  # an empty slot of a batch
            return _answer(0)
        sequence = int(_input(request, "ID").flat[0])
        if _input(request, "START").flat[0]:
            self._sums[sequence] = 0
        self._sums[sequence] += int(_input(request, "VALUE").sum())
        return _answer(self._sums[sequence])


def _answer(found: int) -> Any:
    outputs = {"SUM": found, "PLACE": os.getpid()}
    return pb_utils.InferenceResponse(
        output_tensors=[
            pb_utils.Tensor(name, np.array([[value]], dtype=np.int32))
            for name, value in outputs.items()
        ]
    )


def _input(request: Any, name: str) -> Any:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
