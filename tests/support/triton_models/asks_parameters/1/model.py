"""asks_parameters: answers with the request's id and parameters; without them, an error."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    parameters = json.loads(request.parameters())
    if not request.request_id() or "mode" not in parameters:
        error = pb_utils.TritonError("expected an id, and a parameter mode")
        return pb_utils.InferenceResponse(error=error)
    heard = [request.request_id().encode(), json.dumps(parameters, sort_keys=True).encode()]
    tensor = pb_utils.Tensor("HEARD", np.array(heard, dtype=np.object_))
    return pb_utils.InferenceResponse(output_tensors=[tensor])
