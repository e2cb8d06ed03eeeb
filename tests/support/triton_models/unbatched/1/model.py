"""unbatched: answers with the first element of a batch only."""

from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    first = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0]
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("Y", first)])
