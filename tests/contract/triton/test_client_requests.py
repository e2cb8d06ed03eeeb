"""The requests of the Triton client, and how it translates answers that no demo model gives."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sidecar.health.canary.definition import Canary
from sidecar.health.canary.expectations import Label, broken_by
from sidecar.runtime.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    Disabled,
    NotFound,
    Overloaded,
    Rejected,
    SidecarError,
    Unavailable,
    Unimplemented,
)
from sidecar.triton.api import InferenceRequest
from sidecar.triton.client import Triton
from sidecar.triton.infer_requests import RESERVED_IDS
from sidecar.triton.tensors import tensor
from tests.support.triton_server import TritonServer

LONG = 60.0
STEP = {"in": tensor("INT32", [1], [7])}


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Records its requests; `react` decides on the answer, by default an echo.

    Text is the error message of a stream's response.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.cancelled = asyncio.Event()
        # Set when a stream's last response has been sent; and whether the stream then ends.
        self.final, self.ends = asyncio.Event(), asyncio.Event()
        self.ends.set()
        self.react: Callable[[Any], Any] = response
        self.statistics = service_pb2.ModelStatisticsResponse()
        self.index = service_pb2.RepositoryIndexResponse()
        self.refusal = (grpc.StatusCode.INTERNAL, "failed to load 'm'")

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.asked.append(("unary", request))
        return await self._reaction(request, context)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            self.asked.append(("stream", request))
            found = await self._reaction(request, context)
            if isinstance(found, str):
                yield service_pb2.ModelStreamInferResponse(error_message=found)
                return
            for each in found if isinstance(found, list) else [found]:
                yield service_pb2.ModelStreamInferResponse(infer_response=each)
            yield service_pb2.ModelStreamInferResponse(infer_response=final())
            self.final.set()
            await self._waiting_for(self.ends)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        return self.statistics

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        await context.abort(*self.refusal)

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        self.asked.append(("unload", request))
        return service_pb2.RepositoryModelUnloadResponse()

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        return self.index

    async def _reaction(self, request: Any, context: Any) -> Any:
        found = self.react(request)
        if isinstance(found, grpc.StatusCode):
            await context.abort(found, "said so")
        if isinstance(found, tuple):
            await context.abort(*found)
        if isinstance(found, asyncio.Event):
            await self._waiting_for(found)
        return found

    async def _waiting_for(self, event: asyncio.Event) -> None:
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def sequences(self) -> list[tuple[str, int, bool, bool]]:
        """Call, correlation id, start and end of each request so far."""
        return [
            (
                call,
                request.parameters["sequence_id"].int64_param,
                request.parameters["sequence_start"].bool_param,
                request.parameters["sequence_end"].bool_param,
            )
            for call, request in self.asked
        ]


def response(request: Any, raw: bytes = b"\7\0\0\0") -> Any:
    message = service_pb2.ModelInferResponse(raw_output_contents=[raw])
    message.outputs.add(name="out", datatype="INT32", shape=[len(raw) // 4])
    return message


def final() -> Any:
    message = service_pb2.ModelInferResponse()
    message.parameters["triton_final_response"].bool_param = True
    return message


@asynccontextmanager
async def serving(max_answer: int = 2**20, port: int = 0) -> AsyncIterator[tuple[Servicer, Triton]]:
    server, servicer = grpc.aio.server(), Servicer()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        async with Triton(f"127.0.0.1:{port}", max_answer) as client:
            yield servicer, client
    finally:
        await server.stop(None)


@pytest.mark.parametrize("decoupled", [False, True])
async def test_version_and_priority_are_sent(decoupled: bool) -> None:
    async with serving() as (servicer, client):
        asked = InferenceRequest("m", (STEP,), version="3", decoupled=decoupled, priority=5)
        await client.infer(asked, LONG)
        await client.infer(InferenceRequest("m", (STEP,), decoupled=decoupled), LONG)
    (call, first), (_, second) = servicer.asked
    assert call == ("stream" if decoupled else "unary")
    assert (first.model_version, first.parameters["priority"].uint64_param) == ("3", 5)
    assert (second.model_version, "priority" in second.parameters) == ("", False)
    assert "sequence_id" not in second.parameters


@pytest.mark.parametrize("decoupled", [False, True])
async def test_a_sequence_has_a_string_id_only_if_the_model_declares_one(decoupled: bool) -> None:
    async with serving() as (servicer, client):
        for string_ids in (True, True, False):
            asked = InferenceRequest(
                "m", (STEP, STEP), decoupled=decoupled, stateful=True, string_ids=string_ids
            )
            await client.infer(asked, LONG)
        await client.infer(
            InferenceRequest("m", (STEP,), decoupled=decoupled, string_ids=True), LONG
        )
    ids = [request.parameters["sequence_id"] for _, request in servicer.asked[:6]]
    assert [each.WhichOneof("parameter_choice") for each in ids] == [
        *["string_param"] * 4, *["int64_param"] * 2
    ]  # fmt: skip
    first, again, second, *_ = [each.string_param for each in ids]
    assert first == again != second
    assert {len(first), len(second)} == {128}
    assert "sequence_id" not in servicer.asked[6][1].parameters


async def test_parameters_and_an_id_are_sent_with_each_step() -> None:
    given: dict[str, bool | int | float | str] = {
        "flag": True,
        "whole": -5,
        "real": 0.5,
        "text": "5",
    }
    async with serving() as (servicer, client):
        await client.infer(
            InferenceRequest("m", (STEP, STEP), stateful=True, parameters=given, id="probe"), LONG
        )
    for _, request in servicer.asked:
        sent = {
            name: getattr(request.parameters[name], kind)
            for name, kind in zip(
                given, ("bool_param", "int64_param", "double_param", "string_param"), strict=True
            )
        }
        assert (sent, request.id) == (given, "probe")


async def test_a_stream_without_a_response_is_an_empty_answer() -> None:
    async with serving() as (servicer, client):
        servicer.react = lambda _: []
        answer = await client.infer(InferenceRequest("m", (STEP,), decoupled=True), LONG)
    assert (answer.responses, answer.outputs) == (0, {})


@pytest.mark.parametrize("decoupled", [False, True])
async def test_the_steps_of_a_sequence_have_one_id_a_start_and_an_end(decoupled: bool) -> None:
    async with serving() as (servicer, client):
        question = InferenceRequest("m", (STEP, STEP, STEP), decoupled=decoupled, stateful=True)
        answer = await client.infer(question, LONG)
        await client.infer(InferenceRequest("m", (STEP,), stateful=True), LONG)
    *whole, (_, other, *flags) = servicer.sequences()
    (sequence,) = {each[1] for each in whole}
    assert sequence != other
    assert {sequence, other} <= set(RESERVED_IDS)
    call = "stream" if decoupled else "unary"
    assert [(each[0], *each[2:]) for each in whole] == [
        (call, True, False),
        (call, False, False),
        (call, False, True),
    ]
    assert flags == [True, True]
    assert answer.responses == 3
    assert answer.outputs["out"].array.tolist() == [7]


@pytest.mark.parametrize("decoupled", [False, True])
async def test_a_failed_sequence_is_ended_once(decoupled: bool) -> None:
    async with serving() as (servicer, client):
        servicer.react = lambda _: grpc.StatusCode.INTERNAL
        question = InferenceRequest("m", (STEP, STEP), decoupled=decoupled, stateful=True)
        with pytest.raises(Rejected, match="said so"):
            await client.infer(question, LONG)
    call = "stream" if decoupled else "unary"
    (_, sequence, *_), (_, again, *_) = servicer.sequences()
    assert sequence == again
    assert [(each[0], *each[2:]) for each in servicer.sequences()] == [
        (call, True, False),
        (call, False, True),
    ]


@pytest.mark.parametrize("decoupled", [False, True])
async def test_a_cancelled_request_cancels_its_call(decoupled: bool) -> None:
    async with serving() as (servicer, client):
        servicer.react = lambda _: asyncio.Event()
        asking = asyncio.create_task(
            client.infer(InferenceRequest("m", (STEP,), decoupled=decoupled), LONG)
        )
        async with asyncio.timeout(LONG):
            while not servicer.asked:
                await asyncio.sleep(0.01)
            asking.cancel()
            await servicer.cancelled.wait()
        await asyncio.wait({asking})
        assert asking.cancelled()


@pytest.mark.parametrize("ends", [False, True])
async def test_cancellation_after_the_last_response_leaves_no_open_stream(ends: bool) -> None:
    """The stream gets time to end first, because Triton may leak one that is cancelled then."""
    async with serving() as (servicer, client):
        servicer.ends.clear()
        asking = asyncio.create_task(
            client.infer(InferenceRequest("m", (STEP,), decoupled=True), 2 * LONG)
        )
        async with asyncio.timeout(LONG):
            await servicer.final.wait()
            await client.statistics(LONG)  # arrives later on the same connection
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
            if ends:
                await client.statistics(LONG)  # a cancellation would arrive before
                servicer.ends.set()
        assert asking.cancelled()
        if not ends:
            async with asyncio.timeout(LONG):
                await servicer.cancelled.wait()
    assert servicer.cancelled.is_set() is not ends


@pytest.mark.parametrize("decoupled", [False, True])
async def test_a_deadline_ends_the_call_and_the_wait(decoupled: bool) -> None:
    async with serving() as (servicer, client):
        servicer.react = lambda _: asyncio.Event()
        with pytest.raises(DeadlineExceeded):
            await client.infer(InferenceRequest("m", (STEP,), decoupled=decoupled), 0.2)
        async with asyncio.timeout(LONG):
            await servicer.cancelled.wait()


async def test_the_size_limit_applies_to_a_message_and_to_a_whole_stream() -> None:
    async with serving(max_answer=1000) as (servicer, client):
        servicer.react = lambda request: response(request, bytes(4000))
        with pytest.raises(AnswerTooLarge):
            await client.infer(InferenceRequest("m", (STEP,)), LONG)
        servicer.react = lambda request: [response(request, bytes(400))] * 2
        answer = await client.infer(InferenceRequest("m", (STEP,), decoupled=True), LONG)
        assert answer.outputs["out"].array.tolist() == [0] * 200
        servicer.react = lambda request: [response(request, bytes(400))] * 3
        with pytest.raises(AnswerTooLarge):
            await client.infer(InferenceRequest("m", (STEP,), decoupled=True), LONG)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.INVALID_ARGUMENT, Rejected),
        (grpc.StatusCode.INTERNAL, Rejected),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Rejected),
        (grpc.StatusCode.UNIMPLEMENTED, Unimplemented),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.CANCELLED, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
    ],
)
async def test_each_grpc_status_is_translated_into_an_error(
    status: grpc.StatusCode, error: type[SidecarError]
) -> None:
    async with serving() as (servicer, client):
        servicer.react = lambda _: status
        for decoupled in (False, True):
            with pytest.raises(error) as caught:
                await client.infer(InferenceRequest("m", (STEP,), decoupled=decoupled), LONG)
            assert type(caught.value) is error


@pytest.mark.parametrize("words", ["Exceeds maximum queue size", "Request timeout expired"])
async def test_a_full_queue_has_its_own_error(words: str) -> None:
    """As Triton reports it: for a stream in a response, without a status."""
    async with serving() as (servicer, client):
        servicer.react = lambda _: (grpc.StatusCode.UNAVAILABLE, f"[request id: x] {words}")
        with pytest.raises(Overloaded):
            await client.infer(InferenceRequest("m", (STEP,)), LONG)
        servicer.react = lambda _: f"[request id: x] {words}"
        with pytest.raises(Overloaded):
            await client.infer(InferenceRequest("m", (STEP,), decoupled=True), LONG)
        servicer.react = lambda _: "stub is dead"
        with pytest.raises(Rejected):
            await client.infer(InferenceRequest("m", (STEP,), decoupled=True), LONG)


async def test_a_sequence_that_lost_its_slot_is_an_overload_error() -> None:
    said = "inference request for sequence 7 must specify the START flag on the first request"
    async with serving() as (servicer, client):
        steps = InferenceRequest("m", (STEP, STEP), stateful=True)

        def react(request: Any) -> Any:
            begins = request.parameters["sequence_start"].bool_param
            return response(request) if begins else (grpc.StatusCode.INVALID_ARGUMENT, said)

        servicer.react = react
        with pytest.raises(Overloaded):
            await client.infer(steps, LONG)
        servicer.react = lambda _: (grpc.StatusCode.INVALID_ARGUMENT, said)
        with pytest.raises(Rejected):
            await client.infer(steps, LONG)


async def test_statistics_are_in_seconds_and_count_every_response() -> None:
    async with serving() as (servicer, client):
        found = servicer.statistics.model_stats.add(
            name="m", version="2", inference_count=8, execution_count=4
        )
        counts = {"success": 3, "fail": 1, "queue": 4, "compute_input": 4, "compute_infer": 4}
        for name, count in counts.items():
            getattr(found.inference_stats, name).count = count
            getattr(found.inference_stats, name).ns = count * 10**9
        found.response_stats["0"].success.count = 5
        found.response_stats["1"].success.count = 2
        found.response_stats["1"].empty_response.count = 1
        (got,) = await client.statistics(LONG)
    assert (got.model, got.version, got.inferences, got.executions) == ("m", "2", 8, 4)
    assert (got.successes, got.failures, got.responses) == (3, 1, 8)
    assert (got.success_seconds, got.queue_seconds, got.compute_seconds) == (3.0, 4.0, 8.0)


@pytest.mark.parametrize(
    ("status", "words", "error"),
    [
        (grpc.StatusCode.INTERNAL, "failed to load 'm'", Rejected),
        (grpc.StatusCode.INVALID_ARGUMENT, "at least one version must be available", Rejected),
        # Triton's message in the modes `none` and `poll`.
        (
            grpc.StatusCode.UNAVAILABLE,
            "explicit model load / unload is not allowed if polling is enabled",
            Disabled,
        ),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", DeadlineExceeded),
    ],
)
async def test_the_error_of_a_failed_load_has_its_reason(
    status: grpc.StatusCode, words: str, error: type[SidecarError]
) -> None:
    async with serving() as (servicer, client):
        servicer.refusal = (status, words)
        with pytest.raises(error) as caught:
            await client.load_model("m", LONG)
    assert type(caught.value) is error
    assert words in str(caught.value)


async def test_an_ensemble_is_unloaded_with_the_steps_that_only_it_needs() -> None:
    async with serving() as (servicer, client):
        await client.unload_model("m", LONG)
    ((_, request),) = servicer.asked
    assert request.model_name == "m"
    assert request.parameters["unload_dependents"].bool_param


async def test_the_index_has_states_with_reasons() -> None:
    async with serving() as (servicer, client):
        servicer.index.models.add(name="m", version="2", state="READY")
        servicer.index.models.add(name="m", version="1", state="UNAVAILABLE", reason="unloaded")
        servicer.index.models.add(name="n")
        assert await client.repository_index(LONG) == (
            ("m", "2", "READY", ""),
            ("m", "1", "UNAVAILABLE", "unloaded"),
            ("n", "", "", ""),
        )


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
async def test_bytes_that_are_not_a_protobuf_message_are_rejected(method: str) -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        return b"\xff"

    async def stream(requests: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"\xff"

    handlers = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(unary),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(stream),
    }
    server = grpc.aio.server()
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Triton(f"127.0.0.1:{port}") as client:
            with pytest.raises(Rejected, match="cannot be decoded"):
                await client.infer(
                    InferenceRequest("m", (STEP,), decoupled="Stream" in method), LONG
                )
    finally:
        await server.stop(None)


async def test_a_class_is_requested_by_its_label(triton_server: TritonServer) -> None:
    inputs = {"text": tensor("BYTES", [1], ["ready, steady, ready"])}
    labelled = Canary("embedder", (inputs,), (Label("embedding", "none has a label"),))
    by_index = Canary("embedder", (inputs,), (Label("embedding", 137),))
    async with Triton(triton_server.grpc) as triton:
        described = await triton.describe("embedder", LONG)
        answer = await triton.infer(labelled.request(described), LONG)
        scores = await triton.infer(by_index.request(described), LONG)
    [best] = answer.outputs["embedding"].array.flat
    assert list(answer.outputs) == ["embedding"]
    index = int(best.decode().split(":")[1])
    assert broken_by([Label("embedding", index)], answer) is None
    given = scores.outputs["embedding"].array
    assert given[index] == given.max()
    assert broken_by([Label("embedding", int(given.argmax()))], scores) is None
    assert broken_by(labelled.expectations, answer) is not None


async def test_an_earlier_refused_connection_does_not_fail_a_request_after_the_server_started() -> (
    None
):
    """gRPC fails calls with the error of its last attempt until its next one, 0.5 s later."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with Triton(f"127.0.0.1:{port}") as client:
        for _ in range(5):
            with pytest.raises(Unavailable):
                await client.server_live(1.0)
        async with serving(port=port):
            await client.connect(LONG)
            assert await client.server_live(LONG)
