"""otherwise: always the same answer, in another shape than in its config."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    value = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0]
    outputs = {
        "MATRIX": np.array([[value]], dtype=np.float32),
        "SCALAR": np.array(7, dtype=np.int32),
        "WIDER": np.array([value], dtype=np.float64),
        "MORE": np.array([1, 2, 3], dtype=np.int32),
        "MASKED": np.array([value, -np.inf, -np.inf], dtype=np.float32),
    }
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, array) for name, array in outputs.items()]
    )
