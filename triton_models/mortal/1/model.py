"""mortal: an echo. Two texts kill or freeze the tritonserver of this process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

WORK = 0.005  # seconds per answer
DEADLY = {b"die": signal.SIGKILL, b"freeze": signal.SIGSTOP}


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()[0]
        time.sleep(WORK)
        if text in DEADLY:
            # The backend's process is a child of the server.
            os.kill(os.getppid(), DEADLY[text])
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor("answer", np.array([text], dtype=np.object_))]
        )
