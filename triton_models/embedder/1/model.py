"""embedder: a text's vector, and a payload returned as it came, for Triton's Python backend."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from embedding import embed


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [_respond(request) for request in requests]


def _respond(request: Any) -> Any:
    try:
        text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()[0].decode("utf-8")
        outputs = {"embedding": embed(text)}
    except UnicodeDecodeError as error:
        return _refusal(f"text: expected UTF-8 ({error.reason})")
    except ValueError as error:
        return _refusal(str(error))
    payload = pb_utils.get_input_tensor_by_name(request, "payload")
    wanted = request.requested_output_names()
    if payload is not None:
        numbers = payload.as_numpy()
        if "echo" in wanted:
            outputs["echo"] = numbers
        if "payload_crc32" in wanted:
            outputs["payload_crc32"] = np.array([zlib.crc32(numbers.data)], dtype=np.uint32)
    tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items() if name in wanted]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _refusal(message: str) -> Any:
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
    )
