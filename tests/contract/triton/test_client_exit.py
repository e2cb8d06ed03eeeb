"""A Triton that was told to stop says so while it has requests; what keeps it from ending."""

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


async def for_ever(call: Callable[[float], Awaitable[object]]) -> None:
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


async def test_a_triton_that_stops_gracefully_says_so_and_finishes_its_requests(
    server: TritonServer,
) -> None:
    async with Triton(server.grpc) as door, asyncio.timeout(2 * LONG):
        stream = asyncio.create_task(door.infer(STREAM, LONG))
        while not any(each.executions for each in await door.statistics(LONG)):
            await asyncio.sleep(0.1)
        server.process.signal(signal.SIGTERM)
        for call in (door.server_live, door.server_ready):
            with pytest.raises(Exiting, match="UNAVAILABLE: Server exiting"):
                await for_ever(call)
        assert (await stream).responses == 1
        with pytest.raises(Unavailable, match=r"refused|reset"):  # while it closes
            await for_ever(door.connect)


async def test_finished_streams_are_released(chat: TritonServer) -> None:
    """Triton keeps a stream that is cancelled right after its last response, and so its model."""
    async with Triton(chat.grpc) as door:
        await asyncio.gather(*(_asked(door) for _ in range(16)))
        chat.process.signal(signal.SIGTERM)
        assert await chat.ended() == 0


async def test_streams_that_ended_and_streams_that_were_cancelled_are_let_go_of(
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


async def test_a_stream_that_its_client_keeps_open_keeps_its_model(chat: TritonServer) -> None:
    """Though all requests on it are over."""
    async with grpc.aio.insecure_channel(chat.grpc) as channel, Triton(chat.grpc) as door:
        stream = await _opened(channel, _chat(2))
        await _answered(stream)
        await door.unload_model("tinychat", LONG)
        await door.unload_model("counter", LONG)
        await _unloaded(door, "counter")
        assert (await _states(door))["tinychat"] == "UNLOADING"
        await stream.done_writing()
        await _unloaded(door, "tinychat")


def _chat(tokens: int, milliseconds: int = 5) -> InferenceRequest:
    given = {"max_tokens": tokens, "delay_ms": milliseconds}
    inputs = {
        "text_input": tensor("BYTES", [1], ["hello"]),
        "stream": tensor("BOOL", [1], [True]),
        "sampling_parameters": tensor("BYTES", [1], [json.dumps(given)]),
    }
    return InferenceRequest("tinychat", (inputs,), decoupled=True)


async def _asked(door: Triton) -> None:
    for _ in range(25):
        await door.infer(_chat(2, 1), LONG)
        with pytest.raises(Rejected):
            await door.infer(_chat(-1), LONG)


async def _opened(channel: grpc.aio.Channel, question: InferenceRequest) -> Any:
    """A stream with one request on it, of which the client's half is open."""
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


async def _states(door: Triton) -> dict[str, str]:
    return {each.name: each.state for each in await door.repository_index(LONG)}


async def _unloaded(door: Triton, model: str) -> None:
    while (await _states(door))[model] != "UNAVAILABLE":
        await asyncio.sleep(0.1)
