"""Questions to the demo models tinychat and tinychat_unary, as their users send them.

Acts: asyncio, grpc, tritonclient.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
import numpy as np
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

UNARY = "tinychat_unary"
STREAM = "tinychat"
# They answer as well as the others until they are told to misbehave; Triton caches the second's.
FAULTY, CACHED = "faulty", "faulty_cached"
FAULTY_STREAM = "faulty_stream"
PROMPTS = ("Hello", "A model", "The primary", "When a request", "Every probe", "Traffic moves")
FAILED = (InferenceServerException, grpc.aio.AioRpcError)

_DEADLINE = 30.0  # seconds; a request that takes longer has failed
# The answer names the instance if the environment of its Triton does.
_STREAM = {"max_tokens": 40, "temperature": 0, "delay_ms": 50, "name_instance": True}  # two seconds
_OUTPUT = "text_output"
_UNARY = {"max_tokens": 8, "temperature": 0, "name_instance": True}


@dataclass(frozen=True, slots=True)
class Answer:
    """The text of an answer, and the instance that gave it, or empty if it is not named.

    `began_on` is the instance that sent the first response of a stream.
    """

    text: str
    instance: str = ""
    began_on: str = ""


Question = Callable[[aio.InferenceServerClient, str], Awaitable[Answer]]
RightAnswers = Mapping[tuple[Question, str], str]


async def ask(client: aio.InferenceServerClient, prompt: str) -> Answer:
    """Send one unary request.

    Raises:
        InferenceServerException: it failed.
    """
    result = await client.infer(UNARY, _inputs(prompt, _UNARY), client_timeout=_DEADLINE)
    return _answer(result)


async def generate(client: aio.InferenceServerClient, prompt: str) -> Answer:
    """Run one generation; returns the text of all its responses.

    Raises:
        InferenceServerException, AioRpcError: it failed, or ended before its last response.
    """
    request = {"model_name": STREAM, "inputs": _inputs(prompt, _STREAM, stream=True)}
    return await _streamed(client, request)


async def ask_faulty(client: aio.InferenceServerClient, prompt: str) -> Answer:
    """Send one unary request to the model that misbehaves on order.

    Raises:
        InferenceServerException: it failed.
    """
    return await _ask(client, FAULTY, prompt)


async def ask_cached(client: aio.InferenceServerClient, prompt: str) -> Answer:
    """Send one unary request to the model whose answers Triton caches.

    Raises:
        InferenceServerException: it failed.
    """
    return await _ask(client, CACHED, prompt)


async def _ask(client: aio.InferenceServerClient, model: str, prompt: str) -> Answer:
    result = await client.infer(
        model, [_text(prompt)], client_timeout=_DEADLINE, parameters={"name_instance": True}
    )
    answer = _answer(result, "answer")
    return Answer(f"{answer.text} {result.as_numpy('vector').tolist()}", answer.instance)


async def generate_faulty(client: aio.InferenceServerClient, prompt: str) -> Answer:
    """Run one generation of the model that misbehaves on order.

    Raises:
        InferenceServerException, AioRpcError: it failed, or ended before its last response.
    """
    request = {"model_name": FAULTY_STREAM, "inputs": [_text(prompt)],
               "parameters": {"name_instance": True}}  # fmt: skip
    return await _streamed(client, request, "answer")


async def _streamed(
    client: aio.InferenceServerClient, request: Mapping[str, Any], output: str = _OUTPUT
) -> Answer:
    """The text of all responses to one request."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {**request, "enable_empty_final_response": True}

    parts: list[Answer] = []
    over = False
    try:
        async for result, error in client.stream_infer(requests(), stream_timeout=_DEADLINE):
            if error:
                raise error
            parts.append(_answer(result, output))
            over = result.get_response().parameters["triton_final_response"].bool_param
    except grpc.aio.AioRpcError:
        if not over:
            raise
    # Read to its end: Triton may leak a stream that is cancelled right after its last response.
    if not over:
        raise InferenceServerException("the stream ended before its last response", "CUT")
    named = [part.instance for part in parts if part.instance] or [""]
    return Answer("".join(part.text for part in parts), named[-1], named[0])


async def right_answers(
    reference: str, questions: Sequence[Question] = (ask, generate)
) -> RightAnswers:
    """The text of each question's answer, from the Triton at a host:port that counts as right.

    Raises:
        InferenceServerException, AioRpcError: it does not answer.
    """
    asked = [(question, prompt) for question in questions for prompt in PROMPTS]
    async with aio.InferenceServerClient(reference) as client:
        answers = await asyncio.gather(*(question(client, prompt) for question, prompt in asked))
    return {key: answer.text for key, answer in zip(asked, answers, strict=True)}


def complaint(error: Exception) -> str:
    """The code and the message of a request's error."""
    # tritonclient wraps gRPC's errors, except those of a stream.
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code()}: {error.details()}"
    if isinstance(error, InferenceServerException):
        return f"{error.status()}: {error.message()}"
    return str(error)


def _inputs(
    prompt: str, sampling: Mapping[str, object], *, stream: bool = False
) -> list[aio.InferInput]:
    values = {
        "text_input": np.array([prompt.encode()], dtype=np.object_),
        "sampling_parameters": np.array([json.dumps(sampling).encode()], dtype=np.object_),
    }
    if stream:
        values["stream"] = np.array([True])
    return [_tensor(name, value) for name, value in values.items()]


def _text(prompt: str) -> aio.InferInput:
    return _tensor("text", np.array([prompt.encode()], dtype=np.object_))


def _tensor(name: str, value: Any) -> aio.InferInput:
    tensor = aio.InferInput(name, [1], "BOOL" if value.dtype == np.bool_ else "BYTES")
    tensor.set_data_from_numpy(value)
    return tensor


def _answer(result: Any, name: str = _OUTPUT) -> Answer:
    """One response: its text, and the instance if a second element names it."""
    output = result.as_numpy(name)
    said = [] if output is None else [element.decode() for element in output.flat]
    return Answer("".join(said[:1]), "".join(said[1:2]))
