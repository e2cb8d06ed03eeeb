"""Answers its value after SECONDS seconds."""

import time
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        value, seconds = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("VALUE", "SECONDS")
        )
        time.sleep(float(seconds.flat[0]))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("VALUE", value)])
