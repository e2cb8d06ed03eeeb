"""A Triton that stops while it has requests in flight, and what delays its exit."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sidecar.runtime.errors import Exiting, Rejected, Unavailable
from sidecar.triton.api import InferenceRequest
from sidecar.triton.client import Triton
from sidecar.triton.tensors import encode, tensor
from tests.support.triton_server import TritonServer

pytestmark = pytest.mark.contract
LONG = 60.0  # seconds; machines are shared
INPUTS = {"VALUE": tensor("INT32", [1, 1], [7]), "SECONDS": tensor("FP32", [1, 1], [10.0])}
STREAM = InferenceRequest("paused_stream", (INPUTS,), decoupled=True)
EXIT_TIMEOUT = ("--exit-timeout-secs=20",)
FINAL = "triton_final_response"


async def endless(call: Callable[[float], Awaitable[object]]) -> None:
    while True:
        await call(LONG)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TritonServer]:
    patient = ("--exit-timeout-secs=60",)
    with TritonServer.running(tmp_path, "paused_stream", options=patient) as found:
        yield found


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[TritonServer]:
    with TritonServer.running(tmp_path, "tinychat", "counter", options=EXIT_TIMEOUT) as found:
        yield found


async def test_a_stopping_triton_reports_it_and_finishes_its_requests(
    server: TritonServer,
) -> None:
    async with Triton(server.grpc) as client, asyncio.timeout(2 * LONG):
        stream = asyncio.create_task(client.infer(STREAM, LONG))
        while not any(each.executions for each in await client.statistics(LONG)):
            await asyncio.sleep(0.1)
        server.process.signal(signal.SIGTERM)
        for call in (client.server_live, client.server_ready):
            with pytest.raises(Exiting, match="UNAVAILABLE: Server exiting"):
                await endless(call)
        assert (await stream).responses == 1
        with pytest.raises(Unavailable, match=r"refused|reset"):  # while the server closes
            await endless(client.connect)


async def test_finished_streams_are_released(chat: TritonServer) -> None:
    """Triton leaks a stream that is cancelled right after its last response, and its model."""
    async with Triton(chat.grpc) as client:
        await asyncio.gather(*(_asked(client) for _ in range(16)))
        chat.process.signal(signal.SIGTERM)
        assert await chat.ended() == 0


async def test_ended_and_cancelled_streams_are_released(
    chat: TritonServer,
) -> None:
    async with grpc.aio.insecure_channel(chat.grpc) as channel:
        streams = [await _opened(channel, _chat(40, 25)) for _ in range(16)]
        await asyncio.gather(*(each.read() for each in streams))
        for each in streams[::2]:
            each.cancel()
        for each in streams[1::2]:
            await _answered(each)
            await each.done_writing()
        ends = [await each.code() for each in streams]
        assert ends == [grpc.StatusCode.CANCELLED, grpc.StatusCode.OK] * 8
        chat.process.signal(signal.SIGTERM)
        assert await chat.ended() == 0


async def test_a_stream_that_its_client_keeps_open_keeps_its_model_loaded(
    chat: TritonServer,
) -> None:
    """Even if all requests on it are done."""
    async with grpc.aio.insecure_channel(chat.grpc) as channel, Triton(chat.grpc) as client:
        stream = await _opened(channel, _chat(2))
        await _answered(stream)
        await client.unload_model("tinychat", LONG)
        await client.unload_model("counter", LONG)
        await _unloaded(client, "counter")
        assert (await _states(client))["tinychat"] == "UNLOADING"
        await stream.done_writing()
        await _unloaded(client, "tinychat")


def _chat(tokens: int, milliseconds: int = 5) -> InferenceRequest:
    given = {"max_tokens": tokens, "delay_ms": milliseconds}
    inputs = {
        "text_input": tensor("BYTES", [1], ["hello"]),
        "stream": tensor("BOOL", [1], [True]),
        "sampling_parameters": tensor("BYTES", [1], [json.dumps(given)]),
    }
    return InferenceRequest("tinychat", (inputs,), decoupled=True)


async def _asked(client: Triton) -> None:
    for _ in range(25):
        await client.infer(_chat(2, 1), LONG)
        with pytest.raises(Rejected):
            await client.infer(_chat(-1), LONG)


async def _opened(channel: grpc.aio.Channel, question: InferenceRequest) -> Any:
    """A stream with one request on it, half-open on the client's side."""
    request = service_pb2.ModelInferRequest(model_name=question.model)
    for name, given in question.steps[0].items():
        request.inputs.add(name=name, datatype=given.datatype, shape=given.array.shape)
        request.raw_input_contents.append(encode(given))
    stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
    await stream.write(request)
    return stream


async def _answered(stream: Any) -> None:
    while not (await stream.read()).infer_response.parameters[FINAL].bool_param:
        pass


async def _states(client: Triton) -> dict[str, str]:
    return {each.name: each.state for each in await client.repository_index(LONG)}


async def _unloaded(client: Triton, model: str) -> None:
    while (await _states(client))[model] != "UNAVAILABLE":
        await asyncio.sleep(0.1)
