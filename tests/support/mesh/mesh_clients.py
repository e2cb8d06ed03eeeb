"""Clients of a mesh for what the steady load lacks: long, large, wrong and cancelled requests."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import aio

from sidecar.local.load import STREAM

_STATUS = health_pb2.HealthCheckResponse.ServingStatus


def question(prompt: str, **sampling: object) -> list[aio.InferInput]:
    """The inputs of tinychat and tinychat_unary; the same answer each time."""
    chosen = json.dumps({"temperature": 0, **sampling})
    return [text("text_input", prompt), text("sampling_parameters", chosen)]


def text(name: str, value: str) -> aio.InferInput:
    given = aio.InferInput(name, [1], "BYTES")
    given.set_data_from_numpy(np.array([value.encode()], dtype=np.object_))
    return given


def piecewise() -> aio.InferInput:
    """The input by which tinychat sends each word as soon as it has it."""
    given = aio.InferInput("stream", [1], "BOOL")
    given.set_data_from_numpy(np.array([True]))
    return given


def answer(result: Any) -> str:
    output = result.as_numpy("text_output")
    return "" if output is None else b"".join(output.flat).decode()


@dataclass
class Generation:
    """An answer of tinychat that is on its way; `error` says how it was cut short."""

    text: str = ""
    done: bool = False
    error: str = ""


@asynccontextmanager
async def generation(address: str, tokens: int, delay_ms: int) -> AsyncIterator[Generation]:
    """An answer that takes `tokens` times `delay_ms`; cancelled at the end of the context."""
    running = Generation()
    task = asyncio.create_task(_generate(address, running, tokens, delay_ms))
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _generate(address: str, running: Generation, tokens: int, delay_ms: int) -> None:
    inputs = question("The primary", max_tokens=tokens, delay_ms=delay_ms)
    try:
        async with aio.InferenceServerClient(address) as client:
            async for _, said, last in stream(client, {"": [*inputs, piecewise()]}):
                running.text += said
                if last:
                    running.done = True
                    return
        running.error = "the stream ended before its last response"
    except grpc.aio.AioRpcError as error:
        running.error = f"{error.code()}: {error.details()}"


async def stream(
    client: aio.InferenceServerClient, questions: Mapping[str, Sequence[aio.InferInput]]
) -> AsyncIterator[tuple[str, str, bool]]:
    """Ask tinychat several questions on one stream: question's name, text or error, if it is over.

    The stream ends when every question has had its last response.
    """
    open_ = set(questions)
    answered = asyncio.Event()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for name, inputs in questions.items():
            yield {"model_name": STREAM, "inputs": inputs, "request_id": name,
                   "enable_empty_final_response": True}  # fmt: skip
        await answered.wait()  # the client's half stays open, as an interactive one's does

    async for result, error in client.stream_infer(requests()):
        if error is not None:
            # An error in-band ends its question; only the responses say whose it was.
            yield "", str(error), True
            continue
        response = result.get_response()
        last = response.parameters["triton_final_response"].bool_param
        yield response.id, answer(result), last
        open_ -= {response.id} if last else set()
        if not open_:
            answered.set()


# --- grpc.health.v1 ---------------------------------------------------------------------------


async def check(address: str, service: str) -> str:
    """What a sidecar says to a Check: a serving status, or the status code of its refusal."""
    async with grpc.aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            said = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=30)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return str(_STATUS.Name(said.status))


@asynccontextmanager
async def watch(address: str, service: str) -> AsyncIterator[list[str]]:
    """All that a sidecar says to a Watch, and at last the status code with which it ended."""
    said: list[str] = []
    task = asyncio.create_task(_watch(address, service, said))
    try:
        yield said
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _watch(address: str, service: str, said: list[str]) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            async for update in health_pb2_grpc.HealthStub(channel).Watch(request):
                said.append(_STATUS.Name(update.status))  # noqa: PERF401 -- seen as it comes
        except grpc.aio.AioRpcError as error:
            said.append(error.code().name)
