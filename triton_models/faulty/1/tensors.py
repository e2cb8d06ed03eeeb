"""Between Triton's tensors and the stage; shared by faulty and faulty_stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils


def stage_folder(args: Mapping[str, str]) -> Path:
    """The model's folder. `args`: what Triton hands to initialize()."""
    return Path(args["model_repository"])


def question(request: Any) -> str:
    """The text that is asked."""
    text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()[0]
    return str(text, "utf-8", "replace")


def response(text: str, vector: npt.NDArray[np.float32]) -> Any:
    """A response with both outputs."""
    return pb_utils.InferenceResponse(
        output_tensors=[
            pb_utils.Tensor("answer", np.array([text.encode()], dtype=np.object_)),
            pb_utils.Tensor("vector", vector),
        ]
    )


def refusal(error: Exception) -> Any:
    """An error response."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"faulty: {error}"))
