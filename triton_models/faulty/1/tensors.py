"""Between Triton's tensors and the stage; shared by faulty and faulty_stream."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

INSTANCE = os.environ.get("TINYCHAT_INSTANCE", "")


def stage_folder(args: Mapping[str, str]) -> Path:
    """The model's folder. `args`: what Triton hands to initialize()."""
    return Path(args["model_repository"])


def question(request: Any) -> str:
    """The text that is asked."""
    text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()[0]
    return str(text, "utf-8", "replace")


def instance(request: Any) -> str:
    """The instance's id, if the request wants it named and Triton's environment has it."""
    wanted = json.loads(request.parameters() or "{}").get("name_instance")
    return INSTANCE if wanted else ""


def response(text: str, vector: npt.NDArray[np.float32], named: str = "") -> Any:
    """A response with both outputs; `named` is a second element of the text."""
    elements = [each.encode() for each in ((text, named) if named else (text,))]
    return pb_utils.InferenceResponse(
        output_tensors=[
            pb_utils.Tensor("answer", np.array(elements, dtype=np.object_)),
            pb_utils.Tensor("vector", vector),
        ]
    )


def refusal(error: Exception) -> Any:
    """An error response."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"faulty: {error}"))
