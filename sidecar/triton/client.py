"""The client of Triton: the KServe v2 gRPC protocol, one channel, a deadline on every call.

Acts: asyncio, grpc, os, time, tritonclient.
"""

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Self

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sidecar.runtime.addresses import split_address
from sidecar.runtime.errors import (
    ConfigError,
    DeadlineExceeded,
    NotAdmitted,
    Refused,
    Rejected,
    SidecarError,
    Unavailable,
    Unimplemented,
    words,
)
from sidecar.runtime.threads import in_daemon_thread
from sidecar.triton import answers, grpc_errors, infer_requests, port_probe
from sidecar.triton.api import Answer, IndexEntry, InferenceRequest, ModelDescription, Statistics
from sidecar.triton.grpc_errors import parsed
from sidecar.triton.infer_requests import CorrelationIds
from sidecar.triton.partial_answer import PartialAnswer

MAX_ANSWER = 16 * 2**20  # bytes
_READ_HEADERS = 1.0  # seconds
_END_SEQUENCE = 1.0  # seconds to tell Triton that a failed sequence has ended
_END_STREAM = 1.0  # seconds for Triton to end a stream after its last response
_OPTIONS = (
    ("grpc.max_send_message_length", 2**31 - 1),
    # The next probe must reach a restarted Triton; gRPC's default back-off grows to 120 s.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # Triton runs alongside, whatever http_proxy says
)
# Seconds until gRPC tries to connect again, at most: the longest back-off and its jitter.
_RECONNECT = 0.75
Headers = Mapping[str, str]


def _no_headers() -> Headers:
    return {}


class Triton:
    """One Triton server; implements `TritonApi`. An async context manager.

    An answer of more than `max_answer` bytes, over all responses of a stream, raises
    `AnswerTooLarge`. `headers` reads the headers of every call: now, and again after Triton did not
    admit one.

    Raises:
        ConfigError: the headers cannot be read.
    """

    def __init__(
        self,
        address: str,
        max_answer: int = MAX_ANSWER,
        headers: Callable[[], Headers] = _no_headers,
    ) -> None:
        self._read_headers = headers
        self._reading: asyncio.Future[Headers] | None = None
        self._metadata = tuple(headers().items())
        self._host, self._port = split_address(address)
        self._max_answer = max_answer
        options = (*_OPTIONS, ("grpc.max_receive_message_length", max_answer))
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._ids = CorrelationIds()
        self._background: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._background:
            await asyncio.wait(self._background)
        await self._channel.close(None)

    async def connect(self, timeout: float) -> None:
        """Open a TCP connection to the gRPC port and close it again."""
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except TimeoutError:
            raise DeadlineExceeded("no connection in time") from None
        except ConnectionRefusedError as error:
            raise Refused(os.strerror(errno.ECONNREFUSED)) from error
        except OSError as error:
            raise Unavailable(words(error)) from error
        writer.close()

    async def disconnected(self) -> None:
        """Return when an established connection is lost; never if there is none to lose."""
        state = self._channel.get_state()
        while True:
            was_ready = state is grpc.ChannelConnectivity.READY
            await self._channel.wait_for_state_change(state)
            if was_ready:
                return
            state = self._channel.get_state()

    async def server_live(self, timeout: float) -> bool:
        """Whether Triton reports itself live.

        If no connection could be made, it is tried again within the timeout: the failure may be
        that of an earlier attempt, which says nothing about the server that listens now.
        """
        until = time.monotonic() + timeout
        try:
            return await self._live(timeout)
        except DeadlineExceeded:
            raise
        except Unavailable as error:
            state = self._channel.get_state(try_to_connect=True)
            left = max(0.0, until - time.monotonic())
            if found := await port_probe.other_protocol(self._host, self._port, left):
                raise NotAdmitted(found) from error
            left = until - time.monotonic()
            if state is grpc.ChannelConnectivity.READY or not await self._connects(left):
                raise
        return await self._live(until - time.monotonic())

    async def _live(self, timeout: float) -> bool:
        request = service_pb2.ServerLiveRequest()
        return bool((await self._ask_server(self._stub.ServerLive, request, timeout)).live)

    async def _connects(self, timeout: float) -> bool:
        """Whether the next connection attempt succeeds within `timeout` seconds."""
        state = self._channel.get_state(try_to_connect=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(timeout, _RECONNECT)):
                while state is not grpc.ChannelConnectivity.READY:
                    await self._channel.wait_for_state_change(state)
                    state = self._channel.get_state(try_to_connect=True)
        return state is grpc.ChannelConnectivity.READY

    async def server_ready(self, timeout: float) -> bool:
        """Whether Triton reports itself ready."""
        request = service_pb2.ServerReadyRequest()
        return bool((await self._ask_server(self._stub.ServerReady, request, timeout)).ready)

    async def server_version(self, timeout: float) -> str:
        """Triton's version, such as `2.51.0`."""
        request = service_pb2.ServerMetadataRequest()
        return str((await self._call(self._stub.ServerMetadata, request, timeout)).version)

    async def model_ready(self, model: str, timeout: float, version: str = "") -> bool:
        """Whether Triton reports a model ready; False for a model that it does not know."""
        request = service_pb2.ModelReadyRequest(name=model, version=version)
        try:
            return bool((await self._call(self._stub.ModelReady, request, timeout)).ready)
        except NotAdmitted:
            raise
        except Rejected:
            return False

    async def describe(self, model: str, timeout: float) -> ModelDescription:
        """The versions, tensors and configuration of a loaded model."""
        until = time.monotonic() + timeout
        request = service_pb2.ModelMetadataRequest(name=model)
        metadata = await self._call(self._stub.ModelMetadata, request, timeout)
        config_request = service_pb2.ModelConfigRequest(name=model)
        left = until - time.monotonic()
        answer = await self._call(self._stub.ModelConfig, config_request, left)
        return answers.description(metadata, answer.config)

    async def infer(self, request: InferenceRequest, timeout: float) -> Answer:
        """Run one inference over gRPC, by the call that clients of such a model use.

        A stateful model gets a sequence with a correlation id out of `RESERVED_IDS`. If one of its
        steps fails, is late or is cancelled, the client ends the sequence in the background.
        """
        answer = PartialAnswer(self._max_answer)
        sequence = self._ids.draw(request)
        try:
            for step, message in enumerate(infer_requests.all_steps(request, sequence)):
                answer.next_step()
                left = timeout - answer.age()
                with grpc_errors.lost_slot_is_overload(step):
                    await self._infer_step(message, request.decoupled, left, answer)
        except BaseException:
            if sequence:
                self._in_background(self._end_sequence(request, sequence))
            raise
        return answer.answer()

    async def statistics(self, timeout: float) -> tuple[Statistics, ...]:
        """The counters of every version of every loaded model."""
        request = service_pb2.ModelStatisticsRequest()
        answer = await self._call(self._stub.ModelStatistics, request, timeout)
        return tuple(map(answers.statistics, answer.model_stats))

    async def load_model(self, model: str, timeout: float) -> None:
        """Load a model, or reload it if its files have changed; return when it is ready."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        await self._call(self._stub.RepositoryModelLoad, request, timeout)

    async def unload_model(self, model: str, timeout: float) -> None:
        """Begin to unload a model and the steps of an ensemble that nothing else needs."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        request.parameters["unload_dependents"].bool_param = True
        await self._call(self._stub.RepositoryModelUnload, request, timeout)

    async def repository_index(self, timeout: float) -> tuple[IndexEntry, ...]:
        """Every version of every model that Triton knows, and its state."""
        request = service_pb2.RepositoryIndexRequest()
        answer = await self._call(self._stub.RepositoryIndex, request, timeout)
        return tuple(
            IndexEntry(each.name, each.version, each.state, each.reason) for each in answer.models
        )

    async def _infer_step(
        self, message: Any, decoupled: bool, timeout: float, answer: PartialAnswer
    ) -> None:
        if not decoupled:
            answer.add(await self._call(self._stub.ModelInfer, message, timeout))
            return
        stream = self._stub.ModelStreamInfer(
            _once(message), timeout=max(0.0, timeout), metadata=self._metadata
        )
        last = False
        try:
            async for response in stream:
                found = parsed(response).infer_response
                last = found.parameters["triton_final_response"].bool_param
                if response.error_message:
                    raise grpc_errors.from_response(response.error_message)
                answer.add(found)
                if last:
                    return
        except grpc.RpcError as error:
            raise await self._translated(error) from error
        finally:
            if last:
                # Also on cancellation: the stream must neither stay open nor be cut at once.
                await asyncio.shield(self._in_background(_end(stream)))
            else:
                stream.cancel()

    async def _end_sequence(self, request: InferenceRequest, sequence: int | str) -> None:
        message = infer_requests.end_of_sequence(request, sequence)
        with suppress(SidecarError):  # Triton ends an idle sequence itself
            answer = PartialAnswer(self._max_answer)
            await self._infer_step(message, request.decoupled, _END_SEQUENCE, answer)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that closing the client waits for."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _call(self, method: Any, request: Any, timeout: float) -> Any:
        try:
            return parsed(await method(request, timeout=max(0.0, timeout), metadata=self._metadata))
        except grpc.RpcError as error:
            raise await self._translated(error) from error

    async def _ask_server(self, method: Any, request: Any, timeout: float) -> Any:
        """Call a method that every server of KServe's protocol implements."""
        try:
            return await self._call(method, request, timeout)
        except Unimplemented as error:
            raise NotAdmitted(f"{error}: expected Triton's gRPC service in triton.grpc") from error

    async def _translated(self, error: grpc.RpcError) -> SidecarError:
        """The error to raise; after a call that was not admitted, also reload the headers."""
        found = grpc_errors.translate(error)
        if not isinstance(found, NotAdmitted):
            return found
        try:
            if self._reading is None or self._reading.done():  # at most one hangs
                self._reading = in_daemon_thread(self._read_headers, "triton headers")
            headers = await asyncio.wait_for(asyncio.shield(self._reading), _READ_HEADERS)
        except TimeoutError:
            return NotAdmitted(f"{found}; reading triton.header_files takes long")
        except ConfigError as mistake:
            return NotAdmitted(f"{found}; {mistake}")
        self._metadata = tuple(headers.items())
        return found


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request


async def _end(stream: Any) -> None:
    """Let Triton end a stream after its last response; cancel the stream if that takes too long.

    A stream cancelled at that moment may stay in Triton forever and keep its model from being
    unloaded (docs/decisions/0062).
    """
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_STREAM):
                await stream.code()
    finally:
        stream.cancel()
