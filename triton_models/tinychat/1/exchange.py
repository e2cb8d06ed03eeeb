"""Converts between Triton's tensors and the generator; shared by tinychat and tinychat_unary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from generator import Generator
from sampling import BadRequest, Sampling, check_delay_ms, integer, parse

CANCEL_POLL = 0.1  # seconds between two checks whether the caller still waits
# The instance's id, for requests that ask for it, if Triton's environment has it. It is a second
# element of the text, because Triton 2.51's Python backend has no parameters of responses.
INSTANCE = os.environ.get("TINYCHAT_INSTANCE", "")


@dataclass(frozen=True, slots=True)
class Question:
    """A decoded request."""

    prompt: str
    sampling: Sampling
    stream: bool


def load_generator() -> Generator:
    """Load the table next to this file (a reload of the model reads it again)."""
    return Generator(Path(__file__).parent / "ngrams.json")


def default_delay_ms(args: Mapping[str, str]) -> float:
    """Return delay_ms_per_token of config.pbtxt. `args`: what Triton hands to initialize().

    A bad value raises BadRequest, which keeps the model from loading, with the reason in the log.
    """
    return check_delay_ms(*_setting(args, "delay_ms_per_token", "0"))


def max_generations(args: Mapping[str, str]) -> int:
    """Return max_generations of config.pbtxt, as default_delay_ms() does."""
    return integer(*_setting(args, "max_generations", "256"), 1, 100_000)


def _setting(args: Mapping[str, str], name: str, default: str) -> tuple[str, str]:
    parameters = json.loads(args["model_config"]).get("parameters", {})
    value = parameters.get(name, {}).get("string_value", default)
    return f"config.pbtxt: parameters: {name}", value


def read(request: Any, delay_ms: float) -> Question:
    """Decode a request; raises BadRequest with a message for the caller."""
    prompt = _text(request, "text_input")
    sampling = parse(_text(request, "sampling_parameters"), delay_ms)
    stream = pb_utils.get_input_tensor_by_name(request, "stream")
    return Question(prompt, sampling, stream is not None and bool(stream.as_numpy()[0]))


def answer(text: str, sampling: Sampling) -> Any:
    """Return a response whose `text_output` is `text`, and the instance if `sampling` says so."""
    elements = [text, INSTANCE] if INSTANCE and sampling.name_instance else [text]
    encoded = np.array([element.encode() for element in elements], dtype=np.object_)
    output = pb_utils.Tensor("text_output", encoded)
    return pb_utils.InferenceResponse(output_tensors=[output])


def refusal(message: str, code: int) -> Any:
    """Return an error response; `code`: one of pb_utils.TritonError's."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def bad_request(error: BadRequest) -> Any:
    """Return the response to a request that read() rejected."""
    return refusal(str(error), pb_utils.TritonError.INVALID_ARG)


def cancelled() -> Any:
    """Return the response to a cancelled request."""
    return refusal("the request was cancelled", pb_utils.TritonError.CANCELLED)


def _text(request: Any, name: str) -> str:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return ""
    try:
        text: str = tensor.as_numpy()[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name}: expected UTF-8 text ({error.reason})") from None
    return text
