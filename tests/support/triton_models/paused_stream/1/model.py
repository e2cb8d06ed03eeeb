"""Streams its value at once, and ends the stream after SECONDS seconds."""

import time
from collections.abc import Sequence
from threading import Thread
from typing import Any

import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            given = [
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("VALUE", "SECONDS")
            ]
            sender = request.get_response_sender()
            Thread(target=_stream, args=(sender, *given), daemon=True).start()


def _stream(sender: Any, value: Any, seconds: Any) -> None:
    sender.send(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("VALUE", value)]))
    time.sleep(float(seconds.flat[0]))
    sender.send(flags=FINAL)
