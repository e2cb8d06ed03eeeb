"""silent_stream: echoes a text that ends with a question mark; any other gets an empty stream."""

from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            _answer(request)


def _answer(request: Any) -> None:
    text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
    sender = request.get_response_sender()
    if bytes(text[0]).endswith(b"?"):
        sender.send(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("TEXT", text)]))
    sender.send(flags=FINAL)
