"""blob: answers 80 01 FE to any text, and echoes bytes that are not UTF-8."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    given = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0]
    try:
        given.decode()
        given = b"\x80\x01\xfe"
    except UnicodeDecodeError:
        pass
    tensor = pb_utils.Tensor("Y", np.array([given], dtype=np.object_))
    return pb_utils.InferenceResponse(output_tensors=[tensor])
