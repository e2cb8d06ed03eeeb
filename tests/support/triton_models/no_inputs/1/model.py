"""no_inputs: answers with its release, without any input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [_answer() for _ in requests]


def _answer() -> Any:
    version = pb_utils.Tensor("VERSION", np.array([b"release 7"], dtype=np.object_))
    return pb_utils.InferenceResponse(output_tensors=[version])
